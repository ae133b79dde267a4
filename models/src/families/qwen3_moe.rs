//! Qwen3-MoE (30B-A3B, 235B-A22B, Coder): Qwen3's attention; most layers sparse, some may be dense.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, MAX_LAYERS, MAX_WIDTH},
        moe, sliding,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: true,
        mask: sliding::if_used(config)?,
        ..base.attention.clone()
    };
    let renormalize = config.flag("norm_topk_prob", false)?;
    let sparse = moe::read(config, config.count("moe_intermediate_size", MAX_WIDTH)?, renormalize)?;
    let dense =
        FfnSpec::Dense { intermediate_size: config.count("intermediate_size", MAX_WIDTH)?, bias: false };
    let mlp_only_layers = config.indices("mlp_only_layers")?;
    let sparse_step = config.optional_count("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
    let layers = (0..base.num_layers)
        .map(|layer| {
            let is_sparse = !mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(sparse_step);
            let ffn = if is_sparse { sparse.clone() } else { dense.clone() };
            LayerSpec { attention: attention.clone(), ffn }
        })
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}
