//! Phi-3, 3.5 and 4: Llama with q, k, v and gate, up in one matrix each, and LongRoPE. Phi-3.5-MoE: LayerNorms, biases
//! and the SparseMixer router.

use mosu_kernels::ops::{NormKind, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        ffn::{self, SOFTMAX},
        masks,
    },
    tensor_names::{NetworkNames, QkvNames, TensorNames},
};

/// Phi-3 to 4.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    for key in ["attention_bias", "mlp_bias"] {
        if config.flag(key, false)? {
            return Err(config.error(key, "true is not supported for this architecture"));
        }
    }
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, partial_rotary: Some(1.0), ..DEFAULTS })?;
    let attention = AttentionSpec { mask: masks::every_layer(config)?, ..base.attention.clone() };
    let names = TensorNames {
        qkv: QkvNames::Fused("self_attn.qkv_proj"),
        dense: NetworkNames::fused("mlp.gate_up_proj", "mlp.down_proj"),
        ..TensorNames::LLAMA
    };
    Ok((base.uniform(attention, ffn::dense(config, false)?), names))
}

/// Phi-3.5-MoE.
pub(super) fn read_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::read(config, &Defaults { norm_eps: 1e-5, rope_theta: 1e6, ..DEFAULTS })?;
    base.norm.kind = NormKind::Layer;
    base.head.bias = config.flag("lm_head_bias", false)?;
    let bias = config.flag("attention_bias", false)?;
    let mask = masks::every_layer(config)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, mask, ..base.attention.clone() };
    let jitter = config.number_or_zero("router_jitter_noise")?.unwrap_or(0.01) as f32;
    let moe = ffn::experts(config, config.count("intermediate_size", MAX_WIDTH)?)?;
    if moe.num_experts_per_tok != 2 {
        return Err(config.error("num_experts_per_tok", "only 2 is supported for this architecture"));
    }
    let moe = MoeSpec { router: Router { score: RouterScore::SparseMixer { jitter }, ..SOFTMAX }, ..moe };
    Ok((base.uniform(attention, FfnSpec::Moe(moe)), TensorNames::MIXTRAL))
}
