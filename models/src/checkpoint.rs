//! A checkpoint: memory-mapped safetensors files, and which of their tensors have been claimed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, mem,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use mosu_kernels::{Bytes, DType, KernelError, Shape, Tensor};
use safetensors::tensor::Dtype;
use serde::Deserialize;

use crate::{
    LoadError, demo, mxfp4,
    safetensors_header::{self, Entry},
    source::{MAX_CONFIG_BYTES, ModelSource, open_regular},
    weights::{TensorSource, bytes_mut},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of one checkpoint, none of them read yet.
pub(crate) struct Checkpoint {
    /// What errors name when no file is to blame: the single file, or the index.
    file: PathBuf,
    shards: Vec<Shard>,
    tensors: HashMap<String, Stored>,
}

struct Shard {
    file: PathBuf,
    bytes: Bytes,
}

struct Stored {
    shard: usize,
    entry: Entry,
    claimed: bool,
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
        match source.read(INDEX, MAX_CONFIG_BYTES)? {
            Some(index) => Checkpoint::of_index(dir, &index),
            None => Err(LoadError::Missing { path: single, remedy: what_to_do_without_weights(dir) }),
        }
    }

    fn of_index(dir: &Path, index: &[u8]) -> Result<Checkpoint, LoadError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }

        let file = dir.join(INDEX);
        let Index { weight_map } = serde_json::from_slice(index)
            .map_err(|error| LoadError::malformed(&file, format!("not a valid index: {error}")))?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            if !is_plain_file_name(name) {
                let message = format!("{name:?} is not the plain name of a file in the same directory");
                return Err(LoadError::checkpoint(&file, None, message));
            }
            let path = dir.join(name);
            let remedy = || LoadError::Missing { path: path.clone(), remedy: format!("{INDEX} names it") };
            let bytes = map(&path)?.ok_or_else(remedy)?;
            shards.push(Shard { file: path, bytes });
        }
        let checkpoint = Checkpoint::of_shards(file, shards)?;
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
                if let Some(first) = tensors.get(&entry.name) {
                    let message = format!("also in {}", shards[first.shard].file.display());
                    return Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message));
                }
                tensors.insert(entry.name.clone(), Stored { shard: index, entry, claimed: false });
            }
        }
        Ok(Checkpoint { file, shards, tensors })
    }

    /// Fails unless the index is right about a tensor.
    fn expect_in(&self, tensor: &str, shard: &str) -> Result<(), LoadError> {
        let found = self.tensors.get(tensor).map(|stored| self.shards[stored.shard].file.as_path());
        if found.and_then(Path::file_name).is_some_and(|name| name == shard) {
            return Ok(());
        }
        Err(LoadError::checkpoint(&self.file, Some(tensor), format!("said to be in {shard}, but is not")))
    }

    /// Fails if a tensor is left over that `is_ignored` does not know. Returns the names of those it knows, in order.
    pub fn finish(self, is_ignored: impl Fn(&str) -> bool) -> Result<Vec<String>, LoadError> {
        let left = self.tensors.into_iter().filter(|(_, stored)| !stored.claimed);
        let (mut ignored, mut unknown): (Vec<_>, Vec<_>) = left.partition(|(name, _)| is_ignored(name));
        unknown.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some((name, stored)) = unknown.first() {
            let others = unknown.len() - 1;
            let others = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            let message = format!("has no place in the model that config.json describes{others}");
            return Err(LoadError::checkpoint(&self.shards[stored.shard].file, Some(name), message));
        }
        ignored.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(ignored.into_iter().map(|(name, _)| name).collect())
    }

    /// The tensor's place, which from now on is claimed; its shape is `shape` but for leading dimensions of 1.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<(&Shard, &Entry), LoadError> {
        let Some(stored) = self.tensors.get_mut(name) else {
            let message = format!("not in the checkpoint, but config.json implies it, with shape {shape:?}");
            return Err(LoadError::checkpoint(&self.file, Some(name), message));
        };
        let shard = &self.shards[stored.shard];
        let error = |message| LoadError::checkpoint(&shard.file, Some(name), message);
        if mem::replace(&mut stored.claimed, true) {
            return Err(error("claimed twice".into()));
        }
        let found = &stored.entry.shape;
        let leading_ones = found.len().saturating_sub(shape.len());
        let fits = found.ends_with(shape) && found[..leading_ones].iter().all(|dim| *dim == 1);
        if !fits {
            return Err(error(format!("has shape {found:?}, but config.json implies {shape:?}")));
        }
        Ok((shard, &stored.entry))
    }

    /// A tensor of bytes: the file's, and where it lies in them.
    fn take_bytes(&mut self, name: &str, shape: &[usize]) -> Result<(Bytes, Range<usize>), LoadError> {
        let (shard, entry) = self.take(name, shape)?;
        if entry.dtype != Dtype::U8 {
            let message = format!("has type {:?}, expected U8", entry.dtype);
            return Err(LoadError::checkpoint(&shard.file, Some(name), message));
        }
        Ok((shard.bytes.clone(), entry.start..entry.start + entry.len))
    }
}

impl TensorSource for Checkpoint {
    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let (shard, entry) = self.take(name, shape.dims())?;
        let dtype = float(shard, entry)?;
        Ok(in_place_or_copied(&shard.bytes, entry.start, shape, dtype)?)
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let shape: Vec<usize> = [count].iter().chain(piece.dims()).copied().collect();
        let (shard, entry) = self.take(name, &shape)?;
        let dtype = float(shard, entry)?;
        let piece_bytes = entry.len / count;
        let start = |index| entry.start + index * piece_bytes;
        let pieces = (0..count).map(|index| in_place_or_copied(&shard.bytes, start(index), piece, dtype));
        Ok(pieces.collect::<Result<_, _>>()?)
    }

    fn claim_mxfp4(
        &mut self,
        name: &str,
        count: usize,
        [rows, columns]: [usize; 2],
        dtype: DType,
    ) -> Result<Vec<Tensor>, LoadError> {
        let blocks = columns / mxfp4::BLOCK;
        let of_scales = self.take_bytes(&format!("{name}_scales"), &[count, rows, blocks])?;
        let of_blocks =
            self.take_bytes(&format!("{name}_blocks"), &[count, rows, blocks, mxfp4::BLOCK / 2])?;
        let piece = |bytes: &(Bytes, Range<usize>), index: usize| {
            let (bytes, range) = (bytes.0.clone(), bytes.1.clone());
            let len = range.len() / count;
            (bytes, range.start + index * len..range.start + (index + 1) * len)
        };
        let unpack = |index| {
            let ((scales, of_scales), (blocks, of_blocks)) =
                (piece(&of_scales, index), piece(&of_blocks, index));
            let (scales, blocks) = (&scales.as_slice()[of_scales], &blocks.as_slice()[of_blocks]);
            Ok(mxfp4::unpack(blocks, scales, [rows, columns], dtype)?)
        };
        (0..count).map(unpack).collect()
    }

    fn totals(&self) -> (usize, u64) {
        (self.tensors.len(), self.tensors.values().map(|stored| stored.entry.len as u64).sum())
    }

    fn file(&self) -> &Path {
        &self.file
    }
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

/// The tensor at byte `start` in place; a copy only where the file does not align its elements.
fn in_place_or_copied(
    bytes: &Bytes,
    start: usize,
    shape: Shape,
    dtype: DType,
) -> Result<Tensor, KernelError> {
    let data = &bytes.as_slice()[start..];
    if (data.as_ptr() as usize).is_multiple_of(dtype.size()) {
        return Tensor::from_bytes(bytes.clone(), start, shape, dtype);
    }
    let mut tensor = Tensor::zeros(shape, dtype)?;
    let len = tensor.size_in_bytes();
    bytes_mut(&mut tensor)?.copy_from_slice(&data[..len]);
    Ok(tensor)
}

/// Maps a file into memory; `None` when there is none.
fn map(path: &Path) -> Result<Option<Bytes>, LoadError> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    // SAFETY: the map is only ever read. Whoever truncates a model's file while it is in use ends the program, as
    // with any other program that maps its data; nothing else is assumed of the bytes than that they are bytes.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| LoadError::io(path, error))?;
    // Advice only: start reading a file that is not in the page cache yet.
    #[cfg(unix)]
    let _ = map.advise(memmap2::Advice::WillNeed);
    Ok(Some(Bytes::Mapped(Arc::new(map))))
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', '\0'])
}

fn what_to_do_without_weights(dir: &Path) -> String {
    let has = |end: &str| {
        let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.into_iter().any(|name| name.to_string_lossy().ends_with(end))
    };
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
