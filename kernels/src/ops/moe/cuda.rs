//! The launches of `moe`: sort the visits, gate and up with their activation, down, combine.

use super::{Glu, MoeWorkspace, WeighExperts, workspace::tiles};
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, CudaPtr, Grid},
    ops::{check::Check, experts::Experts},
};

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    experts: u32,
    chosen: u32,
    hidden: u32,
    intermediate: u32,
    visits: u32,
    tile_tokens: u32,
    tile_count: u32,
}

/// Kernels of one family, and what their thread blocks take.
struct Variant {
    gate_up: &'static str,
    down: &'static str,
    /// Rows of the weights and visits of a tile.
    features: usize,
    tokens: usize,
    threads: u32,
    /// Stages of 64 elements of K, in shared memory; 0: static.
    stages: usize,
    /// Outputs of gate and up in a tile.
    outputs: usize,
}

impl Variant {
    /// What suits so many visits; bits do not depend on it beyond the weights' type and shape.
    fn of(experts: &Experts, visits: usize) -> Variant {
        let aligned =
            experts.hidden_size().is_multiple_of(8) && experts.intermediate_size().is_multiple_of(8);
        let each = visits.div_ceil(experts.count());
        let (gate_up, down) = match experts.dtype() {
            DType::BF16 if aligned && each <= 8 => {
                return Variant::mma("moe_gate_up_t8_bf16", "moe_down_t8_bf16", [64, 8], 128, 6);
            }
            DType::BF16 if aligned && each <= 32 => {
                return Variant::mma("moe_gate_up_t32_bf16", "moe_down_t32_bf16", [64, 32], 128, 5);
            }
            DType::BF16 if aligned => {
                return Variant::mma("moe_gate_up_t128_bf16", "moe_down_t128_bf16", [128, 128], 256, 3);
            }
            DType::BF16 => ("moe_gate_up_simt_bf16", "moe_down_simt_bf16"),
            DType::F16 => ("moe_gate_up_simt_f16", "moe_down_simt_f16"),
            DType::F32 | DType::U32 => ("moe_gate_up_simt_f32", "moe_down_simt_f32"),
        };
        Variant { gate_up, down, features: 32, tokens: 16, threads: 128, stages: 0, outputs: 32 }
    }

    fn mma(
        gate_up: &'static str,
        down: &'static str,
        [features, tokens]: [usize; 2],
        threads: u32,
        stages: usize,
    ) -> Variant {
        Variant { gate_up, down, features, tokens, threads, stages, outputs: features / 2 }
    }

    /// For outputs `n`, `per_block` of them in each thread block.
    fn grid(&self, n: usize, per_block: usize, tiles: usize) -> Grid {
        let shared_bytes = self.stages * (self.features + self.tokens) * 64 * 2;
        Grid {
            blocks: [n.div_ceil(per_block) as u32, tiles as u32, 1],
            threads: self.threads,
            shared_bytes: shared_bytes as u32,
        }
    }
}

#[allow(clippy::too_many_arguments)] // Those of the op.
pub(super) fn moe(
    gpu: &CudaDevice,
    check: Check,
    mut out: ViewMut<'_>,
    x: View<'_>,
    ids: View<'_>,
    weights: View<'_>,
    experts: &Experts,
    glu: Glu,
    weigh: WeighExperts,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let stacked = experts.stacked().ok_or_else(|| check.error("the experts lie in host memory".into()))?;
    let [rows, chosen] = check.dims("ids", &ids)?;
    let (hidden, intermediate) = (experts.hidden_size(), experts.intermediate_size());
    let visits = rows * chosen;
    let variant = Variant::of(experts, visits);
    let tile_count = tiles(visits, experts.count(), variant.tokens);
    let shape = Shape {
        experts: experts.count() as u32,
        chosen: chosen as u32,
        hidden: hidden as u32,
        intermediate: intermediate as u32,
        visits: visits as u32,
        tile_tokens: variant.tokens as u32,
        tile_count: tile_count as u32,
    };
    let shape = bytemuck::bytes_of(&shape);
    let MoeWorkspace { activated, down, indices, .. } = workspace;
    let missing = || check.error("the workspace lies in host memory".into());
    let pairs: CudaPtr = indices.view().cuda_ptr().ok_or_else(missing)?;
    let (places, tiles) = (pairs.offset(4 * visits), pairs.offset(8 * visits));
    let (mut activated, mut down) = (activated.view_mut()?, down.view_mut()?);
    let (input_weights, output_weights) = match weigh {
        WeighExperts::Input => (Some(&weights), None),
        WeighExperts::Output => (None, Some(&weights)),
    };

    let mut args = Args::new();
    args.pointer(pairs).pointer(places).pointer(tiles).read(&ids).bytes(shape);
    gpu.launch("moe_sort", Grid { blocks: [1, 1, 1], threads: 512, shared_bytes: 0 }, &args)?;

    let bias = stacked.gate_up_bias.as_ref().map(|bias| bias.view());
    let mut args = Args::new();
    args.write(&mut activated).read(&x).read(&stacked.gate_up.view()).read_opt(bias.as_ref());
    args.read_opt(input_weights).pointer(pairs).pointer(tiles).bytes(shape);
    glu.push(&mut args);
    gpu.launch(variant.gate_up, variant.grid(intermediate, variant.outputs, tile_count), &args)?;

    let bias = stacked.down_bias.as_ref().map(|bias| bias.view());
    let mut args = Args::new();
    args.write(&mut down).read(&activated.as_view()).read(&stacked.down.view()).read_opt(bias.as_ref());
    args.pointer(tiles).bytes(shape);
    gpu.launch(variant.down, variant.grid(hidden, variant.features, tile_count), &args)?;

    let mut args = Args::new();
    args.write(&mut out).read(&down.as_view()).read_opt(output_weights).pointer(places).bytes(shape);
    let blocks = [rows as u32, hidden.div_ceil(256) as u32, 1];
    gpu.launch("moe_combine", Grid { blocks, threads: 256, shared_bytes: 0 }, &args)
}
