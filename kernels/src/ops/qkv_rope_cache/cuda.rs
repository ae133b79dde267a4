//! The launch of `qkv_rope_cache`: a warp per head of q, k and v.

use super::{HeadShape, HeadTransform, KvCacheMut, NormOrder, NormSpan, Qkv};
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid, float_type},
    ops::{RopeLayout, check::Check},
};

/// Heads of a thread block.
const HEADS: usize = 4;

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    block_shift: u32,
    q_stride: u32,
    kv_stride: u32,
    kv_first: u32,
    half: u32,
    interleaved: u32,
    norm: u32,
    norm_after_rope: u32,
    q_weight_type: i32,
    k_weight_type: i32,
    eps: f32,
}

#[allow(clippy::too_many_arguments)] // One per tensor, as in every op.
pub(super) fn qkv_rope_cache(
    gpu: &CudaDevice,
    check: Check,
    mut q: ViewMut<'_>,
    mut cache: KvCacheMut<'_>,
    qkv: Qkv<'_>,
    transform: HeadTransform<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [_, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    let shape = HeadShape { heads, kv_heads, head_dim, block_size };
    let (q_width, kv_width) = (heads * head_dim, 2 * kv_heads * head_dim);
    let (q_in, kv_in, strides) = match qkv {
        Qkv::Fused(qkv) => (qkv, qkv, [q_width + kv_width, q_width + kv_width, q_width]),
        Qkv::Split { q, kv } => (q, kv, [q_width, kv_width, 0]),
    };
    let [q_weight, k_weight] = match transform.qk_norm.and_then(|norm| norm.weights) {
        Some([q, k]) => [Some(q), Some(k)],
        None => [None; 2],
    };
    let rope = transform.rope;
    let half = rope.map_or(0, |rope| rope.cos.shape().dims()[1]);
    let weight_type = |weight: Option<View<'_>>| weight.map_or(0, |weight| float_type(weight.dtype()));
    let shape = Shape {
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        block_shift: shape.block_shift(check)?,
        q_stride: strides[0] as u32,
        kv_stride: strides[1] as u32,
        kv_first: strides[2] as u32,
        half: half as u32,
        interleaved: u32::from(rope.is_some_and(|rope| rope.layout == RopeLayout::Interleaved)),
        norm: match transform.qk_norm.map(|norm| norm.span) {
            None => 0,
            Some(NormSpan::Head) => 1,
            Some(NormSpan::AllHeads) => 2,
        },
        norm_after_rope: u32::from(transform.qk_norm.is_some_and(|norm| norm.order == NormOrder::AfterRope)),
        q_weight_type: weight_type(q_weight),
        k_weight_type: weight_type(k_weight),
        eps: transform.qk_norm.map_or(0.0, |norm| norm.eps),
    };
    let kernel = if q.dtype() == DType::F32 { "qkv_rope_cache_f32" } else { "qkv_rope_cache_bf16" };
    let mut args = Args::new();
    args.write(&mut q).write(&mut cache.k).write(&mut cache.v);
    args.read(&q_in).read(&kv_in).read_opt(q_weight.as_ref()).read_opt(k_weight.as_ref());
    args.read_opt(rope.map(|rope| rope.cos).as_ref()).read_opt(rope.map(|rope| rope.sin).as_ref());
    args.read(&positions).read(&slots);
    args.bytes(bytemuck::bytes_of(&shape));
    let groups = (heads + 2 * kv_heads).div_ceil(HEADS);
    let grid = Grid { blocks: [rows as u32, groups as u32, 1], threads: 32 * HEADS as u32, shared_bytes: 0 };
    gpu.launch(kernel, grid, &args)
}
