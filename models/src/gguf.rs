//! GGUF files: a whole model in one file, or in shards. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! No family, tokenizer or template is written twice for it: metadata are read as the config.json, generation_config.json,
//! tokenizer_config.json and tokenizer.json (or tokenizer.model) that they were made from (`files.rs`), and whoever reads
//! those of a directory reads these. Tensors are claimed under names of their own (`names.rs`, `tensors.rs`). What converters
//! change in the weights, `family.rs` changes in the spec.

mod architectures;
mod bpe;
mod config;
mod cursor;
mod facts;
mod family;
mod fault;
mod file;
mod files;
mod header;
mod model;
mod names;
mod pieces;
mod pre_tokenizers;
mod rope;
mod shards;
mod special_tokens;
mod tensors;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::{collections::BTreeMap, path::Path};

pub(crate) use self::{
    files::{has, read},
    header::MAGIC,
    model::GgufModel,
    shards::{is_gguf, models_in, name},
    tensors::GgufTensors,
};
use crate::{LoadError, config_json::ConfigJson, families::Family};

/// The family of the model that a file is of, whose config.json is `config`.
pub(crate) fn read_family(path: &Path, config: &ConfigJson) -> Result<Family, LoadError> {
    family::read(&GgufModel::open(path)?, config)
}

/// How many files and tensors a model has, and their bytes by element type.
pub(crate) fn sizes(path: &Path) -> Result<(usize, usize, BTreeMap<String, u64>), LoadError> {
    let model = GgufModel::open(path)?;
    let tensors = || model.files().iter().flat_map(|file| &file.header.tensors);
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in tensors() {
        *bytes.entry(tensor.ggml.name.into()).or_default() += tensor.len as u64;
    }
    Ok((model.files().len(), tensors().count(), bytes))
}
