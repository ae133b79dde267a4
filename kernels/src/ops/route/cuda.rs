//! The launch of `route`: a warp per row.

use super::{ExpertGroups, GroupRank, Renormalize, Router, RouterLogits, RouterScore, RouterTables};
use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid, float_type},
};

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    experts: u32,
    chosen: u32,
    logits: u32,
    score: u32,
    groups: u32,
    divide: u32,
    group_count: u32,
    kept: u32,
    logits_value: f32,
    jitter: f32,
    divide_value: f32,
    scale: f32,
    bias_type: i32,
    scale_type: i32,
}

impl Shape {
    fn new(router: &Router, tables: RouterTables<'_>, experts: usize, chosen: usize) -> Shape {
        let (logits, logits_value) = match router.logits {
            RouterLogits::Plain => (0, 0.0),
            RouterLogits::Softcap(cap) => (1, cap),
            RouterLogits::Standardized { std } => (2, std),
        };
        let (score, jitter) = match router.score {
            RouterScore::Softmax => (0, 0.0),
            RouterScore::Sigmoid => (1, 0.0),
            RouterScore::SoftmaxOfChosen => (2, 0.0),
            RouterScore::SparseMixer { jitter } => (3, jitter),
        };
        let (groups, group_count, kept) = match router.groups {
            ExpertGroups::All => (0, 1, 1),
            ExpertGroups::Best { groups, kept, rank: GroupRank::Max } => (1, groups, kept),
            ExpertGroups::Best { groups, kept, rank: GroupRank::TopTwoSum } => (2, groups, kept),
            ExpertGroups::Each { groups } => (3, groups, groups),
        };
        let (divide, divide_value) = match router.renormalize {
            Renormalize::No => (0, 0.0),
            Renormalize::Sum => (1, 0.0),
            Renormalize::SumPlus(x) => (2, x),
            Renormalize::SumAtLeast(x) => (3, x),
        };
        let type_of = |table: Option<View<'_>>| table.map_or(0, |table| float_type(table.dtype()));
        Shape {
            experts: experts as u32,
            chosen: chosen as u32,
            logits,
            score,
            groups,
            divide,
            group_count: group_count as u32,
            kept: kept as u32,
            logits_value,
            jitter,
            divide_value,
            scale: router.scale,
            bias_type: type_of(tables.e_score_correction_bias),
            scale_type: type_of(tables.expert_scale),
        }
    }
}

pub(super) fn route(
    gpu: &CudaDevice,
    mut ids: ViewMut<'_>,
    mut weights: ViewMut<'_>,
    logits: View<'_>,
    router: &Router,
    tables: RouterTables<'_>,
) -> Result<()> {
    let (experts, chosen) = (logits.shape().row_elements(), ids.shape().row_elements());
    let rows = ids.shape().elements() / chosen;
    let mut args = Args::new();
    args.write(&mut ids).write(&mut weights).read(&logits);
    args.read_opt(tables.e_score_correction_bias.as_ref()).read_opt(tables.expert_scale.as_ref());
    args.bytes(bytemuck::bytes_of(&Shape::new(router, tables, experts, chosen)));
    // Scores, what is chosen by, the chosen and the groups' worth.
    let shared_bytes = 4 * 4 * experts as u32;
    gpu.launch("route_f32", Grid { blocks: [rows as u32, 1, 1], threads: 32, shared_bytes }, &args)
}
