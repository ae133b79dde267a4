//! Skywork-13B is Llama; Skywork-MoE, of the same architecture string, is Mixtral whose router logits are scaled to one
//! standard deviation.

use mosu_kernels::ops::{Renormalize, Router, RouterLogits};

use crate::{
    DecoderSpec, FfnSpec, LoadError, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, MAX_WIDTH},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let attention = base.attention.clone();
    match config.index_list("num_experts", MAX_EXPERTS + 1)?.as_deref() {
        None | Some([]) => Ok((base.uniform(attention, ffn::dense(config, false)?), TensorNames::LLAMA)),
        Some(&[num_experts]) if num_experts > 1 => {
            let moe = experts(config, num_experts)?;
            Ok((base.uniform(attention, FfnSpec::Moe(moe)), TensorNames::MIXTRAL))
        }
        Some(other) => {
            let message = format!("expected one number of experts above 1, found {other:?}");
            Err(config.error("num_experts", message))
        }
    }
}

fn experts(config: &ConfigJson, num_experts: usize) -> Result<MoeSpec, LoadError> {
    if config.flag("moe_2layer_gate", false)? {
        return Err(config.error("moe_2layer_gate", "true is not supported"));
    }
    if config.optional_count("moe_expert_interval", MAX_EXPERTS)?.unwrap_or(1) != 1 {
        return Err(config.error("moe_expert_interval", "only 1 is supported"));
    }
    let chosen = config.optional_count("num_experts_per_tok", num_experts)?.unwrap_or(2);
    let logits = match config.flag("moe_use_logits_norm", false)? {
        true => {
            let std = config.optional_number("moe_gate_norm_std")?.unwrap_or(1.0) as f32;
            RouterLogits::Standardized { std }
        }
        false => RouterLogits::Plain,
    };
    let router = Router { logits, renormalize: Renormalize::Sum, ..SOFTMAX };
    let moe = ffn::moe(config, num_experts, chosen, config.count("intermediate_size", MAX_WIDTH)?)?;
    Ok(MoeSpec { router, ..moe })
}
