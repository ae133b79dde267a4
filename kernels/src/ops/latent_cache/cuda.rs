//! The launch of `latent_cache`: a thread block per row.

use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid, float_type},
    ops::{Norm, NormKind, RopeLayout, RopeTable},
};

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    latent: u32,
    half: u32,
    interleaved: u32,
    layer_norm: u32,
    weight_type: i32,
    bias_type: i32,
    eps: f32,
}

#[allow(clippy::too_many_arguments)] // Those of the op.
pub(super) fn latent_cache(
    gpu: &CudaDevice,
    mut cache: ViewMut<'_>,
    kv: View<'_>,
    norm: Norm<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let kernel = if cache.dtype() == DType::F32 { "latent_cache_f32" } else { "latent_cache_bf16" };
    let shape = Shape {
        latent: norm.weight.shape().elements() as u32,
        half: rope.cos.shape().row_elements() as u32,
        interleaved: u32::from(rope.layout == RopeLayout::Interleaved),
        layer_norm: u32::from(norm.kind == NormKind::Layer),
        weight_type: float_type(norm.weight.dtype()),
        bias_type: norm.bias.map_or(0, |bias| float_type(bias.dtype())),
        eps: norm.eps,
    };
    let mut args = Args::new();
    args.write(&mut cache).read(&kv).read(&norm.weight).read_opt(norm.bias.as_ref());
    args.read(&rope.cos).read(&rope.sin).read(&positions).read(&slots).bytes(bytemuck::bytes_of(&shape));
    let rows = slots.shape().elements() as u32;
    gpu.launch(kernel, Grid { blocks: [rows, 1, 1], threads: 128, shared_bytes: 0 }, &args)
}
