//! ERNIE 4.5: Llama with interleaved rotation. The sparse ones choose experts by softmax plus a learned bias.

use mosu_kernels::ops::{Renormalize, RopeLayout, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_LAYERS, MAX_WIDTH, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
    },
    tensor_names::TensorNames,
};

const ERNIE: Defaults = Defaults {
    norm_eps: 1e-5,
    rope_theta: 5e5,
    rope_layout: RopeLayout::Interleaved,
    tied: true,
    ..DEFAULTS
};

/// Dense: 0.3B.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { head_dim: Some(128), ..ERNIE })?;
    let bias = config.flag("use_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, bias)?), TensorNames::LLAMA))
}

/// Sparse: 21B-A3B, 300B-A47B.
pub(super) fn read_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &ERNIE)?;
    let bias = config.flag("use_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    let num_experts = config.count("moe_num_experts", MAX_EXPERTS)?;
    let chosen = config.optional_count("moe_k", num_experts)?.unwrap_or(6.min(num_experts));
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let least = config.number_or_zero("moe_norm_min")?.unwrap_or(1e-12) as f32;
    let num_shared = config.index_or("moe_num_shared_experts", MAX_EXPERTS, 2)?;
    let sparse = FfnSpec::Moe(MoeSpec {
        router: Router { renormalize: Renormalize::SumAtLeast(least), ..SOFTMAX },
        e_score_correction_bias: true,
        shared: match num_shared {
            0 => None,
            number => ffn::shared(ffn::gated(config, number * width, bias)?),
        },
        ..ffn::moe(config, num_experts, chosen, width)?
    });
    let dense = ffn::dense(config, bias)?;
    let start = config.index_or("moe_layer_start_index", MAX_LAYERS, 1)?;
    let interval = config.optional_count("moe_layer_interval", MAX_LAYERS)?.unwrap_or(1);
    let end = config.last_layer("moe_layer_end_index", base.num_layers)?;
    let layers = (0..base.num_layers)
        .map(|index| {
            let is_sparse = (start..=end).contains(&index) && (index + 1).is_multiple_of(interval);
            layer(attention.clone(), if is_sparse { sparse.clone() } else { dense.clone() })
        })
        .collect();
    let names = TensorNames {
        e_score_correction_bias: "mlp.moe_statics.e_score_correction_bias",
        ..TensorNames::LLAMA
    };
    Ok((base.decoder(layers), names))
}
