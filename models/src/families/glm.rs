//! Zhipu's GLM-4 (9B in the `-hf` layout), GLM-4-0414 and GLM-4.5 to 4.7: half of every head rotates. GLM-4.7-Flash has
//! DeepSeek V3's attention and experts instead.

use mosu_kernels::ops::RopeLayout;

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, QkNormSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_LAYERS, layer},
        deepseek, ffn,
    },
    tensor_names::{NetworkNames, TensorNames},
};

const GLM: Defaults = Defaults {
    norm_eps: 1.5625e-7,
    partial_rotary: Some(0.5),
    rope_layout: RopeLayout::Interleaved,
    head_dim: Some(128),
    ..DEFAULTS
};

const NAMES: TensorNames =
    TensorNames { dense: NetworkNames::fused("mlp.gate_up_proj", "mlp.down_proj"), ..TensorNames::LLAMA };

/// GLM-4.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &GLM)?;
    let qkv_bias = config.flag("attention_bias", true)?;
    let attention = AttentionSpec { qkv_bias, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, false)?), NAMES))
}

/// GLM-4-0414: one more norm behind each branch.
pub(super) fn read_0414(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let (mut spec, names) = read(config)?;
    spec.layers.iter_mut().for_each(|layer| layer.post_norms = true);
    Ok((spec, names))
}

/// GLM-4.5 to 4.7: sparse but for the first layers.
pub(super) fn read_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let defaults = Defaults { norm_eps: 1e-5, partial_rotary: Some(0.5), ..DEFAULTS };
    let base = Base::read(config, &defaults)?;
    let attention = AttentionSpec {
        qkv_bias: config.flag("attention_bias", false)?,
        qk_norm: config.flag("use_qk_norm", false)?.then_some(QkNormSpec::HEADS),
        ..base.attention.clone()
    };
    let (sparse, dense) = (FfnSpec::Moe(deepseek::experts_v3(config)?), ffn::dense(config, false)?);
    let first_sparse = config.index_or("first_k_dense_replace", MAX_LAYERS, 1)?;
    let layers = (0..base.num_layers)
        .map(|index| {
            layer(attention.clone(), if index < first_sparse { dense.clone() } else { sparse.clone() })
        })
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}

/// GLM-4.7-Flash.
pub(super) fn read_moe_lite(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let num_layers = config.count("num_hidden_layers", MAX_LAYERS)?;
    let num_dense = config.index_or("first_k_dense_replace", MAX_LAYERS, 1)?;
    deepseek::read_like_v3(config, 1e-5, ffn::sparse_layers(config, num_layers, num_dense)?)
}
