//! Llama 1 to 3.3 and everything published as `LlamaForCausalLM`.

use crate::{
    AttentionSpec, DecoderSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS},
        ffn,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    let ffn = ffn::dense(config, config.flag("mlp_bias", false)?)?;
    Ok((base.uniform(attention, ffn), TensorNames::LLAMA))
}
