//! Qwen3 dense: a norm on each head of q and k, and a head width of its own.

use crate::{
    AttentionSpec, DecoderSpec, LoadError, QkNormSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, layer},
        ffn, masks,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { head_dim: Some(128), ..DEFAULTS })?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: Some(QkNormSpec::HEADS),
        ..base.attention.clone()
    };
    let ffn = ffn::dense(config, false)?;
    let layers = masks::layer_by_layer(config, base.num_layers)?
        .into_iter()
        .map(|mask| layer(AttentionSpec { mask, ..attention.clone() }, ffn.clone()))
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
