//! `paged_attention`: queries against the keys and values of their sequences, KV block by KV block.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

pub use cuda::attention_scratch_bytes;
pub(super) use cuda::{BLOCK_RING_BYTES, Sizes, Variant, attend};

use super::{
    attention::{AttentionMask, PagedSequences},
    check::Check,
    qkv_rope_cache::HeadShape,
};
use crate::{DType, Device, Result, View, ViewMut};

/// One layer's KV blocks, to read.
///
/// On the CPU the keys of a KV block and head are transposed: `[D, bs]` for f32 and `[D/2, bs, 2]` for bf16, so
/// that 16 keys fill a vector. Values are `[bs, D]`. Only
/// [`qkv_rope_cache`](super::qkv_rope_cache) writes them.
#[derive(Clone, Copy)]
pub struct KvCache<'a> {
    /// Keys: compute `[B, Hkv, bs, D]`, bs a multiple of 16.
    pub k: View<'a>,
    /// Values, of the same shape and type.
    pub v: View<'a>,
}

/// How scores become weights. A score is `scale · q·k`, then `c · tanh(score / c)` with a softcap c, then times the
/// temperature of the query's position, then `+ slope · (k - q)` of the positions with ALiBi.
#[derive(Clone, Copy)]
pub struct AttentionParams<'a> {
    /// Factor of `q·k`.
    pub scale: f32,
    /// Which keys count.
    pub mask: AttentionMask,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// f32 `[P]`: a factor of the scores by the query's position.
    pub temperature: Option<View<'a>>,
    /// Any float `[Hq]`: one more logit of each head's softmax, without a value.
    pub sinks: Option<View<'a>>,
    /// f32 `[Hq]` (Press et al. 2021, arXiv 2108.12409).
    pub alibi_slopes: Option<View<'a>>,
}

impl AttentionParams<'_> {
    /// Nothing but a scale and a mask.
    pub fn new(scale: f32, mask: AttentionMask) -> Self {
        AttentionParams { scale, mask, softcap: None, temperature: None, sinks: None, alibi_slopes: None }
    }
}

/// `out = softmax(scores) · v` over the keys that each row sees, head by head; `Hq / Hkv` query heads in a row share a
/// key/value head.
///
/// - `out`: compute `[T, Hq·D]`
/// - `q`: compute `[T, Hq, D]`
/// - `cache`: compute `[B, Hkv, bs, D]`
///
/// Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) over spans of 64 positions that start at
/// multiples of 64, so the order of sums depends on a row's position alone. Slots that a row does not see are
/// never part of its result, even if they hold NaN.
///
/// # Errors
/// When shapes or types do not fit, D is odd or over 512, a window, chunk or softcap is not positive, or the sequences
/// contradict themselves or go beyond the temperatures.
pub fn paged_attention(
    device: &Device,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: PagedSequences<'_>,
    params: AttentionParams<'_>,
) -> Result<()> {
    let check = Check("paged_attention");
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [blocks, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    check.activations("q", &q)?;
    for (name, tensor) in [("cache.k", &cache.k), ("cache.v", &cache.v)] {
        check.is(name, tensor, [blocks, kv_heads, block_size, head_dim], q.dtype())?;
    }
    check.is("out", &out, [rows, heads * head_dim], q.dtype())?;
    HeadShape { heads, kv_heads, head_dim, block_size }.check(check)?;
    sequences.check(check)?;
    params.mask.check(check)?;
    check.softcap(params.softcap)?;
    if let Some(temperature) = params.temperature {
        let [_] = check.dims("temperature", &temperature)?;
        check.dtype("temperature", &temperature, DType::F32)?;
    }
    if let Some(sinks) = params.sinks {
        check.shape("sinks", &sinks, [heads])?;
        check.float("sinks", &sinks)?;
    }
    if let Some(slopes) = params.alibi_slopes {
        check.is("alibi_slopes", &slopes, [heads], DType::F32)?;
    }
    match device {
        Device::Cpu(cpu) => cpu::paged_attention(cpu, check, out, q, cache, sequences, params),
        Device::Cuda(gpu) => cuda::paged_attention(gpu, check, out, q, cache, sequences, params),
    }
}
