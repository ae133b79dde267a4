//! The launches of `linear` and `gated_linear`.
//!
//! A thread block computes a tile of the output, or its share of one: K is cut into parts, whose number depends on the
//! weight's shape alone, so that narrow weights keep the whole GPU busy too. With few rows each part has its thread
//! block; with many, thread blocks take all parts of their tile in turn. Both add the same numbers in the same order.

use super::{Linear, cuda_tiles::*};
use crate::{
    CudaDevice, DType, Device, Format, KernelError, Matrix, Result, Tensor, View, ViewMut,
    cuda::{Args, Grid},
    ops::Glu,
};

/// Thread blocks that keep a large GPU busy.
const BUSY: usize = 256;
/// Fewest elements of K in a part: less costs more in adding up than it gains.
const SHORTEST_PART: usize = 256;
/// Most parts.
const MOST_PARTS: usize = 8;
/// Rows of which the last tile, however wide, may well be empty for the most part.
const MANY_ROWS: usize = 1024;

pub(super) fn linear(gpu: &CudaDevice, mut out: ViewMut<'_>, x: View<'_>, linear: &Linear) -> Result<()> {
    let cut = Cut::of(gpu.capability(), linear);
    let plan = cut.plan(x.shape().dims()[0], cut.n, gpu);
    launch_linear(gpu, &mut out, x, linear, cut, plan)
}

fn launch_linear(
    gpu: &CudaDevice,
    out: &mut ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    cut: Cut,
    plan: Plan,
) -> Result<()> {
    if plan.grid.blocks.contains(&0) {
        return Ok(());
    }
    let mut args = arguments(gpu, out, x, linear, cut, plan, BOX_ROWS)?;
    match (cut.family.operands, weight(linear)?.format()) {
        (Operands::PointersAndAlignment, Format::Float(dtype)) => {
            // Vectors of 16 bytes of the weight, whose elements are never larger than those of x.
            args.i32((cut.k * dtype.size()).is_multiple_of(16).into());
        }
        (Operands::Packed, _) => {
            args.i32(weight(linear)?.scale_columns_log2());
        }
        _ => {}
    }
    gpu.launch(plan.tile.linear, plan.grid, &args)
}

/// Whether [`gated_linear`] can do it in one launch.
pub(in crate::ops) fn has_gated(gpu: &CudaDevice, linear: &Linear) -> bool {
    Cut::of(gpu.capability(), linear).family.large.gated.is_some()
}

/// `out = glu(linear(x))` for a weight whose kernels have a gate.
pub(in crate::ops) fn gated_linear(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    glu: Glu,
) -> Result<()> {
    let cut = Cut::of(gpu.capability(), linear);
    let plan = cut.plan(x.shape().dims()[0], gated_features(cut.n), gpu);
    launch_gated(gpu, &mut out, x, linear, glu, cut, plan)
}

fn launch_gated(
    gpu: &CudaDevice,
    out: &mut ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    glu: Glu,
    cut: Cut,
    plan: Plan,
) -> Result<()> {
    if plan.grid.blocks.contains(&0) {
        return Ok(());
    }
    let kernel = plan.tile.gated.ok_or_else(|| {
        let reason = format!("no kernel for weights of {}", cut.format);
        KernelError::Argument { op: "gated_linear", reason }
    })?;
    let mut args = arguments(gpu, out, x, linear, Cut { n: cut.n / 2, ..cut }, plan, GATED_BOX_ROWS)?;
    glu.push(&mut args);
    gpu.launch(kernel, plan.grid, &args)
}

/// Gate rows alternate with up rows in eights; the last eight may be short.
fn gated_features(n: usize) -> usize {
    (n / 2).next_multiple_of(8) * 2
}

/// The arguments that all kernels take. Where they take maps, that of the weight has boxes of `weight_rows`.
fn arguments(
    gpu: &CudaDevice,
    out: &mut ViewMut<'_>,
    x: View<'_>,
    linear: &Linear,
    cut: Cut,
    plan: Plan,
    weight_rows: usize,
) -> Result<Args> {
    let partials = gpu.scratch(plan.partial_bytes)?;
    let matrix = weight(linear)?;
    let values = matrix.values().view();
    let mut args = Args::new();
    args.write(out);
    match cut.family.operands {
        Operands::Maps => {
            args.map(&gpu.tensor_map(&x, plan.tile.tokens)?).map(&gpu.tensor_map(&values, weight_rows)?)
        }
        Operands::Pointers | Operands::PointersAndAlignment => args.read(&x).read(&values),
        Operands::Packed => args.read(&x).read(&values).read_opt(matrix.scales().map(Tensor::view).as_ref()),
    };
    args.read_opt(linear.parts()[0].bias.as_ref().map(|bias| bias.view()).as_ref());
    args.pointer(partials).pointer(gpu.semaphores()).u32(x.shape().dims()[0] as u32);
    args.u32(cut.n as u32).u32(cut.k as u32).u32(cut.part as u32);
    Ok(args)
}

/// The weight, which on a GPU is one.
fn weight(linear: &Linear) -> Result<&Matrix> {
    match linear.parts() {
        [part] => Ok(&part.weight),
        _ => {
            let reason = "on a GPU a weight is one matrix: see Linear::to_device".into();
            Err(KernelError::Argument { op: "linear", reason })
        }
    }
}

impl Linear {
    /// Memory between kernels that the ops on this weight take on `device` with up to `rows` rows, in bytes.
    pub fn scratch_bytes(&self, device: &Device, rows: usize) -> usize {
        match device {
            Device::Cpu(_) => 0,
            Device::Cuda(gpu) => {
                let cut = Cut::of(gpu.capability(), self);
                cut.most_partial_bytes(rows, gated_features(cut.n), gpu.multiprocessors() as usize)
            }
        }
    }
}

/// How K of a weight `[N, K]` is cut: a constant of its shape and format.
#[derive(Clone, Copy, Debug)]
struct Cut {
    n: usize,
    k: usize,
    format: Format,
    family: &'static Family,
    /// Stages of K in a part.
    part: usize,
    parts: usize,
}

/// One launch.
#[derive(Clone, Copy, Debug)]
struct Plan {
    tile: &'static Tile,
    grid: Grid,
    partial_bytes: usize,
}

impl Cut {
    fn of(capability: (u32, u32), linear: &Linear) -> Cut {
        let (n, k) = (linear.out_features(), linear.in_features());
        let format = linear.parts()[0].weight.format();
        let family = match format {
            Format::Mxfp4 => &MXFP4,
            Format::Fp8 => &FP8,
            // TMA knows no rows of no elements.
            Format::Float(DType::BF16) if k.is_multiple_of(8) && k > 0 && capability == (9, 0) => &WGMMA,
            Format::Float(DType::BF16) if k.is_multiple_of(8) => &MMA,
            Format::Float(DType::BF16) => &SIMT_BF16,
            Format::Float(DType::F16) => &SIMT_F16,
            Format::Float(DType::F32 | DType::U32 | DType::U8) | Format::Blocks(_) => &SIMT_F32,
        };
        let stages = k.div_ceil(family.stage).max(1);
        let most = (k / SHORTEST_PART).clamp(1, MOST_PARTS);
        let part = stages.div_ceil(BUSY.div_ceil(n.div_ceil(64).max(1)).min(most));
        Cut { n, k, format, family, part, parts: stages.div_ceil(part) }
    }

    /// The launch for `rows` rows of input and `features` features of output.
    fn plan(self, rows: usize, features: usize, gpu: &CudaDevice) -> Plan {
        let processors = gpu.multiprocessors() as usize;
        self.plan_of(self.tile(rows, features, processors), rows, features, processors)
    }

    fn tile(self, rows: usize, features: usize, processors: usize) -> &'static Tile {
        let Family { small, large, serial_split_k, whole, .. } = self.family;
        let is_busy = |tile: &Tile| tile.count(rows, features) >= processors;
        let whole = whole.as_ref().filter(|tile| rows >= MANY_ROWS && is_busy(tile));
        match small.iter().find(|tile| tile.tokens >= rows) {
            Some(tile) => tile,
            None if self.parts == 1 => whole.unwrap_or(large),
            // Too few tiles for all multiprocessors: a thread block per part.
            None if !is_busy(large) => large,
            None => serial_split_k,
        }
    }

    fn plan_of(self, tile: &'static Tile, rows: usize, features: usize, processors: usize) -> Plan {
        let tiles = tile.count(rows, features);
        let parts = if tile.serial_split_k { 1 } else { self.parts };
        let grid = Grid {
            blocks: [tile.blocks(tiles, parts, processors) as u32, parts as u32, 1],
            threads: tile.threads,
            shared_bytes: tile.shared_bytes,
        };
        Plan { tile, grid, partial_bytes: partial_bytes(tile, tiles, parts) }
    }

    /// The most that a plan for up to `rows` rows takes.
    fn most_partial_bytes(self, rows: usize, features: usize, processors: usize) -> usize {
        let Family { small, large, .. } = self.family;
        let of_small = small.iter().map(|tile| partial_bytes(tile, tile.count(1, features), self.parts));
        let of_large = partial_bytes(large, large.count(rows, features).min(processors), self.parts);
        of_small.fold(of_large, usize::max)
    }
}

/// Each part's sums, where a tile has several.
fn partial_bytes(tile: &Tile, tiles: usize, parts: usize) -> usize {
    if parts > 1 { tiles * parts * tile.features * tile.tokens * size_of::<f32>() } else { 0 }
}

#[cfg(test)]
mod tests;
