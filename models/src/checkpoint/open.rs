//! Opening a checkpoint: from its files to its tensors.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use mosu_kernels::{Bytes, DType};
use safetensors::tensor::Dtype;

use super::{
    Checkpoint, Shard, Stored,
    files::{Files, SINGLE, map},
};
use crate::{LoadError, ModelSource, Quantization, demo, safetensors_header, weights::Pass};

impl Checkpoint {
    /// Opens a model's `model.safetensors`, or the shards that its index names. What tensors there are, and in which of
    /// the files, their headers say; the index only helps to say where a missing one should be.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one, for whatever contradicts the real bytes.
    pub fn open(source: &ModelSource, quantization: Option<Quantization>) -> Result<Checkpoint, LoadError> {
        let dir = match source {
            ModelSource::Directory(dir) => dir,
            // A GGUF model is no checkpoint: nothing will be found there.
            ModelSource::Gguf(path) => path,
            ModelSource::Demo => {
                let file = source.path(SINGLE);
                let bytes = Bytes::Static(demo::weights());
                return Checkpoint::of_shards(file.clone(), vec![Shard { file, bytes }]);
            }
        };
        let files = Files::of(dir)?;
        let shards = files.open(map)?.into_iter().map(|(file, bytes)| Shard { file, bytes }).collect();
        Ok(Checkpoint { index: files.index, quantization, ..Checkpoint::of_shards(files.to_blame, shards)? })
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
                // Of a tensor in two files the last one counts, as in transformers.
                let in_pieces =
                    |(place, _): &(usize, _)| shards[*place].holds_pieces() && shard.holds_pieces();
                stored.places.retain(in_pieces);
                stored.places.push((index, entry));
            }
        }
        let mut entries = tensors.values().flat_map(|stored| &stored.places);
        let has_bf16 = entries.any(|(_, entry)| entry.dtype == Dtype::BF16);
        let compute = if has_bf16 { DType::BF16 } else { DType::F32 };
        let (index, quantization, pass) = (BTreeMap::new(), None, Pass::Load);
        Ok(Checkpoint { file, index, shards, tensors, compute, quantization, pass })
    }
}
