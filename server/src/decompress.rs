//! The content encodings of a body, undone within a limit of size.

use std::io::{self, Read};

use axum::http::{HeaderMap, header};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    FrameDecoder, StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The memory of past text that a zstd body may ask for: RFC 9659 allows no more in HTTP.
const MAX_ZSTD_WINDOW: u64 = 8 << 20;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952, in one or several members.
    Gzip,
    /// RFC 8878, in one or several frames.
    Zstd,
}

/// What `content-encoding` may say.
const NAMES: [(&str, Encoding); 4] = [
    ("identity", Encoding::Identity),
    ("gzip", Encoding::Gzip),
    ("x-gzip", Encoding::Gzip),
    ("zstd", Encoding::Zstd),
];

/// The encodings that are understood, for `accept-encoding`.
pub const ACCEPTED: &str = "gzip, zstd";

impl Encoding {
    /// The one encoding that the headers name; `None` when it is another, or one of several.
    pub fn of(headers: &HeaderMap) -> Option<Encoding> {
        let mut sent = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(first) = sent.next() else { return Some(Encoding::Identity) };
        let name = first.to_str().ok().filter(|_| sent.next().is_none())?.trim();
        NAMES.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, encoding)| encoding)
    }

    /// The text of a body, of which no more than `limit` bytes and one are read.
    ///
    /// # Errors
    /// When the stream is broken.
    pub fn decode(self, body: Vec<u8>, limit: usize) -> io::Result<Vec<u8>> {
        let limit = limit as u64 + 1;
        match self {
            Encoding::Identity => Ok(body),
            Encoding::Gzip => {
                let mut text = Vec::new();
                MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut text)?;
                Ok(text)
            }
            Encoding::Zstd => decode_zstd(&body, limit),
        }
    }
}

fn decode_zstd(mut body: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_ZSTD_WINDOW);
    while !body.is_empty() && (text.len() as u64) < limit {
        match StreamingDecoder::new_with_decoder(&mut body, &mut decoder) {
            Ok(frame) => {
                // The library's errors are its own data structures.
                let taken = frame.take(limit - text.len() as u64).read_to_end(&mut text);
                taken.map_err(|_| invalid("a block of the stream is broken"))?;
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                body = body.get(length as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
                continue;
            }
            Err(_) => return Err(invalid("not a zstd stream")),
        }
        // A frame that was cut off by the limit has not come to its checksum.
        let expected = decoder.get_checksum_from_data();
        if decoder.is_finished() && expected.is_some() && expected != decoder.get_calculated_checksum() {
            return Err(invalid("the checksum does not match"));
        }
    }
    Ok(text)
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    type Encode = fn(&[u8]) -> Vec<u8>;

    const CODECS: [(Encoding, Encode); 2] = [(Encoding::Gzip, gzip), (Encoding::Zstd, zstd)];

    #[test]
    fn one_encoding_is_understood_in_any_case() {
        let of = |sent: &[&str]| {
            let sent =
                sent.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_str(value).unwrap()));
            Encoding::of(&sent.collect())
        };
        for (sent, encoding) in [
            (&[] as &[&str], Some(Encoding::Identity)),
            (&["identity"], Some(Encoding::Identity)),
            (&["gzip"], Some(Encoding::Gzip)),
            (&[" X-GZip "], Some(Encoding::Gzip)),
            (&["ZSTD"], Some(Encoding::Zstd)),
            (&["gzip, zstd"], None),
            (&["gzip", "gzip"], None),
            (&["br"], None),
            (&["deflate"], None),
            (&[""], None),
        ] {
            assert_eq!(of(sent), encoding, "{sent:?}");
        }
    }

    #[test]
    fn texts_come_back_in_one_part_or_several() {
        let text = "模速 is mosu. ".repeat(10_000).into_bytes();
        for (encoding, encode) in CODECS {
            for text in [&text[..], b"{}", b""] {
                assert_eq!(encoding.decode(encode(text), 1 << 20).unwrap(), text, "{encoding:?}");
            }
            let parts = [encode(b"one, "), encode(b""), encode(b"two")].concat();
            assert_eq!(encoding.decode(parts, 100).unwrap(), b"one, two");
        }
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(b"text")[..]].concat();
        assert_eq!(Encoding::Zstd.decode(skipped, 100).unwrap(), b"text");
    }

    #[test]
    fn a_bomb_is_read_to_the_limit_and_no_further() {
        for (encoding, encode) in CODECS {
            let bomb = encode(&vec![b' '; 10 << 20]);
            assert!(bomb.len() < 1 << 16, "{encoding:?}: {}", bomb.len());
            let text = encoding.decode(bomb.repeat(20), 1000).unwrap();
            assert_eq!((text.len(), text.capacity() < 1 << 16), (1001, true), "{encoding:?}");
        }
    }

    #[test]
    fn broken_streams_are_errors() {
        for (encoding, encode) in CODECS {
            let whole = encode(&(0..5000u32).flat_map(|n| (n * n).to_le_bytes()).collect::<Vec<_>>());
            assert!(encoding.decode(b"{}".to_vec(), 1 << 20).is_err(), "{encoding:?}");
            for end in [1, 3, 9, whole.len() / 2, whole.len() - 1] {
                assert!(encoding.decode(whole[..end].to_vec(), 1 << 20).is_err(), "{encoding:?} to {end}");
            }
            let mut damaged = whole.clone();
            damaged[whole.len() / 2] ^= 0x55;
            assert!(encoding.decode(damaged, 1 << 20).is_err(), "{encoding:?}");
            assert!(encoding.decode([&whole, &b"{}"[..]].concat(), 1 << 20).is_err(), "{encoding:?}");
        }
        // A frame that asks for a window of 16 MiB; and one that says to skip more than there is.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3, 1, 0, 0];
        assert!(Encoding::Zstd.decode(window.to_vec(), 100).is_err());
        assert!(Encoding::Zstd.decode(vec![0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255], 100).is_err());
    }
}
