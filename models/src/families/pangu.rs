//! openPangu-Embedded: Llama with biases in attention. Pangu Pro MoE: experts in groups, of each of which the best one
//! is visited, weighted by a learned factor. openPangu Ultra MoE: DeepSeek V3 with a norm behind each branch.

use mosu_kernels::ops::{AttentionMask, ExpertGroups, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LatentAttentionSpec, LoadError, Mixer, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        deepseek,
        ffn::{self, SOFTMAX},
        masks, qwen_moe,
    },
    tensor_names::TensorNames,
};

/// openPangu-Embedded.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, ..DEFAULTS })?;
    let bias = config.flag("bias", true)?;
    let qkv_bias = config.flag("qkv_bias", bias)?;
    let attention = AttentionSpec { qkv_bias, o_bias: bias, ..base.attention.clone() };
    let ffn = ffn::dense(config, config.flag("mlp_bias", false)?)?;
    Ok((base.uniform(attention, ffn), TensorNames::LLAMA))
}

/// Pangu Pro MoE.
pub(super) fn read_pro_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, ..DEFAULTS })?;
    let attention = AttentionSpec { qkv_bias: true, o_bias: true, ..base.attention.clone() };
    let moe = ffn::experts(config, config.count("moe_intermediate_size", MAX_WIDTH)?)?;
    let (experts, groups) = (moe.num_experts, moe.num_experts_per_tok);
    if !experts.is_multiple_of(groups) {
        let message = format!("expected a divisor of num_experts ({experts}), found {groups}");
        return Err(config.error("num_experts_per_tok", message));
    }
    let width = config.count("shared_expert_intermediate_size", MAX_WIDTH)?;
    let moe = MoeSpec {
        router: Router { groups: ExpertGroups::Each { groups }, ..SOFTMAX },
        expert_scale: true,
        shared: ffn::shared(ffn::gated(config, width, false)?),
        ..moe
    };
    Ok((base.uniform(attention, FfnSpec::Moe(moe)), qwen_moe::SHARED_NAMES))
}

/// openPangu Ultra MoE.
pub(super) fn read_ultra_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let unsupported = "windows are not supported for this architecture";
    if masks::every_layer(config)? != AttentionMask::Full {
        return Err(config.error("sliding_window", unsupported));
    }
    config.refuse("sliding_window_list", unsupported)?;
    let sparse_layers = deepseek::sparse_layers(config)?;
    let (mut spec, names) = deepseek::read_like_v3(config, 1e-5, sparse_layers)?;
    let post_norms = config.flag("sandwich_norm", false)?;
    let e_score_correction_bias = config.flag("router_enable_expert_bias", false)?;
    let norm_eps = spec.norm.eps;
    for layer in &mut spec.layers {
        layer.post_norms = post_norms;
        // The norms of the narrow layers are like all others.
        if let Mixer::LatentAttention(LatentAttentionSpec { low_rank_q, latent, .. }) = &mut layer.mixer {
            low_rank_q.iter_mut().chain([latent]).for_each(|low_rank| low_rank.norm_eps = norm_eps);
        }
        if let FfnSpec::Moe(moe) = &mut layer.ffn {
            moe.e_score_correction_bias = e_score_correction_bias;
        }
    }
    let names = match post_norms {
        true => TensorNames {
            mixer_post_norm: "post_attention_layernorm",
            ffn_norm: "pre_mlp_layernorm",
            ..names
        },
        false => names,
    };
    Ok((spec, names))
}
