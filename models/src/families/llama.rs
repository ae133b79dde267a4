//! Llama 1 to 3.3 and everything published as `LlamaForCausalLM`.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError,
    config_json::ConfigJson,
    families::base::{Base, DEFAULTS, MAX_WIDTH},
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let bias = config.flag("attention_bias", false)?;
    let layer = LayerSpec {
        attention: AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() },
        ffn: FfnSpec::Dense {
            intermediate_size: config.count("intermediate_size", MAX_WIDTH)?,
            bias: config.flag("mlp_bias", false)?,
        },
    };
    let layers = vec![layer; base.num_layers];
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
