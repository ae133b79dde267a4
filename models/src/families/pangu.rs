//! openPangu-Embedded: Llama with biases in attention. Pangu Pro MoE: experts in groups, of each of which the best one
//! is visited, weighted by a learned factor.

use mosu_kernels::ops::{ExpertGroups, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        ffn::{self, SOFTMAX},
        qwen_moe,
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
