//! A checkpoint: memory-mapped safetensors files, and which of their tensors have been claimed.

mod pieces;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs, mem,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use mosu_kernels::{
    Bytes, DType, KernelError, Shape, Tensor,
    convert::{self, MXFP4_BLOCK},
};
use safetensors::tensor::Dtype;
use serde::Deserialize;

use crate::{
    LoadError, demo,
    safetensors_header::{self, Entry},
    source::{MAX_CONFIG_BYTES, ModelSource, open_regular},
    weights::{Pass, TensorSource, bytes_mut},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Rows and columns of an FP8 matrix that share a scale.
const FP8_BLOCK: usize = 128;

/// The tensors of one checkpoint, none of them read yet.
pub(crate) struct Checkpoint {
    /// What errors name when no file is to blame: the single file, or the index.
    file: PathBuf,
    shards: Vec<Shard>,
    tensors: HashMap<String, Stored>,
    /// The type that packed floats are unpacked to: bf16 where there are others of it.
    unpacked: DType,
    pass: Pass,
}

struct Shard {
    file: PathBuf,
    bytes: Bytes,
}

struct Stored {
    /// Its file, among the shards, and where in it; more than one where it lies in pieces.
    places: Vec<(usize, Entry)>,
    claimed: bool,
}

impl Shard {
    fn holds_pieces(&self) -> bool {
        self.file.file_name().and_then(OsStr::to_str).is_some_and(pieces::holds_pieces)
    }
}

impl Stored {
    /// The file that is to blame for it.
    fn shard<'a>(&self, shards: &'a [Shard]) -> Option<&'a Shard> {
        self.places.first().map(|(shard, _)| &shards[*shard])
    }
}

impl Checkpoint {
    /// Opens a model's `model.safetensors`, or the shards that its index names.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one, for whatever contradicts the real bytes.
    pub fn open(source: &ModelSource) -> Result<Checkpoint, LoadError> {
        let dir = match source {
            ModelSource::Directory(dir) => dir,
            ModelSource::Demo => {
                let file = source.path(SINGLE);
                let bytes = Bytes::Static(demo::weights());
                return Checkpoint::of_shards(file.clone(), vec![Shard { file, bytes }]);
            }
        };
        let single = dir.join(SINGLE);
        if let Some(bytes) = map(&single)? {
            return Checkpoint::of_shards(single.clone(), vec![Shard { file: single, bytes }]);
        }
        if let Some(index) = source.read(INDEX, MAX_CONFIG_BYTES)? {
            return Checkpoint::of_index(dir, &index);
        }
        let mut names: Vec<String> = files_of(dir).filter(|name| pieces::belongs_to_pieces(name)).collect();
        if names.is_empty() {
            return Err(LoadError::Missing { path: single, remedy: what_to_do_without_weights(dir) });
        }
        names.sort();
        let missing = |path: PathBuf| LoadError::Missing { path, remedy: "it was there a moment ago".into() };
        let shard = |name: &String| {
            let file = dir.join(name);
            let bytes = map(&file)?.ok_or_else(|| missing(file.clone()))?;
            Ok(Shard { file, bytes })
        };
        Checkpoint::of_shards(dir.into(), names.iter().map(shard).collect::<Result<_, LoadError>>()?)
    }

    fn of_index(dir: &Path, index: &[u8]) -> Result<Checkpoint, LoadError> {
        let weight_map = read_index(dir, index)?;
        let mut shards = Vec::new();
        for path in shard_paths(dir, &weight_map) {
            let bytes = map(&path)?.ok_or_else(|| missing_shard(&path))?;
            shards.push(Shard { file: path, bytes });
        }
        let checkpoint = Checkpoint::of_shards(dir.join(INDEX), shards)?;
        for (tensor, shard) in &weight_map {
            checkpoint.expect_in(tensor, shard)?;
        }
        Ok(checkpoint)
    }

    fn of_shards(file: PathBuf, shards: Vec<Shard>) -> Result<Checkpoint, LoadError> {
        let mut tensors: HashMap<String, Stored> = HashMap::new();
        for (index, shard) in shards.iter().enumerate() {
            let entries = safetensors_header::parse(shard.bytes.as_slice()).map_err(|fault| {
                LoadError::checkpoint(&shard.file, fault.tensor.as_deref(), fault.message)
            })?;
            for entry in entries {
                let new = || Stored { places: Vec::new(), claimed: false };
                let stored = tensors.entry(entry.name.clone()).or_insert_with(new);
                let first = stored.places.first().map(|(first, _)| &shards[*first]);
                if let Some(first) = first.filter(|first| !(first.holds_pieces() && shard.holds_pieces())) {
                    let message = format!("also in {}", first.file.display());
                    return Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message));
                }
                stored.places.push((index, entry));
            }
        }
        let mut entries = tensors.values().flat_map(|stored| &stored.places);
        let has_bf16 = entries.any(|(_, entry)| entry.dtype == Dtype::BF16);
        let unpacked = if has_bf16 { DType::BF16 } else { DType::F32 };
        Ok(Checkpoint { file, shards, tensors, unpacked, pass: Pass::Load })
    }

    /// Fails unless the index is right about a tensor.
    fn expect_in(&self, tensor: &str, shard: &str) -> Result<(), LoadError> {
        let found = self.tensors.get(tensor).and_then(|stored| stored.shard(&self.shards));
        let found = found.map(|shard| shard.file.as_path());
        if found.and_then(Path::file_name).is_some_and(|name| name == shard) {
            return Ok(());
        }
        Err(LoadError::checkpoint(&self.file, Some(tensor), format!("said to be in {shard}, but is not")))
    }

    /// The tensor's places, which from now on are claimed.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<(&Shard, &Entry)>, LoadError> {
        let Some(stored) = self.tensors.get_mut(name) else {
            let message = format!("not in the checkpoint, but config.json implies it, with shape {shape:?}");
            return Err(LoadError::checkpoint(&self.file, Some(name), message));
        };
        if mem::replace(&mut stored.claimed, true) {
            let file = stored.shard(&self.shards).map_or(&self.file, |shard| &shard.file);
            return Err(LoadError::checkpoint(file, Some(name), "claimed twice"));
        }
        Ok(stored.places.iter().map(|(shard, entry)| (&self.shards[*shard], entry)).collect())
    }

    /// The only place of a tensor whose shape is `shape` but for leading dimensions of 1.
    fn take_whole(&mut self, name: &str, shape: &[usize]) -> Result<(&Shard, &Entry), LoadError> {
        let file = self.file.clone();
        let places = self.take(name, shape)?;
        let &[(shard, entry)] = &places[..] else {
            return Err(LoadError::checkpoint(&file, Some(name), "lies in pieces in several files"));
        };
        check_shape(shard, entry, shape)?;
        Ok((shard, entry))
    }

    /// A tensor of bytes: the file's, and where it lies in them.
    fn take_bytes(&mut self, name: &str, shape: &[usize]) -> Result<(Bytes, Range<usize>), LoadError> {
        let (shard, entry) = self.take_whole(name, shape)?;
        if entry.dtype != Dtype::U8 {
            let message = format!("has type {:?}, expected U8", entry.dtype);
            return Err(LoadError::checkpoint(&shard.file, Some(name), message));
        }
        Ok((shard.bytes.clone(), entry.start..entry.start + entry.len))
    }

    /// An FP8 matrix, whose scales are in the tensor `<name>_scale_inv`.
    fn claim_fp8(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let dtype = self.unpacked;
        let (shard, entry) = self.take_whole(name, shape.dims())?;
        let (bytes, range) = (shard.bytes.clone(), entry.start..entry.start + entry.len);
        let &[rows, columns] = shape.dims() else {
            return Err(LoadError::checkpoint(&shard.file, Some(name), "is FP8, but not a matrix"));
        };
        let blocks = [rows.div_ceil(FP8_BLOCK), columns.div_ceil(FP8_BLOCK)];
        let scales = self.claim(&format!("{name}_scale_inv"), Shape::new(blocks))?;
        let fill = |tensor: &mut Tensor| {
            let (values, block) = (&bytes.as_slice()[range], [FP8_BLOCK; 2]);
            convert::fp8_e4m3(tensor.view_mut()?, values, scales.view(), block)
        };
        Ok(self.pass.filled(shape, dtype, fill)?)
    }
}

/// Fails unless a tensor's shape is `shape` but for leading dimensions of 1.
fn check_shape(shard: &Shard, entry: &Entry, shape: &[usize]) -> Result<(), LoadError> {
    let found = &entry.shape;
    let leading = found.len().saturating_sub(shape.len());
    if found.ends_with(shape) && found[..leading].iter().all(|dim| *dim == 1) {
        return Ok(());
    }
    let message = format!("has shape {found:?}, but config.json implies {shape:?}");
    Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message))
}

impl TensorSource for Checkpoint {
    fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        self.tensors.values_mut().for_each(|stored| stored.claimed = false);
        if pass == Pass::Load {
            self.shards.iter().for_each(|shard| start_reading(&shard.bytes));
        }
    }

    fn left_over(&self, is_ignored: &dyn Fn(&str) -> bool) -> Result<Vec<String>, LoadError> {
        let left = self.tensors.iter().filter(|(_, stored)| !stored.claimed);
        let (mut ignored, mut unknown): (Vec<_>, Vec<_>) = left.partition(|(name, _)| is_ignored(name));
        unknown.sort_by_key(|(name, _)| *name);
        if let Some((name, stored)) = unknown.first() {
            let others = unknown.len() - 1;
            let others = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            let message = format!("has no place in the model that config.json describes{others}");
            let file = stored.shard(&self.shards).map_or(&self.file, |shard| &shard.file);
            return Err(LoadError::checkpoint(file, Some(name), message));
        }
        ignored.sort_by_key(|(name, _)| *name);
        Ok(ignored.into_iter().map(|(name, _)| name.clone()).collect())
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let of_fp8 = |stored: &Stored| stored.places.iter().any(|(_, entry)| entry.dtype == Dtype::F8_E4M3);
        if self.tensors.get(name).is_some_and(of_fp8) {
            return self.claim_fp8(name, shape);
        }
        let pass = self.pass;
        let places = self.take(name, shape.dims())?;
        if let &[(shard, entry)] = &places[..] {
            check_shape(shard, entry, shape.dims())?;
            let dtype = float(shard, entry)?;
            return Ok(pass.in_place_or_copied(&shard.bytes, entry.start, shape, dtype)?);
        }
        let shapes: Vec<&[usize]> = places.iter().map(|(_, entry)| entry.shape.as_slice()).collect();
        let cut = pieces::cut_dimension(&shapes, shape.dims());
        let dtypes =
            places.iter().map(|(shard, entry)| float(shard, entry)).collect::<Result<Vec<_>, _>>()?;
        let (Some(cut), true) = (cut, dtypes.windows(2).all(|pair| pair[0] == pair[1])) else {
            let message = format!("its pieces {shapes:?} do not make the {shape} that config.json implies");
            return Err(LoadError::checkpoint(&self.file, Some(name), message));
        };
        if pass == Pass::Plan {
            return Ok(Tensor::planned(shape, dtypes[0])?);
        }
        let piece = |((shard, entry), dtype): (&(&Shard, &Entry), &DType)| match entry.shape[..] {
            [n] => pass.in_place_or_copied(&shard.bytes, entry.start, Shape::new([n]), *dtype),
            [n, k] => pass.in_place_or_copied(&shard.bytes, entry.start, Shape::new([n, k]), *dtype),
            _ => Tensor::zeros([0], *dtype),
        };
        let pieces: Vec<Tensor> = places.iter().zip(&dtypes).map(piece).collect::<Result<_, _>>()?;
        Ok(pieces::join(&pieces, shape, cut)?)
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let pass = self.pass;
        let shape: Vec<usize> = [count].iter().chain(piece.dims()).copied().collect();
        let (shard, entry) = self.take_whole(name, &shape)?;
        let dtype = float(shard, entry)?;
        let piece_bytes = entry.len / count;
        let start = |index| entry.start + index * piece_bytes;
        let pieces =
            (0..count).map(|index| pass.in_place_or_copied(&shard.bytes, start(index), piece, dtype));
        Ok(pieces.collect::<Result<_, _>>()?)
    }

    fn claim_mxfp4(
        &mut self,
        name: &str,
        count: usize,
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<Tensor>, LoadError> {
        let (pass, dtype, blocks) = (self.pass, self.unpacked, columns / MXFP4_BLOCK);
        let (of_scales, scales) = self.take_bytes(&format!("{name}_scales"), &[count, rows, blocks])?;
        let shape = [count, rows, blocks, MXFP4_BLOCK / 2];
        let (of_blocks, blocks) = self.take_bytes(&format!("{name}_blocks"), &shape)?;
        let (scales, blocks) = (&of_scales.as_slice()[scales], &of_blocks.as_slice()[blocks]);
        let (scale_bytes, block_bytes) = (scales.len() / count, blocks.len() / count);
        let unpack = |index: usize| {
            let blocks = &blocks[index * block_bytes..][..block_bytes];
            let scales = &scales[index * scale_bytes..][..scale_bytes];
            let fill = |tensor: &mut Tensor| convert::mxfp4(tensor.view_mut()?, blocks, scales);
            Ok(pass.filled([rows, columns].into(), dtype, fill)?)
        };
        (0..count).map(unpack).collect()
    }

    fn totals(&self) -> (usize, u64) {
        (
            self.tensors.len(),
            self.tensors.values().flat_map(|stored| &stored.places).map(|(_, entry)| entry.len as u64).sum(),
        )
    }

    fn file(&self) -> &Path {
        &self.file
    }
}

/// The headers of a checkpoint's files: each file's path and its tensors. Nothing but headers is read.
///
/// # Errors
/// As [`Checkpoint::open`], but for what no single file can tell.
pub(crate) fn headers(source: &ModelSource) -> Result<Vec<(PathBuf, Vec<Entry>)>, LoadError> {
    let fault = |file: &Path, fault: safetensors_header::Fault| {
        LoadError::checkpoint(file, fault.tensor.as_deref(), fault.message)
    };
    let ModelSource::Directory(dir) = source else {
        let file = source.path(SINGLE);
        let entries = safetensors_header::parse(demo::weights()).map_err(|found| fault(&file, found))?;
        return Ok(vec![(file, entries)]);
    };
    let paths = match source.read(INDEX, MAX_CONFIG_BYTES)? {
        Some(index) if !source.has(SINGLE) => shard_paths(dir, &read_index(dir, &index)?),
        _ => vec![dir.join(SINGLE)],
    };
    let read = |path: PathBuf| {
        let missing = || match source.has(INDEX) {
            true => missing_shard(&path),
            false => LoadError::Missing { path: path.clone(), remedy: what_to_do_without_weights(dir) },
        };
        let file = open_regular(&path)?.ok_or_else(missing)?;
        let len = file.metadata().map_err(|error| LoadError::io(&path, error))?.len();
        let entries = safetensors_header::read(file, len).map_err(|found| fault(&path, found))?;
        Ok((path, entries))
    };
    paths.into_iter().map(read).collect()
}

/// Tensors and the files they are in, as an index says; every file is a plain name.
fn read_index(dir: &Path, index: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let file = dir.join(INDEX);
    let Index { weight_map } = serde_json::from_slice(index)
        .map_err(|error| LoadError::malformed(&file, format!("not a valid index: {error}")))?;
    match weight_map.values().find(|name| !is_plain_file_name(name)) {
        Some(name) => {
            let message = format!("{name:?} is not the plain name of a file in the same directory");
            Err(LoadError::checkpoint(&file, None, message))
        }
        None => Ok(weight_map),
    }
}

fn shard_paths(dir: &Path, weight_map: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let names: BTreeSet<&String> = weight_map.values().collect();
    names.into_iter().map(|name| dir.join(name)).collect()
}

fn missing_shard(path: &Path) -> LoadError {
    LoadError::Missing { path: path.into(), remedy: format!("{INDEX} names it") }
}

/// The element type of a tensor, which must be a float that the ops know.
fn float(shard: &Shard, entry: &Entry) -> Result<DType, LoadError> {
    match entry.dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        other => {
            let message = format!("has type {other:?}; supported are F32, F16 and BF16");
            Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message))
        }
    }
}

impl Pass {
    /// The tensor that `fill` fills, in a pass for use.
    fn filled(
        self,
        shape: Shape,
        dtype: DType,
        fill: impl FnOnce(&mut Tensor) -> Result<(), KernelError>,
    ) -> Result<Tensor, KernelError> {
        if self == Pass::Plan {
            return Tensor::planned(shape, dtype);
        }
        let mut tensor = Tensor::zeros(shape, dtype)?;
        fill(&mut tensor)?;
        Ok(tensor)
    }

    /// The tensor at byte `start` in place; a copy only where the file does not align its elements.
    fn in_place_or_copied(
        self,
        bytes: &Bytes,
        start: usize,
        shape: Shape,
        dtype: DType,
    ) -> Result<Tensor, KernelError> {
        let data = &bytes.as_slice()[start..];
        if self == Pass::Load && (data.as_ptr() as usize).is_multiple_of(dtype.size()) {
            return Tensor::from_bytes(bytes.clone(), start, shape, dtype);
        }
        self.filled(shape, dtype, |tensor| {
            let tensor = bytes_mut(tensor)?;
            tensor.copy_from_slice(&data[..tensor.len()]);
            Ok(())
        })
    }
}

/// Maps a file into memory; `None` when there is none.
fn map(path: &Path) -> Result<Option<Bytes>, LoadError> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    // SAFETY: the map is only ever read. Whoever truncates a model's file while it is in use ends the program, as
    // with any other program that maps its data; nothing else is assumed of the bytes than that they are bytes.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| LoadError::io(path, error))?;
    Ok(Some(Bytes::Mapped(Arc::new(map))))
}

/// Advice only: a file that is not in the page cache yet will be needed.
fn start_reading(bytes: &Bytes) {
    #[cfg(unix)]
    if let Bytes::Mapped(map) = bytes {
        let _ = map.advise(memmap2::Advice::WillNeed);
    }
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', '\0'])
}

/// Names of the files of a directory.
fn files_of(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn what_to_do_without_weights(dir: &Path) -> String {
    let has = |end: &str| files_of(dir).any(|name| name.ends_with(end));
    if has(".safetensors") {
        format!("there are other *.safetensors files, but no {INDEX} that says what is in them")
    } else if has(".bin") || has(".pth") || has(".pt") {
        "convert the PyTorch files with transformers' save_pretrained(..., safe_serialization=True)".into()
    } else if has(".gguf") {
        "GGUF is not supported; use the checkpoint in Hugging Face layout".into()
    } else {
        "a model directory has config.json and model.safetensors or its shards".into()
    }
}

#[cfg(test)]
mod tests;
