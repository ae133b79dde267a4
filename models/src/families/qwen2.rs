//! Qwen 1.5, 2, 2.5 and QwQ: biases on q, k and v; the upper layers may slide.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, MAX_WIDTH},
        sliding,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let intermediate_size = config.count("intermediate_size", MAX_WIDTH)?;
    let layers = sliding::layer_by_layer(config, base.num_layers)?
        .into_iter()
        .map(|mask| LayerSpec {
            attention: AttentionSpec { qkv_bias: true, mask, ..base.attention.clone() },
            ffn: FfnSpec::Dense { intermediate_size, bias: false },
        })
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
