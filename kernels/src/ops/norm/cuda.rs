//! The launches of `norm` and `add_norm`: one thread block per row.

use super::{Norm, NormKind};
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid, float_type},
};

pub(super) fn norm(gpu: &CudaDevice, mut out: ViewMut<'_>, x: View<'_>, norm: Norm<'_>) -> Result<()> {
    let kernel = match out.dtype() {
        DType::BF16 => "norm_bf16",
        _ => "norm_f32",
    };
    let mut args = Args::new();
    args.write(&mut out).read(&x).u32(x.shape().row_elements() as u32);
    push(&mut args, Some(norm));
    gpu.launch(kernel, grid(&x), &args)
}

pub(super) fn add_norm(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    mut residual: ViewMut<'_>,
    delta: View<'_>,
    post: Option<Norm<'_>>,
    norm: Norm<'_>,
) -> Result<()> {
    let kernel = match out.dtype() {
        DType::BF16 => "add_norm_bf16",
        _ => "add_norm_f32",
    };
    let mut args = Args::new();
    args.write(&mut out).write(&mut residual).read(&delta).u32(delta.shape().row_elements() as u32);
    push(&mut args, post);
    push(&mut args, Some(norm));
    gpu.launch(kernel, grid(&delta), &args)
}

/// A norm as the kernels take it: weight, bias, kind and eps. Without a weight there is no norm.
fn push(args: &mut Args, norm: Option<Norm<'_>>) {
    let (weight, bias) = (norm.map(|norm| norm.weight), norm.and_then(|norm| norm.bias));
    for vector in [weight, bias] {
        args.read_opt(vector.as_ref()).i32(vector.map_or(0, |vector| float_type(vector.dtype())));
    }
    args.i32(norm.is_some_and(|norm| norm.kind == NormKind::Layer).into())
        .f32(norm.map_or(0.0, |norm| norm.eps));
}

/// One vector of 4 elements per thread, up to 1024 threads; the row lies in shared memory. Threads depend on the row's
/// length alone, since the order of sums does on them.
fn grid(x: &View<'_>) -> Grid {
    let (rows, hidden) = (x.shape().dims()[0], x.shape().row_elements());
    let threads = hidden.div_ceil(4).next_multiple_of(32).clamp(32, 1024);
    let shared_bytes = (hidden * size_of::<f32>()) as u32;
    Grid { blocks: [rows as u32, 1, 1], threads: threads as u32, shared_bytes }
}
