//! Small files written here, whole and spoilt.

mod shards;
mod vocabularies;

use super::{fault::Fault, header::Header};
use crate::LoadError;

/// A file as it is written.
#[derive(Clone)]
pub(super) struct Writer {
    version: u32,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Name, dimensions as the file has them, type, offset.
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    data: usize,
    alignment: usize,
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], bytes].concat()
}

fn list(kind: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
}

impl Writer {
    fn new() -> Writer {
        Writer { version: 3, pairs: Vec::new(), tensors: Vec::new(), data: 0, alignment: 32 }
    }

    fn pair(mut self, key: &str, value: Vec<u8>) -> Writer {
        self.pairs.push((key.into(), value));
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Writer {
        self.tensors.push((name.into(), dims.into(), kind, offset));
        self
    }

    fn data(self, bytes: usize) -> Writer {
        Writer { data: bytes, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.pairs.len() as u64].map(u64::to_le_bytes).concat();
        let mut file = [b"GGUF", &self.version.to_le_bytes()[..], &counts].concat();
        for (key, value) in &self.pairs {
            file.extend([text(key), value.clone()].concat());
        }
        for (name, dims, kind, offset) in &self.tensors {
            file.extend(text(name));
            file.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(self.alignment) + self.data, 7);
        file
    }

    fn read(&self) -> Result<Header, Fault> {
        Header::read(&self.bytes())
    }
}

/// A sound file with a value of each kind and three tensors.
fn sound() -> Writer {
    Writer::new()
        .pair("general.architecture", value(8, &text("llama".as_bytes())))
        .pair("u8", value(0, &[7]))
        .pair("i8", value(1, &[0xff]))
        .pair("u16", value(2, &7_u16.to_le_bytes()))
        .pair("i16", value(3, &(-2_i16).to_le_bytes()))
        .pair("u32", value(4, &7_u32.to_le_bytes()))
        .pair("i32", value(5, &(-7_i32).to_le_bytes()))
        .pair("f32", value(6, &0.5_f32.to_le_bytes()))
        .pair("bool", value(7, &[1]))
        .pair("texts", list(8, 2, &[text(b"a"), text("模".as_bytes())].concat()))
        .pair("flags", list(7, 3, &[0, 1, 1]))
        .pair("numbers", list(5, 2, &[1_i32, -1].map(i32::to_le_bytes).concat()))
        .pair("none", list(8, 0, &[]))
        .pair("u64", value(10, &u64::MAX.to_le_bytes()))
        .pair("i64", value(11, &i64::MIN.to_le_bytes()))
        .pair("f64", value(12, &0.25_f64.to_le_bytes()))
        .tensor("b", &[256, 2], 12, 32)
        .tensor("a", &[3, 2], 0, 0)
        .tensor("c", &[2], 30, 320)
        .data(324)
}

fn error(fault: Fault) -> String {
    let error: LoadError = fault.in_file("m.gguf".as_ref());
    error.to_string()
}

#[test]
fn a_sound_file_is_read() {
    let file = sound().bytes();
    let header = Header::read(&file).unwrap();
    let keys = ["bool", "f32", "f64", "flags", "general.architecture", "i16", "i32", "i64", "i8"];
    assert!(header.keys(&file).take(9).eq(keys), "in order");
    let shown = |key: &str| header.get(&file, key).map(|value| value.shown(&file)).unwrap_or_default();
    for (key, expected) in [
        ("general.architecture", "\"llama\""),
        ("u8", "7"),
        ("i8", "-1"),
        ("u16", "7"),
        ("i16", "-2"),
        ("u32", "7"),
        ("i32", "-7"),
        ("f32", "0.5"),
        ("bool", "true"),
        ("texts", "a list of 2"),
        ("u64", "18446744073709551615"),
        ("i64", "-9223372036854775808"),
        ("f64", "0.25"),
        ("gone", ""),
    ] {
        assert_eq!(shown(key), expected, "{key}");
    }
    let found: Vec<_> =
        header.tensors.iter().map(|t| (t.name(&file), t.shape(), t.ggml.name, t.len)).collect();
    let expected =
        [("a", vec![2, 3], "F32", 24), ("b", vec![2, 256], "Q4_K", 288), ("c", vec![2], "BF16", 4)];
    assert_eq!(found, expected);
    assert!(
        header.tensors.iter().all(|tensor| file[tensor.start..][..tensor.len].iter().all(|byte| *byte == 7))
    );
    assert!(header.tensors[0].has_shape(&[2, 3]) && !header.tensors[0].has_shape(&[3, 2]));
    assert!(header.tensors[2].has_shape(&[1, 2]) && !header.tensors[2].has_shape(&[2, 1]));
}

#[test]
fn alignment_is_what_the_file_says() {
    let aligned = |bytes: u32| {
        let pair = value(4, &bytes.to_le_bytes());
        let file = Writer::new().pair("general.alignment", pair);
        let file = file.tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 64).data(68);
        Writer { alignment: 64, ..file }.read()
    };
    aligned(64).unwrap();
    assert!(
        error(aligned(128).unwrap_err())
            .contains("tensor `b`: lies at byte 64 of the data, which is no multiple")
    );
    for wrong in [0, 3, 48] {
        let message = error(aligned(wrong).unwrap_err());
        assert!(message.contains("`general.alignment`: expected a power of two"), "{message}");
    }
}

#[test]
fn every_lie_is_named() {
    let one = |dims: &[u64], kind: u32, offset: u64| Writer::new().tensor("x", dims, kind, offset).data(64);
    let pair = |value: Vec<u8>| Writer::new().pair("k", value);
    let cases = [
        (
            Writer { version: 1, ..sound() },
            "m.gguf: version 1 of GGUF is not supported; supported are 2 and 3",
        ),
        (Writer { version: 4, ..sound() }, "version 4 of GGUF is not supported"),
        (Writer { version: 3_u32.swap_bytes(), ..sound() }, "a big-endian GGUF file is not supported"),
        (pair(value(13, &[])), "`k`: values of type 13 are not known"),
        (pair(value(7, &[2])), "`k`: expected 0 or 1 for false or true, found 2"),
        (pair(value(8, &text(b"\xff"))), "`k`: is a text that is not UTF-8"),
        (pair(list(8, 1, &text(b"\xff"))), "`k`: is a text that is not UTF-8"),
        (pair(list(7, 2, &[1, 2])), "`k`: has a flag that is neither 0 nor 1"),
        (pair(list(9, 1, &[0; 12])), "`k`: a list of lists is not supported"),
        (pair(list(0, u64::MAX, &[])), "`k`: truncated"),
        (pair(list(10, u64::MAX / 4, &[])), "`k`: truncated"),
        (pair(list(8, u64::MAX, &[])), "`k`: truncated"),
        (pair(value(8, &u64::MAX.to_le_bytes())), "`k`: truncated"),
        (pair(value(0, &[1])).pair("k", value(0, &[1])), "`k`: is there twice"),
        (Writer::new().pair("", value(0, &[1])), "the name of a key at byte 32 is empty"),
        (one(&[4], 0, 0).tensor("x", &[4], 0, 32), "tensor `x`: is there twice"),
        (one(&[], 0, 0), "tensor `x`: expected 1 to 4 dimensions"),
        (one(&[1; 5], 0, 0), "tensor `x`: expected 1 to 4 dimensions"),
        (one(&[4, 0], 0, 0), "tensor `x`: has a dimension of 0"),
        (one(&[4], 4, 0), "tensor `x`: has type 4, which is not known"),
        (one(&[255, 2], 12, 0), "tensor `x`: has rows of 255 elements, but type Q4_K has blocks of 256"),
        (one(&[1 << 40, 1 << 40], 0, 0), "tensor `x`: is larger than any memory"),
        (one(&[1 << 63, 2, 2], 0, 0), "tensor `x`: is larger than any memory"),
        (one(&[17], 0, 0), "tensor `x`: its 68 bytes at 0 lie outside the data, which has 64 bytes"),
        (one(&[4], 0, 64), "tensor `x`: its 16 bytes at 64 lie outside the data"),
        (one(&[4], 0, u64::MAX - 31), "tensor `x`: its 16 bytes at 18446744073709551584 lie outside"),
        (one(&[4], 0, 16), "tensor `x`: lies at byte 16 of the data, which is no multiple of 32"),
        (one(&[4], 0, 32), "tensor `x`: bytes 0..32 before it belong to no tensor"),
        (
            one(&[9], 0, 0).tensor("y", &[4], 0, 32),
            "tensor `y`: its bytes 32..48 overlap those of another tensor",
        ),
    ];
    for (file, expected) in cases {
        let message = error(file.read().unwrap_err());
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
    let magic = error(Header::read(b"GGML\x03\0\0\0").unwrap_err());
    assert!(magic.contains("not a GGUF file"), "{magic}");
}

/// Counts that the file's bytes cannot hold.
#[test]
fn counts_are_bounded_by_the_file() {
    for (place, what) in [(8, "tensors"), (16, "keys")] {
        let mut file = sound().bytes();
        for count in [u64::MAX, 1 << 40, 10_000] {
            file[place..place + 8].copy_from_slice(&count.to_le_bytes());
            let message = error(Header::read(&file).unwrap_err());
            assert!(message.contains(&format!("claims {count} {what}")), "{message}");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = sound().bytes();
    for end in 0..file.len() {
        assert!(Header::read(&file[..end]).is_err(), "{end}");
    }
    Header::read(&file).unwrap();
}

/// Whatever stands in the header, reading it ends in a header that fits the file, or in a fault.
#[test]
fn spoilt_headers_never_lead_outside_the_file() {
    let whole = sound().bytes();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut refused, mut read) = (0, 0);
    for _ in 0..20_000 {
        let mut file = whole.clone();
        for _ in 0..=random(3) {
            let at = random(file.len() - 324);
            file[at] = if random(2) == 0 { random(256) as u8 } else { file[at] ^ 1 << random(8) };
        }
        let Ok(header) = Header::read(&file) else {
            refused += 1;
            continue;
        };
        read += 1;
        for tensor in &header.tensors {
            assert!(file.get(tensor.start..tensor.start + tensor.len).is_some());
            assert!(tensor.start >= header.len && !tensor.name(&file).is_empty());
        }
        assert!(header.keys(&file).all(|key| header.get(&file, key).is_some()));
    }
    assert!(refused > 1000 && read > 1000, "{refused} refused, {read} read");
}

/// What byte-level vocabularies call a byte.
pub(super) fn byte_name(byte: u8) -> String {
    let is_itself = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..byte).filter(|other| !is_itself(*other)).count() as u32;
    let code = if is_itself(byte) { u32::from(byte) } else { 0x100 + others };
    char::from_u32(code).unwrap().into()
}
