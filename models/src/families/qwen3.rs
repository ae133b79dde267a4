//! Qwen3 dense: a norm on each head of q and k, and a head width of its own.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        sliding,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { head_dim: Some(128), ..DEFAULTS })?;
    let bias = config.flag("attention_bias", false)?;
    let intermediate_size = config.count("intermediate_size", MAX_WIDTH)?;
    let layers = sliding::layer_by_layer(config, base.num_layers)?
        .into_iter()
        .map(|mask| LayerSpec {
            attention: AttentionSpec {
                qkv_bias: bias,
                o_bias: bias,
                qk_norm: true,
                mask,
                ..base.attention.clone()
            },
            ffn: FfnSpec::Dense { intermediate_size, bias: false },
        })
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
