//! Mistral 7B, Nemo, Small: Llama with an optional sliding window on every layer.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError, Mask,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, MAX_WIDTH},
        sliding,
    },
    tensor_names::TensorNames,
};

/// transformers' window where config.json does not mention one; null turns it off.
const DEFAULT_WINDOW: usize = 4096;

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let mask = match config.contains("sliding_window") {
        true => sliding::every_layer(config)?,
        false => Mask::Sliding { window: DEFAULT_WINDOW },
    };
    let layer = LayerSpec {
        attention: AttentionSpec { mask, ..base.attention.clone() },
        ffn: FfnSpec::Dense { intermediate_size: config.count("intermediate_size", MAX_WIDTH)?, bias: false },
    };
    let layers = vec![layer; base.num_layers];
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
