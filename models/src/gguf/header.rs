//! The header of a GGUF file: metadata and a list of tensors, each checked against the bytes that there are.
//!
//! It holds places in the file instead of copies, so that what it takes in memory is in proportion to the file's header
//! whatever its counts claim.

use std::ops::Range;

use super::{
    cursor::{Cursor, Truncated},
    fault::Fault,
    types::GgmlType,
    value::{self, Value},
};

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensors begin if `general.alignment` does not say.
const DEFAULT_ALIGNMENT: usize = 32;
const ALIGNMENT: &str = "general.alignment";
/// The format's own limit.
const MAX_DIMS: usize = 4;
/// The format's limit on the length of a key; names of tensors may be no longer here.
const MAX_NAME_BYTES: usize = (1 << 16) - 1;
/// The fewest bytes of a key with its value, and of a tensor's entry.
const MIN_PAIR_BYTES: usize = 13;
const MIN_TENSOR_BYTES: usize = 32;

/// What a file says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// In the order of the keys.
    pairs: Vec<(Range<usize>, Value)>,
    /// In the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Bytes before those of the tensors.
    pub len: usize,
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    name: Range<usize>,
    /// Its element type.
    pub ggml: GgmlType,
    dims: [usize; MAX_DIMS],
    rank: usize,
    /// Its first byte in the file.
    pub start: usize,
    /// Its size in bytes.
    pub len: usize,
}

impl TensorInfo {
    /// Its name.
    pub fn name<'f>(&self, file: &'f [u8]) -> &'f str {
        value::text(file, &self.name)
    }

    /// Its dimensions, outermost first; the file has them the other way round.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().take(self.rank).rev().copied().collect()
    }

    /// Whether its shape is this one; leading dimensions of 1 count as absent.
    pub fn has_shape(&self, shape: &[usize]) -> bool {
        let found = self.shape();
        let of_ones = |dims: &[usize]| dims.iter().take_while(|dim| **dim == 1).count();
        found.iter().skip(of_ones(&found)).eq(shape.iter().skip(of_ones(shape)))
    }
}

impl Header {
    /// Reads the header of a file with these bytes.
    pub fn read(file: &[u8]) -> Result<Header, Fault> {
        let mut cursor = Cursor::new(file, 0);
        let (num_tensors, num_pairs) = read_start(&mut cursor)?;
        let count = |count: u64, min_bytes: usize, what: &str| {
            let fits = |count: &usize| *count <= file.len() / min_bytes;
            let too_many = || Fault::of_file(format!("claims {count} {what}, more than its bytes can hold"));
            usize::try_from(count).ok().filter(fits).ok_or_else(too_many)
        };
        let num_pairs = count(num_pairs, MIN_PAIR_BYTES, "keys")?;
        let num_tensors = count(num_tensors, MIN_TENSOR_BYTES, "tensors")?;
        let mut header =
            Header { pairs: read_pairs(file, &mut cursor, num_pairs)?, tensors: Vec::new(), len: 0 };
        let alignment = header.alignment(file)?;
        for _ in 0..num_tensors {
            header.tensors.push(read_tensor(file, &mut cursor)?);
        }
        refuse_twins(file, &header.tensors)?;
        header.len = cursor.at().next_multiple_of(alignment);
        place(file, &mut header, alignment)?;
        Ok(header)
    }

    /// The value of a key.
    pub fn get(&self, file: &[u8], key: &str) -> Option<&Value> {
        let found = self.pairs.binary_search_by(|(place, _)| value::text(file, place).cmp(key)).ok()?;
        self.pairs.get(found).map(|(_, value)| value)
    }

    /// Every key, in order.
    pub fn keys<'f>(&self, file: &'f [u8]) -> impl Iterator<Item = &'f str> {
        self.pairs.iter().map(|(place, _)| value::text(file, place))
    }

    fn alignment(&self, file: &[u8]) -> Result<usize, Fault> {
        const MAX: i128 = 1 << 20;
        match self.get(file, ALIGNMENT) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Value::Whole(bytes @ 1..=MAX)) if bytes.count_ones() == 1 => {
                usize::try_from(*bytes).map_err(|error| Fault::of_key(ALIGNMENT, error.to_string()))
            }
            Some(other) => {
                let found = other.shown(file);
                Err(Fault::of_key(ALIGNMENT, format!("expected a power of two up to {MAX}, found {found}")))
            }
        }
    }
}

fn truncated(Truncated: Truncated) -> Fault {
    Fault::of_file("truncated: the file ends within its header")
}

/// Magic and version; how many tensors and keys there are.
fn read_start(cursor: &mut Cursor) -> Result<(u64, u64), Fault> {
    let magic: [u8; 4] = cursor.array().map_err(truncated)?;
    if magic != MAGIC {
        return Err(Fault::of_file("not a GGUF file: it does not begin with `GGUF`"));
    }
    match cursor.u32().map_err(truncated)? {
        2 | 3 => {}
        version if version != 0 && version.trailing_zeros() >= 16 => {
            return Err(Fault::of_file(
                "a big-endian GGUF file is not supported; convert it on this machine",
            ));
        }
        version => {
            let message =
                format!("version {version} of GGUF is not supported; supported are 2 and 3: convert it anew");
            return Err(Fault::of_file(message));
        }
    }
    let mut count = || cursor.u64().map_err(truncated);
    Ok((count()?, count()?))
}

/// A text that names something. `what` it names is for errors.
fn read_name(file: &[u8], cursor: &mut Cursor, what: &str) -> Result<Range<usize>, Fault> {
    let place = cursor.text().map_err(truncated)?;
    let bytes = file.get(place.clone()).unwrap_or_default();
    let fault =
        |message: &str| Fault::of_file(format!("the name of a {what} at byte {} {message}", place.start));
    match str::from_utf8(bytes) {
        Err(_) => Err(fault("is not UTF-8")),
        Ok("") => Err(fault("is empty")),
        Ok(name) if name.len() > MAX_NAME_BYTES => {
            Err(fault(&format!("is longer than {MAX_NAME_BYTES} bytes")))
        }
        Ok(_) => Ok(place),
    }
}

fn read_pairs(file: &[u8], cursor: &mut Cursor, count: usize) -> Result<Vec<(Range<usize>, Value)>, Fault> {
    // Not as many as the file claims: as many as there are.
    let mut pairs = Vec::new();
    for _ in 0..count {
        let key = read_name(file, cursor, "key")?;
        let value = Value::read(file, cursor, value::text(file, &key))?;
        pairs.push((key, value));
    }
    let key = |pair: &(Range<usize>, Value)| value::text(file, &pair.0);
    pairs.sort_unstable_by(|a, b| key(a).cmp(key(b)));
    match pairs.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
        Some(pair) => Err(Fault::of_key(key(&pair[0]), "is there twice")),
        None => Ok(pairs),
    }
}

/// A tensor's entry; its `start` is still an offset within the data.
fn read_tensor(file: &[u8], cursor: &mut Cursor) -> Result<TensorInfo, Fault> {
    let place = read_name(file, cursor, "tensor")?;
    let name = value::text(file, &place);
    let fault = |message: String| Fault::of_tensor(name, message);
    let rank = cursor.u32().map_err(truncated)?;
    let rank = usize::try_from(rank).ok().filter(|rank| (1..=MAX_DIMS).contains(rank));
    let rank = rank.ok_or_else(|| fault(format!("expected 1 to {MAX_DIMS} dimensions")))?;
    let mut dims = [1; MAX_DIMS];
    for dim in dims.iter_mut().take(rank) {
        let found = cursor.u64().map_err(truncated)?;
        *dim = usize::try_from(found).unwrap_or(0);
        if *dim == 0 {
            return Err(fault(format!("has a dimension of {found}")));
        }
    }
    let id = cursor.u32().map_err(truncated)?;
    let ggml = GgmlType::of(id).ok_or_else(|| fault(format!("has type {id}, which is not known")))?;
    let [columns, rows @ ..] = dims;
    let rows = rows.iter().try_fold(1_usize, |rows, dim| rows.checked_mul(*dim));
    let len = match rows.and_then(|rows| ggml.size(columns, rows)) {
        Some(len) => len,
        None if columns.is_multiple_of(ggml.block_elements) => {
            return Err(fault("is larger than any memory".into()));
        }
        None => {
            let (name, block) = (ggml.name, ggml.block_elements);
            return Err(fault(format!(
                "has rows of {columns} elements, but type {name} has blocks of {block}"
            )));
        }
    };
    let offset = cursor.u64().map_err(truncated)?;
    let start =
        usize::try_from(offset).map_err(|_| fault(format!("lies at {offset}, outside any memory")))?;
    Ok(TensorInfo { name: place, ggml, dims, rank, start, len })
}

fn refuse_twins(file: &[u8], tensors: &[TensorInfo]) -> Result<(), Fault> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name(file)).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::of_tensor(pair[0], "is there twice")),
        None => Ok(()),
    }
}

/// Orders the tensors by their bytes, which must lie one behind the other, each aligned, and in the file; from then on
/// `start` is a place in it.
fn place(file: &[u8], header: &mut Header, alignment: usize) -> Result<(), Fault> {
    let data_len = file.len().saturating_sub(header.len);
    header.tensors.sort_by_key(|tensor| tensor.start);
    let mut next = 0;
    for tensor in &mut header.tensors {
        let (start, len) = (tensor.start, tensor.len);
        let fault = |message: String| Err(Fault::of_tensor(tensor.name(file), message));
        let end = start.checked_add(len).filter(|end| *end <= data_len);
        let Some(end) = end else {
            return fault(format!(
                "its {len} bytes at {start} lie outside the data, which has {data_len} bytes"
            ));
        };
        if !start.is_multiple_of(alignment) {
            return fault(format!("lies at byte {start} of the data, which is no multiple of {alignment}"));
        }
        if start < next {
            return fault(format!("its bytes {start}..{end} overlap those of another tensor"));
        }
        if start > next {
            return fault(format!("bytes {next}..{start} before it belong to no tensor"));
        }
        next = end.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        tensor.start = header.len + start;
    }
    Ok(())
}
