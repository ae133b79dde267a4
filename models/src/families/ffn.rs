//! Feed-forward networks and experts in config.json.

use mosu_kernels::ops::{
    Activation, ApplyRouterWeight, ExpertGroups, Glu, GroupRank, Renormalize, Router, RouterLogits,
    RouterScore,
};

use crate::{
    DenseSpec, FfnActivation, FfnSpec, LoadError, MoeSpec, SharedSpec, config_json::ConfigJson,
    families::limits::MAX_WIDTH,
};

/// The most experts that a router chooses from.
pub(super) const MAX_EXPERTS: usize = 1024;

/// Softmax over all experts, weights as they are.
pub(super) const SOFTMAX: Router = Router {
    logits: RouterLogits::Plain,
    score: RouterScore::Softmax,
    groups: ExpertGroups::All,
    renormalize: Renormalize::No,
    scale: 1.0,
};

/// An activation under `key`, in the spellings that are in use.
pub(super) fn activation(
    config: &ConfigJson,
    key: &str,
    default: Activation,
) -> Result<Activation, LoadError> {
    match config.optional_text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_tanh") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::GeluErf),
        Some(other) => {
            let known = "silu, gelu, gelu_new, gelu_tanh, gelu_pytorch_tanh";
            Err(config.error(key, format!("{other:?} is not supported; supported are {known}")))
        }
    }
}

/// `hidden_act` between gate and up, SiLU if absent.
pub(super) fn glu(config: &ConfigJson) -> Result<Glu, LoadError> {
    Ok(Glu::Plain(activation(config, "hidden_act", Activation::Silu)?))
}

/// A gated network of that width, activated as config.json says.
pub(super) fn gated(
    config: &ConfigJson,
    intermediate_size: usize,
    bias: bool,
) -> Result<DenseSpec, LoadError> {
    Ok(DenseSpec { intermediate_size, activation: FfnActivation::Gated(glu(config)?), bias })
}

/// The usual network: gated, as wide as `intermediate_size` says.
pub(super) fn dense(config: &ConfigJson, bias: bool) -> Result<FfnSpec, LoadError> {
    Ok(FfnSpec::Dense(gated(config, config.count("intermediate_size", MAX_WIDTH)?, bias)?))
}

/// Experts without anything beside them, chosen by softmax. transformers 5 writes `num_local_experts` where the hub's
/// files have `num_experts`, `n_routed_experts` or `num_routed_experts`.
pub(super) fn experts(config: &ConfigJson, intermediate_size: usize) -> Result<MoeSpec, LoadError> {
    let keys = ["num_local_experts", "num_experts", "n_routed_experts", "num_routed_experts"];
    let key = config.first_of(&keys);
    let num_experts = config.count(key, MAX_EXPERTS)?;
    let num_experts_per_tok = config.count("num_experts_per_tok", num_experts)?;
    moe(config, num_experts, num_experts_per_tok, intermediate_size)
}

/// The same of these sizes.
pub(super) fn moe(
    config: &ConfigJson,
    num_experts: usize,
    num_experts_per_tok: usize,
    intermediate_size: usize,
) -> Result<MoeSpec, LoadError> {
    Ok(MoeSpec {
        num_experts,
        num_experts_per_tok,
        intermediate_size,
        glu: glu(config)?,
        expert_bias: false,
        router: SOFTMAX,
        router_bias: false,
        e_score_correction_bias: false,
        expert_scale: false,
        weigh: ApplyRouterWeight::OnOutput,
        shared: None,
    })
}

/// A network whose output is added to that of the experts.
pub(super) fn shared(network: DenseSpec) -> Option<SharedSpec> {
    Some(SharedSpec { network, gated: false, sum_scale: 1.0 })
}

/// `Σ` if `flag`, else nothing.
pub(super) fn renormalize(flag: bool) -> Renormalize {
    if flag { Renormalize::Sum } else { Renormalize::No }
}

/// The best `topk_group` of `n_group` groups of experts; one group is all of them.
pub(super) fn groups(
    config: &ConfigJson,
    experts: usize,
    rank: GroupRank,
) -> Result<ExpertGroups, LoadError> {
    let groups = config.optional_count("n_group", experts)?.unwrap_or(1);
    let kept = config.optional_count("topk_group", groups)?.unwrap_or(groups);
    if !experts.is_multiple_of(groups) {
        let message = format!("expected a divisor of the number of experts ({experts}), found {groups}");
        return Err(config.error("n_group", message));
    }
    Ok(if kept == groups { ExpertGroups::All } else { ExpertGroups::Best { groups, kept, rank } })
}

/// Which of the layers are sparse: `mlp_layer_types` says `sparse` or `dense` layer by layer, without it the first
/// `default_dense` are dense.
pub(super) fn sparse_layers(
    config: &ConfigJson,
    num_layers: usize,
    default_dense: usize,
) -> Result<Vec<bool>, LoadError> {
    let key = "mlp_layer_types";
    let Some(kinds) = config.optional_texts(key)? else {
        return Ok((0..num_layers).map(|layer| layer >= default_dense).collect());
    };
    if kinds.len() < num_layers {
        let message = format!("expected {num_layers} entries, one per layer, found {}", kinds.len());
        return Err(config.error(key, message));
    }
    let is_sparse = |kind: &str| match kind {
        "sparse" => Ok(true),
        "dense" => Ok(false),
        other => Err(config.error(key, format!("{other:?} is not supported; supported are dense, sparse"))),
    };
    kinds.into_iter().take(num_layers).map(is_sparse).collect()
}
