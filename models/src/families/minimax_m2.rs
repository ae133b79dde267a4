//! MiniMax-M2 to 2.7: half of every head rotates, q and k are normed over all heads together, all layers are sparse.

use mosu_kernels::ops::{NormSpan, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, QkNormSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        ffn::{self, SOFTMAX},
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    if config.index_or("shared_intermediate_size", MAX_WIDTH, 0)? > 0 {
        return Err(config.error("shared_intermediate_size", "only 0 is supported"));
    }
    let defaults = Defaults { rope_theta: 5e6, partial_rotary: Some(1.0), head_dim: Some(128), ..DEFAULTS };
    let base = Base::read(config, &defaults)?;
    let qk_norm = QkNormSpec { span: NormSpan::AllHeads, ..QkNormSpec::HEADS };
    let attention = AttentionSpec {
        qk_norm: config.flag("use_qk_norm", true)?.then_some(qk_norm),
        ..base.attention.clone()
    };
    let experts = MoeSpec {
        router: Router { score: RouterScore::Sigmoid, renormalize: ffn::renormalize(true), ..SOFTMAX },
        e_score_correction_bias: config.flag("use_routing_bias", true)?,
        ..ffn::experts(config, config.count("intermediate_size", MAX_WIDTH)?)?
    };
    let names = TensorNames {
        e_score_correction_bias: "block_sparse_moe.e_score_correction_bias",
        ..TensorNames::MIXTRAL
    };
    Ok((base.uniform(attention, FfnSpec::Moe(experts)), names))
}
