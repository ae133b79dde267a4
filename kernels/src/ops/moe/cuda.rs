//! The launches of `moe`: sort the pairs, gate and up with their activation, down, combine.

use super::{ApplyRouterWeight, Glu, MoeWorkspace, workspace::tiles};
use crate::{
    CudaDevice, DType, Format, Matrix, Result, View, ViewMut,
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
    pairs: u32,
    tile_tokens: u32,
    tile_count: u32,
}

/// Kernels of one family, and what their thread blocks take.
struct Variant {
    gate_up: &'static str,
    down: &'static str,
    /// Rows of the weights and pairs of a tile.
    features: usize,
    tokens: usize,
    threads: u32,
    /// Stages of 64 elements of K, in shared memory; 0: static.
    stages: usize,
    /// Outputs of gate and up in a tile.
    outputs: usize,
}

/// Gate and up, and down, on the tensor cores: for tiles of 8, 32 and 128 tokens.
macro_rules! kernels {
    ($format:literal) => {
        [
            [concat!("moe_gate_up_t8_", $format), concat!("moe_down_t8_", $format)],
            [concat!("moe_gate_up_t32_", $format), concat!("moe_down_t32_", $format)],
            [concat!("moe_gate_up_t128_", $format), concat!("moe_down_t128_", $format)],
        ]
    };
}

impl Variant {
    /// What suits so many pairs of weights of this format; bits do not depend on it beyond the format and shape.
    fn of(format: Format, aligned: bool, each: usize) -> Variant {
        let kernels = match format {
            Format::Mxfp4 => kernels!("mxfp4"),
            Format::Fp8 => kernels!("fp8"),
            Format::Float(DType::BF16) if aligned => kernels!("bf16"),
            Format::Float(DType::BF16) => {
                return Variant::simt(["moe_gate_up_simt_bf16", "moe_down_simt_bf16"]);
            }
            Format::Float(DType::F16) => return Variant::simt(["moe_gate_up_simt_f16", "moe_down_simt_f16"]),
            Format::Float(DType::F32 | DType::U32 | DType::U8) | Format::Blocks(_) => {
                return Variant::simt(["moe_gate_up_simt_f32", "moe_down_simt_f32"]);
            }
        };
        match each {
            0..=8 => Variant::mma(kernels[0], [64, 8], 128, 6),
            9..=32 => Variant::mma(kernels[1], [64, 32], 128, 5),
            _ => Variant::mma(kernels[2], [128, 128], 256, 3),
        }
    }

    fn simt([gate_up, down]: [&'static str; 2]) -> Variant {
        Variant { gate_up, down, features: 32, tokens: 16, threads: 128, stages: 0, outputs: 32 }
    }

    fn mma(
        [gate_up, down]: [&'static str; 2],
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
    weigh: ApplyRouterWeight,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let stacked = experts.stacked().ok_or_else(|| check.error("the experts lie in host memory".into()))?;
    let [rows, chosen] = check.dims("ids", &ids)?;
    let (hidden, intermediate) = (experts.hidden_size(), experts.intermediate_size());
    let pairs = rows * chosen;
    let aligned = hidden.is_multiple_of(8) && intermediate.is_multiple_of(8);
    let of = |matrix: &Matrix| Variant::of(matrix.format(), aligned, pairs.div_ceil(experts.count()));
    let (first, second) = (of(&stacked.gate_up), of(&stacked.down));
    check.that(first.tokens == second.tokens, || "gate_up and down have different tiles".into())?;
    let tile_count = tiles(pairs, experts.count(), first.tokens);
    let shape = Shape {
        experts: experts.count() as u32,
        chosen: chosen as u32,
        hidden: hidden as u32,
        intermediate: intermediate as u32,
        pairs: pairs as u32,
        tile_tokens: first.tokens as u32,
        tile_count: tile_count as u32,
    };
    let shape = bytemuck::bytes_of(&shape);
    let MoeWorkspace { activated, down, indices, .. } = workspace;
    let missing = || check.error("the workspace lies in host memory".into());
    let pair_ids: CudaPtr = indices.view().cuda_ptr().ok_or_else(missing)?;
    let (places, tiles) = (pair_ids.offset(4 * pairs), pair_ids.offset(8 * pairs));
    let (mut activated, mut down) = (activated.view_mut()?, down.view_mut()?);
    let (input_weights, output_weights) = match weigh {
        ApplyRouterWeight::OnInput => (Some(&weights), None),
        ApplyRouterWeight::OnOutput => (None, Some(&weights)),
    };

    let mut args = Args::new();
    args.pointer(pair_ids).pointer(places).pointer(tiles).read(&ids).bytes(shape);
    gpu.launch("moe_sort", Grid { blocks: [1, 1, 1], threads: 512, shared_bytes: 0 }, &args)?;

    let bias = stacked.gate_up_bias.as_ref().map(|bias| bias.view());
    let mut args = Args::new();
    args.write(&mut activated).read(&x);
    push(&stacked.gate_up, &mut args);
    args.read_opt(bias.as_ref()).read_opt(input_weights).pointer(pair_ids).pointer(tiles).bytes(shape);
    glu.push(&mut args);
    gpu.launch(first.gate_up, first.grid(intermediate, first.outputs, tile_count), &args)?;

    let bias = stacked.down_bias.as_ref().map(|bias| bias.view());
    let mut args = Args::new();
    args.write(&mut down).read(&activated.as_view());
    push(&stacked.down, &mut args);
    args.read_opt(bias.as_ref()).pointer(tiles).bytes(shape);
    gpu.launch(second.down, second.grid(hidden, second.features, tile_count), &args)?;

    let mut args = Args::new();
    args.write(&mut out).read(&down.as_view()).read_opt(output_weights).pointer(places).bytes(shape);
    let blocks = [rows as u32, hidden.div_ceil(256) as u32, 1];
    gpu.launch("moe_combine", Grid { blocks, threads: 256, shared_bytes: 0 }, &args)
}

/// A weight's arguments: its floats, or values and scales and the binary logarithm of the columns that share one.
fn push(weight: &Matrix, args: &mut Args) {
    args.read(&weight.values().view());
    if let Some(scales) = weight.scales() {
        args.read(&scales.view()).i32(weight.scale_columns_log2());
    }
}
