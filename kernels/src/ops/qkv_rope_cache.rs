//! `qkv_rope_cache`: between the q, k, v projections and attention.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use super::{attention::MAX_HEAD_DIM, check::Check, rope::RopeTable};
use crate::{DType, Device, Result, View, ViewMut, cpu::LANES};

/// One layer's KV blocks, to write. What a KV block holds inside is the device's own affair: the CPU keeps keys
/// transposed (see [`paged_attention`](super::paged_attention)).
pub struct KvCacheMut<'a> {
    /// Keys: compute `[B, Hkv, bs, D]`, bs a multiple of 16.
    pub k: ViewMut<'a>,
    /// Values, of the same shape and type.
    pub v: ViewMut<'a>,
}

/// Queries, keys and values as their projections left them.
#[derive(Clone, Copy)]
pub enum Qkv<'a> {
    /// f32 `[T, (Hq + 2 Hkv) D]`, each row q heads, k heads, v heads.
    Fused(View<'a>),
    /// Queries that took another path than keys and values.
    Split {
        /// f32 `[T, Hq·D]`
        q: View<'a>,
        /// f32 `[T, 2 Hkv·D]`, each row k heads, then v heads.
        kv: View<'a>,
    },
}

/// RMSNorm of q and k.
#[derive(Clone, Copy)]
pub struct QkNorm<'a> {
    /// Weights for q and k: any float, of the length that `span` says. None: the norm alone.
    pub weights: Option<[View<'a>; 2]>,
    /// What one norm is over.
    pub span: NormSpan,
    /// Before or after the rotation.
    pub order: NormOrder,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// What one norm of q or k is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormSpan {
    /// Each head; weights `[D]`.
    Head,
    /// All heads of a row together; weights `[Hq·D]` and `[Hkv·D]`. Before the rotation only.
    AllHeads,
}

/// When q and k are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOrder {
    /// Before they rotate.
    BeforeRope,
    /// After they rotated.
    AfterRope,
}

/// What happens to q and k on their way to attention.
#[derive(Clone, Copy, Default)]
pub struct HeadTransform<'a> {
    /// Norms both.
    pub qk_norm: Option<QkNorm<'a>>,
    /// Rotates both; None for layers without positions.
    pub rope: Option<RopeTable<'a>>,
}

/// Norms and rotates q and k, and writes k and v to their slots.
///
/// - `q`: compute `[T, Hq, D]`
/// - `cache`: compute `[B, Hkv, bs, D]`
/// - `qkv`: f32, as [`Qkv`] says
/// - `positions`: u32 `[T]`, rows of the rope table
/// - `slots`: u32 `[T]`, `KV block · bs + offset`; of two rows with the same slot the later wins
///
/// # Errors
/// When shapes or types do not fit, D is odd or over 512, a norm over all heads comes after the rotation, or a position
/// or slot is out of range.
pub fn qkv_rope_cache(
    device: &Device,
    q: ViewMut<'_>,
    cache: KvCacheMut<'_>,
    qkv: Qkv<'_>,
    transform: HeadTransform<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let check = Check("qkv_rope_cache");
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [blocks, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    let shape = HeadShape { heads, kv_heads, head_dim, block_size };
    check.activations("q", &q)?;
    for (name, tensor) in [("cache.k", &cache.k), ("cache.v", &cache.v)] {
        check.is(name, tensor, [blocks, kv_heads, block_size, head_dim], q.dtype())?;
    }
    match qkv {
        Qkv::Fused(qkv) => check.is("qkv", &qkv, [rows, (heads + 2 * kv_heads) * head_dim], DType::F32)?,
        Qkv::Split { q, kv } => {
            check.is("qkv.q", &q, [rows, heads * head_dim], DType::F32)?;
            check.is("qkv.kv", &kv, [rows, 2 * kv_heads * head_dim], DType::F32)?;
        }
    }
    shape.check(check)?;
    transform.check(check, shape)?;
    check.is("positions", &positions, [rows], DType::U32)?;
    check.is("slots", &slots, [rows], DType::U32)?;
    match device {
        Device::Cpu(cpu) => cpu::qkv_rope_cache(cpu, check, q, cache, qkv, transform, positions, slots),
        Device::Cuda(gpu) => cuda::qkv_rope_cache(gpu, check, q, cache, qkv, transform, positions, slots),
    }
}

/// Sizes of the heads and of KV blocks.
#[derive(Clone, Copy)]
pub(super) struct HeadShape {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) block_size: usize,
}

impl HeadShape {
    pub(super) fn check(self, check: Check) -> Result<()> {
        let HeadShape { heads, kv_heads, head_dim, block_size } = self;
        check.that(block_size.is_multiple_of(LANES) && block_size > 0, || {
            format!("KV blocks have {block_size} slots, expected a multiple of {LANES}")
        })?;
        check.that(kv_heads > 0 && heads.is_multiple_of(kv_heads), || {
            format!("{heads} query heads cannot share {kv_heads} key/value heads")
        })?;
        check.that(head_dim.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(&head_dim), || {
            format!("heads have {head_dim} elements, expected an even number from 2 to {MAX_HEAD_DIM}")
        })
    }

    /// The logarithm of the size of KV blocks, which kernels want to be a power of two.
    pub(super) fn block_shift(self, check: Check) -> Result<u32> {
        let size = self.block_size;
        check.that(size.is_power_of_two(), || {
            format!("KV blocks have {size} slots, on a CUDA device a power of two is needed")
        })?;
        Ok(size.trailing_zeros())
    }
}

impl HeadTransform<'_> {
    fn check(&self, check: Check, shape: HeadShape) -> Result<()> {
        let HeadShape { heads, kv_heads, head_dim, .. } = shape;
        if let Some(norm) = self.qk_norm {
            let [q, k] = match norm.span {
                NormSpan::Head => [head_dim; 2],
                NormSpan::AllHeads => [heads * head_dim, kv_heads * head_dim],
            };
            if let Some(weights) = norm.weights {
                for (name, weight, n) in [("qk_norm.q", weights[0], q), ("qk_norm.k", weights[1], k)] {
                    check.shape(name, &weight, [n])?;
                    check.float(name, &weight)?;
                }
            }
            let possible = norm.span == NormSpan::Head || norm.order == NormOrder::BeforeRope;
            check.that(possible, || "a norm over all heads cannot come after the rotation".into())?;
        }
        if let Some(rope) = self.rope {
            rope.check(check, head_dim)?;
        }
        Ok(())
    }
}
