//! Opening a checkpoint: from its files to its tensors.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use mosu_kernels::{Bytes, DType};
use safetensors::tensor::Dtype;

use super::{
    Checkpoint, Shard, Stored,
    files::{
        INDEX, SINGLE, files_of, map, missing_shard, read_index, shard_paths, what_to_do_without_weights,
    },
    pieces,
};
use crate::{
    LoadError, demo, safetensors_header,
    source::{MAX_CONFIG_BYTES, ModelSource},
    weights::Pass,
};

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
}
