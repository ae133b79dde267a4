//! The header of a safetensors file: eight bytes of length, JSON, then the tensors' bytes without holes.
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Read},
};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

/// The format's own limit on the length of the JSON.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type, of which we use only the floats.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its first byte in the file.
    pub start: usize,
    /// Its size in bytes.
    pub len: usize,
}

/// A fault of the file, or of one tensor in it.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The tensor, when it is one's.
    pub tensor: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl Fault {
    fn of_file(message: String) -> Fault {
        Fault { tensor: None, message }
    }
}

/// The tensors of a file with these bytes, in the order of their bytes; every claim of the header is checked
/// against the real length.
pub(crate) fn parse(file: &[u8]) -> Result<Vec<Entry>, Fault> {
    let (header, data_start) = split(file).map_err(Fault::of_file)?;
    entries(header, data_start, file.len())
}

/// As [`parse`], of a file of `len` bytes of which only the header is read.
pub(crate) fn read(mut file: impl Read, len: u64) -> Result<Vec<Entry>, Fault> {
    let cannot = |error: io::Error| Fault::of_file(error.to_string());
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start).map_err(cannot)?;
    let length = start.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    file.take(length.min(MAX_HEADER_BYTES + 1)).read_to_end(&mut start).map_err(cannot)?;
    let (header, data_start) = split(&start).map_err(Fault::of_file)?;
    let len = usize::try_from(len).map_err(|error| Fault::of_file(error.to_string()))?;
    entries(header, data_start, len)
}

/// The tensors of a header, in a file of `file_len` bytes whose data starts at `data_start`.
fn entries(header: &[u8], data_start: usize, file_len: usize) -> Result<Vec<Entry>, Fault> {
    let Header(mut tensors) = serde_json::from_slice(header)
        .map_err(|error| Fault::of_file(format!("the header is not valid: {error}")))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    // A file may shrink after its length was asked for.
    let data_len = file_len.saturating_sub(data_start);
    let mut end_of_previous = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let len = check(&info, end_of_previous, data_len)
            .map_err(|message| Fault { tensor: Some(name.clone()), message })?;
        end_of_previous = info.data_offsets.1;
        let start = data_start + info.data_offsets.0;
        entries.push(Entry { name, dtype: info.dtype, shape: info.shape, start, len });
    }
    if end_of_previous != data_len {
        let message =
            format!("the tensors end at byte {end_of_previous} of the data, which has {data_len} bytes");
        return Err(Fault { tensor: None, message });
    }
    Ok(entries)
}

/// The JSON, and where the data starts.
fn split(file: &[u8]) -> Result<(&[u8], usize), String> {
    let truncated = || format!("truncated: {} bytes do not hold the header", file.len());
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(truncated)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!("the header claims {length} bytes, the limit is {MAX_HEADER_BYTES}"));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(truncated)?;
    Ok((header, 8 + header.len()))
}

/// Checks one tensor against its predecessor, its own shape and the data's real length; returns its size.
fn check(info: &TensorInfo, end_of_previous: usize, data_len: usize) -> Result<usize, String> {
    let (start, end) = info.data_offsets;
    let TensorInfo { dtype, shape, .. } = info;
    if end < start {
        return Err(format!("its bytes end ({end}) before they start ({start})"));
    }
    if end > data_len {
        return Err(format!("its bytes {start}..{end} lie outside the data, which has {data_len} bytes"));
    }
    if start < end_of_previous {
        return Err(format!("its bytes {start}..{end} overlap those of another tensor"));
    }
    if start > end_of_previous {
        return Err(format!("bytes {end_of_previous}..{start} before it belong to no tensor"));
    }
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
    match bits {
        Some(bits) if bits.is_multiple_of(8) && bits / 8 == end - start => Ok(end - start),
        _ => Err(format!("its {} bytes do not fit its type {dtype:?} and its shape {shape:?}", end - start)),
    }
}

/// The JSON object, in which no name may appear twice.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor).map(Header)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` appears twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match map.next_value() {
                Ok(info) => tensors.push((name, info)),
                Err(error) => return Err(A::Error::custom(format!("tensor `{name}`: {error}"))),
            }
        }
        Ok(tensors)
    }
}
