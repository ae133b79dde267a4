//! `route`: which experts a token is routed to, and with what weights.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::check::Check;
use crate::{DType, Device, Result, View, ViewMut};

/// The most experts that a layer may have: what the scratch of a row holds.
pub(super) const MAX_EXPERTS: usize = 1024;

/// How a router's logits become experts and weights, step by step in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Logits `z` from what the router's matrix gives.
    pub logits: RouterLogits,
    /// Scores from logits.
    pub score: RouterScore,
    /// Which experts can be chosen together.
    pub groups: ExpertGroups,
    /// Weights from the scores of the chosen.
    pub renormalize: Renormalize,
    /// Factor of all weights, at last.
    pub scale: f32,
}

/// What is done to a router's logits first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouterLogits {
    /// Nothing.
    Plain,
    /// `c · tanh(z / c)` (Grok-2).
    Softcap(f32),
    /// `z · std / σ(z)`, σ the standard deviation over the experts, by E - 1 (Skywork-MoE).
    Standardized {
        /// The standard deviation afterwards.
        std: f32,
    },
}

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouterScore {
    /// Softmax over all experts.
    Softmax,
    /// Of each alone.
    Sigmoid,
    /// The logits choose; softmax over the chosen gives the weights.
    SoftmaxOfChosen,
    /// One expert after the other (Phi-3.5-MoE): the one of the largest logit m among those left, weighted by the
    /// softmax over those left with `(m - z) / max(|z|, m) <= 2 · jitter`.
    SparseMixer {
        /// Half the relative distance that still counts.
        jitter: f32,
    },
}

/// Which experts can be chosen together. Groups are equal runs of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertGroups {
    /// All.
    All,
    /// Those of the best groups (DeepSeek).
    Best {
        /// Number of groups.
        groups: usize,
        /// How many of them stay.
        kept: usize,
        /// What a group is worth.
        rank: GroupRank,
    },
    /// Equally many of each group (Pangu Pro MoE), those of the first group first.
    Each {
        /// Number of groups.
        groups: usize,
    },
}

/// What a group of experts is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRank {
    /// Its best score.
    Max,
    /// The sum of its two best scores.
    TopTwoSum,
}

/// What the chosen scores, whose sum is Σ, are divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Renormalize {
    /// Nothing.
    No,
    /// Σ.
    Sum,
    /// Σ plus this.
    SumPlus(f32),
    /// Σ, but at least this.
    SumAtLeast(f32),
}

/// Learned parts of a router beside its matrix.
#[derive(Clone, Copy, Default)]
pub struct RouterTables<'a> {
    /// Any float `[E]`, added to the scores for the choice only.
    pub e_score_correction_bias: Option<View<'a>>,
    /// Any float `[E]`, a factor of each expert's weight.
    pub expert_scale: Option<View<'a>>,
}

impl Default for Router {
    /// Softmax over all experts, and nothing else.
    fn default() -> Router {
        Router {
            logits: RouterLogits::Plain,
            score: RouterScore::Softmax,
            groups: ExpertGroups::All,
            renormalize: Renormalize::No,
            scale: 1.0,
        }
    }
}

/// The k best experts of each row, best first, ties to the lowest id, and their weights.
///
/// - `ids`: u32 `[T, k]`
/// - `weights`: f32 `[T, k]`
/// - `logits`: f32 `[T, E]`, `1 <= k <= E <= 1024`
///
/// # Errors
/// When shapes or types do not fit, or the router contradicts itself or the number of experts.
pub fn route(
    device: &Device,
    ids: ViewMut<'_>,
    weights: ViewMut<'_>,
    logits: View<'_>,
    router: &Router,
    tables: RouterTables<'_>,
) -> Result<()> {
    let check = Check("route");
    let [rows, experts] = check.dims("logits", &logits)?;
    let [_, chosen] = check.dims("ids", &ids)?;
    check.dtype("logits", &logits, DType::F32)?;
    check.is("ids", &ids, [rows, chosen], DType::U32)?;
    check.is("weights", &weights, [rows, chosen], DType::F32)?;
    check.that((1..=experts).contains(&chosen), || format!("cannot choose {chosen} of {experts} experts"))?;
    check.that(experts <= MAX_EXPERTS, || format!("{experts} experts, expected at most {MAX_EXPERTS}"))?;
    let vectors =
        [("e_score_correction_bias", tables.e_score_correction_bias), ("expert_scale", tables.expert_scale)];
    for (name, view) in vectors.into_iter().filter_map(|(name, view)| Some((name, view?))) {
        check.shape(name, &view, [experts])?;
        check.float(name, &view)?;
    }
    router.check(check, experts, chosen, tables)?;
    match device {
        Device::Cpu(cpu) => cpu::route(cpu, ids, weights, logits, router, tables),
        Device::Cuda(gpu) => cuda::route(gpu, ids, weights, logits, router, tables),
    }
}

impl Router {
    fn check(&self, check: Check, experts: usize, chosen: usize, tables: RouterTables<'_>) -> Result<()> {
        if let RouterLogits::Softcap(cap) = self.logits {
            check.softcap(Some(cap))?;
        }
        if let RouterScore::SparseMixer { .. } = self.score {
            check
                .that(self.groups == ExpertGroups::All && tables.e_score_correction_bias.is_none(), || {
                    "a sparse mixer has neither groups nor a selection bias".into()
                })?;
        }
        let (groups, available) = match self.groups {
            ExpertGroups::All => return Ok(()),
            ExpertGroups::Best { groups, kept, .. } => (groups, kept.checked_mul(experts / groups.max(1))),
            ExpertGroups::Each { groups } => (groups, Some(experts)),
        };
        check.that(groups > 0 && experts.is_multiple_of(groups), || {
            format!("{experts} experts do not divide into {groups} groups")
        })?;
        match self.groups {
            ExpertGroups::Best { kept, rank, .. } => {
                check.that(kept <= groups && available.is_some_and(|n| n >= chosen), || {
                    format!("{kept} of {groups} groups do not hold {chosen} experts of {experts}")
                })?;
                check.that(rank == GroupRank::Max || experts / groups >= 2, || {
                    "groups of one expert have no two best scores".into()
                })
            }
            _ => check.that(chosen.is_multiple_of(groups), || {
                format!("{chosen} experts are not equally many of each of {groups} groups")
            }),
        }
    }
}
