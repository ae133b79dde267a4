//! The launch of `latent_attention`: that of `paged_attention`, with one key/value head for all heads of queries, whose
//! values are the first elements of its keys.

use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    ops::{
        AttentionMask, AttentionParams, KvCache, PagedSequences, attention_scratch_bytes,
        check::Check,
        paged_attention::{BLOCK_RING_BYTES, Sizes, Variant, attend},
        qkv_rope_cache::HeadShape,
    },
};

/// Bytes of scratch that [`latent_attention`](super::latent_attention) wants on a CUDA device, in steps of up to `rows`
/// rows with contexts of up to `context` tokens, over latents of `latent` elements.
pub fn latent_attention_scratch_bytes(rows: usize, heads: usize, latent: usize, context: usize) -> usize {
    attention_scratch_bytes(rows, heads, latent, context)
}

/// Sizes of the kernel on the tensor cores, as in the `.cu` file: elements of a row in shared memory, rows of a span.
const MMA_WIDTH: usize = 576;
const MMA_SPAN: u32 = 32;
/// Queries and two spans, then the dot products over both halves of the rows.
const MMA_SHARED_BYTES: u32 =
    (16 + 2 * MMA_SPAN) * 2 * MMA_WIDTH as u32 + 2 * 16 * 4 * (MMA_SPAN + 8) + BLOCK_RING_BYTES;

fn variant(dtype: DType, width: usize, latent: usize) -> Variant {
    // All heads share the keys: a thread block would have too much to merge.
    let combine = Some(match dtype {
        DType::F32 => "paged_attention_combine_f32",
        _ => "paged_attention_combine_bf16",
    });
    let vectors = width.is_multiple_of(8) && latent.is_multiple_of(8);
    if dtype == DType::BF16 && vectors && width <= MMA_WIDTH {
        let name = "latent_attention_mma_bf16";
        Variant { name, combine, queries: 16, threads: 256, shared_bytes: MMA_SHARED_BYTES }
    } else {
        Variant { combine, ..Variant::plain(dtype) }
    }
}

pub(super) fn latent_attention(
    gpu: &CudaDevice,
    check: Check,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: View<'_>,
    sequences: PagedSequences<'_>,
    scale: f32,
) -> Result<()> {
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [_, block_size, _] = check.dims("cache", &cache)?;
    let [_, _, value_dim] = check.dims("out", &out)?;
    check.that(block_size >= 16, || {
        format!("KV blocks have {block_size} slots, a CUDA device needs at least 16")
    })?;
    let of_heads = HeadShape { heads, kv_heads: 1, head_dim, block_size };
    let sizes = Sizes { rows, of_heads, value_dim };
    let params = AttentionParams::new(scale, AttentionMask::Full);
    let cache = KvCache { k: cache, v: cache };
    attend(gpu, check, variant(q.dtype(), head_dim, value_dim), sizes, out, q, cache, sequences, params)
}
