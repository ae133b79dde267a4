//! Qwen 1.5, 2, 2.5 and QwQ: biases on q, k and v; the upper layers may slide.

use crate::{
    AttentionSpec, DecoderSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, layer},
        ffn, masks,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let ffn = ffn::dense(config, false)?;
    let layers = masks::layer_by_layer(config, base.num_layers)?
        .into_iter()
        .map(|mask| layer(AttentionSpec { qkv_bias: true, mask, ..base.attention.clone() }, ffn.clone()))
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
