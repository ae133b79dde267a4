//! InternLM3: Llama with biases under other names, and a rotation that can be extended.

use crate::{
    AttentionSpec, DecoderSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults},
        ffn,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, head_dim: Some(128), ..DEFAULTS })?;
    let qkv_bias = config.flag(config.first_of(&["qkv_bias", "attention_bias"]), false)?;
    let bias = config.flag(config.first_of(&["bias", "mlp_bias"]), false)?;
    let attention = AttentionSpec { qkv_bias, o_bias: bias, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, bias)?), TensorNames::LLAMA))
}
