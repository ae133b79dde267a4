//! The table of families: which function reads the config.json of which architecture.
//!
//! A family is not a forward pass. It is a function from config.json to a [`DecoderSpec`] and the names that its
//! checkpoints give to the tensors.

mod base;
mod llama;
mod mistral;
mod mixtral;
mod moe;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod sliding;

use crate::{DecoderSpec, LoadError, config_json::ConfigJson, tensor_names::TensorNames};

/// What a family makes of a config.json.
pub(crate) struct Family {
    /// The architecture, as config.json spells it.
    pub architecture: &'static str,
    /// What is computed.
    pub spec: DecoderSpec,
    /// Where its weights are.
    pub names: TensorNames,
}

type ReadConfig = fn(&ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError>;

/// Architecture as in config.json's `architectures`, and the function that reads the rest of the file.
const FAMILIES: &[(&str, ReadConfig)] = &[
    ("LlamaForCausalLM", llama::read),
    ("MistralForCausalLM", mistral::read),
    ("MixtralForCausalLM", mixtral::read),
    ("Qwen2ForCausalLM", qwen2::read),
    ("Qwen3ForCausalLM", qwen3::read),
    ("Qwen3MoeForCausalLM", qwen3_moe::read),
];

/// Reads a config.json of any family.
///
/// # Errors
/// For an unknown architecture, and for every value that is missing, absurd or not supported.
pub(crate) fn read(config: &ConfigJson) -> Result<Family, LoadError> {
    let architectures = config.optional_texts("architectures")?.unwrap_or_default();
    let [name] = architectures[..] else {
        return Err(
            config.error("architectures", format!("expected one architecture, found {architectures:?}"))
        );
    };
    let Some((architecture, read)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
        return Err(LoadError::UnknownArchitecture {
            file: config.file().into(),
            name: name.into(),
            known: FAMILIES.iter().map(|(known, _)| *known).collect(),
        });
    };
    let (spec, names) = read(config)?;
    Ok(Family { architecture, spec, names })
}

#[cfg(test)]
mod tests;
