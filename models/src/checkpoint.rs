//! A checkpoint: memory-mapped safetensors files, and which of their tensors have been claimed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, mem,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use mosu_kernels::{Bytes, DType, KernelError, Shape, Tensor};
use safetensors::tensor::Dtype;
use serde::Deserialize;

use crate::{
    LoadError, demo,
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

    /// Fails if a tensor is left over, unless its name ends in one of `ignored` or it is the output projection that a
    /// tied model does not need.
    pub fn finish(self, ignored: &[&str], tied_head: Option<&str>) -> Result<(), LoadError> {
        let is_ignored = |name: &str| {
            ignored.iter().any(|end| name.ends_with(end))
                || tied_head.is_some_and(|head| name.strip_suffix(".weight") == Some(head))
        };
        let unclaimed = |(name, stored): &(&String, &Stored)| !stored.claimed && !is_ignored(name);
        let count = self.tensors.iter().filter(unclaimed).count();
        let Some((name, stored)) = self.tensors.iter().filter(unclaimed).min_by_key(|(name, _)| *name) else {
            return Ok(());
        };
        let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let message = format!("has no place in the model that config.json describes{others}");
        Err(LoadError::checkpoint(&self.shards[stored.shard].file, Some(name), message))
    }
}

impl TensorSource for Checkpoint {
    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let Some(stored) = self.tensors.get_mut(name) else {
            let message = format!("not in the checkpoint, but config.json implies it, with shape {shape}");
            return Err(LoadError::checkpoint(&self.file, Some(name), message));
        };
        let shard = &self.shards[stored.shard];
        let error = |message| LoadError::checkpoint(&shard.file, Some(name), message);
        if mem::replace(&mut stored.claimed, true) {
            return Err(error("claimed twice".into()));
        }
        if stored.entry.shape != shape.dims() {
            let found = &stored.entry.shape;
            return Err(error(format!("has shape {found:?}, but config.json implies {shape}")));
        }
        let dtype = match stored.entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(error(format!("has type {other:?}; supported are F32, F16 and BF16"))),
        };
        Ok(in_place_or_copied(&shard.bytes, &stored.entry, shape, dtype)?)
    }

    fn totals(&self) -> (usize, u64) {
        (self.tensors.len(), self.tensors.values().map(|stored| stored.entry.len as u64).sum())
    }

    fn file(&self) -> &Path {
        &self.file
    }
}

/// The tensor in place; a copy only where the file does not align its elements.
fn in_place_or_copied(
    bytes: &Bytes,
    entry: &Entry,
    shape: Shape,
    dtype: DType,
) -> Result<Tensor, KernelError> {
    let data = &bytes.as_slice()[entry.start..entry.start + entry.len];
    if (data.as_ptr() as usize).is_multiple_of(dtype.size()) {
        return Tensor::from_bytes(bytes.clone(), entry.start, shape, dtype);
    }
    let mut tensor = Tensor::zeros(shape, dtype)?;
    bytes_mut(&mut tensor)?.copy_from_slice(data);
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
