//! Mistral 7B, Nemo, Small: Llama with an optional sliding window on every layer. Ministral 3: queries grow with their
//! position. Mistral 3 wraps either, or a vision tower beside them.

use crate::{
    AttentionSpec, DecoderSpec, LoadError, Temperature,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_POSITIONS},
        ffn, masks, wrapper,
    },
    tensor_names::TensorNames,
};

/// transformers' window where config.json does not mention one; null turns it off.
const DEFAULT_WINDOW: usize = 4096;

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let mask = masks::every_layer_or(config, DEFAULT_WINDOW)?;
    let attention = AttentionSpec { mask, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, false)?), TensorNames::LLAMA))
}

/// Ministral 3.
pub(super) fn read_ministral3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, rope_theta: 1e6, ..DEFAULTS })?;
    let section = config.section(config.first_of(&["rope_parameters", "rope_scaling"]))?;
    let temperature = match section {
        None => None,
        Some(section) => match section.number_unless_zero("llama_4_scaling_beta")? {
            None => None,
            Some(beta) => {
                let interval = section.count("original_max_position_embeddings", MAX_POSITIONS)? as f64;
                Some(Temperature::Steps { beta, interval, offset: 0.0 })
            }
        },
    };
    let mask = masks::every_layer(config)?;
    let attention = AttentionSpec { mask, temperature, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, false)?), TensorNames::LLAMA))
}

/// The text model of Mistral 3.
pub(super) fn read_mistral3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let text = wrapper::text_config(config)?;
    let (mut spec, names) = match text.optional_text("model_type")? {
        Some("ministral3") => read_ministral3(&text)?,
        _ => read(&text)?,
    };
    // The wrapper's word counts, not that of the text model.
    spec.head.tied = config.flag("tie_word_embeddings", spec.head.tied)?;
    Ok((spec, wrapper::below_language_model(names)))
}
