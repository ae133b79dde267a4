//! GGUF files: a whole model in one file, or in shards. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! Nothing of a model is written twice for it: the metadata are read as the config.json, generation_config.json,
//! tokenizer_config.json and tokenizer.json (or tokenizer.model) that they were made from, and the families, the tokenizers
//! and the templates read those. The tensors are a [`TensorSource`](crate::weights::TensorSource) under names of their own.

mod cursor;
mod fault;
mod file;
mod header;
mod shards;
#[cfg(test)]
mod tests;
mod types;
mod value;
