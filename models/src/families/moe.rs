//! Experts in config.json.

use crate::{FfnSpec, LoadError, MoeSpec, config_json::ConfigJson, families::base::MAX_EXPERTS};

/// transformers 5 writes `num_local_experts` where the hub's Qwen files have `num_experts`.
pub(super) fn read(
    config: &ConfigJson,
    intermediate_size: usize,
    renormalize: bool,
) -> Result<FfnSpec, LoadError> {
    let key = if config.contains("num_local_experts") { "num_local_experts" } else { "num_experts" };
    let num_experts = config.count(key, MAX_EXPERTS)?;
    let num_experts_per_tok = config.count("num_experts_per_tok", num_experts)?;
    Ok(FfnSpec::Moe(MoeSpec { num_experts, num_experts_per_tok, intermediate_size, renormalize }))
}
