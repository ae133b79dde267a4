//! The launch of `paged_attention`: a thread block per tile of queries and key/value head, and per split of the keys
//! where there are too few of those to fill the device.

use super::{AttentionParams, KvCache};
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid, float_type},
    ops::{
        attention::{AttentionMask, PagedSequences},
        check::Check,
        qkv_rope_cache::HeadShape,
    },
};

/// Positions whose softmax is worked out together, as in `cuh/attention.cuh`.
const SPLIT: usize = 256;
/// Where the KV blocks of two splits begin, in shared memory.
pub(in crate::ops) const BLOCK_RING_BYTES: u32 = 8 * 2 * SPLIT as u32 / 16;
/// Bytes that partial results may take; where they need more, thread blocks walk all splits themselves.
const PARTIAL_BYTES: usize = 128 << 20;

/// Bytes of scratch that [`paged_attention`](super::paged_attention) wants on a CUDA device, in steps of up to `rows`
/// rows with contexts of up to `context` tokens.
pub fn attention_scratch_bytes(rows: usize, heads: usize, head_dim: usize, context: usize) -> usize {
    partial_bytes(rows, heads, head_dim, context.div_ceil(SPLIT)).min(PARTIAL_BYTES)
}

fn partial_bytes(rows: usize, heads: usize, head_dim: usize, splits: usize) -> usize {
    [heads, splits, 4 * (2 + head_dim)].iter().fold(rows, |bytes, &n| bytes.saturating_mul(n))
}

/// As in `cuh/attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    sequences: u32,
    table_width: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    value_dim: u32,
    block_shift: u32,
    splits: u32,
    window: u32,
    chunk: u32,
    sinks_type: i32,
    scale: f32,
    softcap: f32,
    per_softcap: f32,
}

/// A kernel, and what a thread block of it takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Variant {
    pub(in crate::ops) name: &'static str,
    /// The kernel that merges splits; without one, the last thread block of a tile to arrive does.
    pub(in crate::ops) combine: Option<&'static str>,
    pub(in crate::ops) queries: usize,
    pub(in crate::ops) threads: u32,
    pub(in crate::ops) shared_bytes: u32,
}

impl Variant {
    /// The kernel for sequences with `queries` queries of a key/value head on average. All kernels of a type and head
    /// size give the same bits.
    fn of(capability: (u32, u32), dtype: DType, head_dim: usize, queries: usize) -> Variant {
        // The tensor cores want rows of whole 16-byte chunks.
        if dtype == DType::F32 || !head_dim.is_multiple_of(8) {
            return Variant::plain(dtype);
        }
        let of_size = |sizes: &&TileSizes| head_dim <= sizes.short.dim as usize;
        let wgmma = WGMMA.iter().find(of_size).filter(|_| capability == (9, 0));
        let Some(sizes) = wgmma.or_else(|| MMA.iter().find(of_size)) else { return Variant::plain(dtype) };
        // Bands of 16 without queries cost little.
        let is_tall = queries > 16 * sizes.short.bands as usize;
        sizes.tall.as_ref().filter(|_| is_tall).unwrap_or(&sizes.short).variant()
    }

    /// The kernel without tensor cores, for every size.
    pub(in crate::ops) fn plain(dtype: DType) -> Variant {
        let name = match dtype {
            DType::F32 => "paged_attention_plain_f32",
            _ => "paged_attention_plain_bf16",
        };
        Variant { name, combine: None, queries: 8, threads: 128, shared_bytes: 0 }
    }
}

/// A kernel on the tensor cores, as `TileShape` in `cuh/attend.cuh` describes it.
struct Tile {
    name: &'static str,
    dim: u32,
    span: u32,
    stages: u32,
    bands: u32,
    shares: u32,
}

impl Tile {
    fn variant(&self) -> Variant {
        let queries = 16 * self.bands;
        let tiles = 2 * self.dim * (queries + 2 * self.stages * self.span);
        let scores = if self.shares > 1 { 4 * queries * (self.span + 8) } else { 0 };
        Variant {
            name: self.name,
            combine: None,
            queries: queries as usize,
            threads: 32 * self.bands * self.shares,
            shared_bytes: tiles + BLOCK_RING_BYTES + scores,
        }
    }
}

/// The kernels for heads of up to so many elements: for few queries, and for many.
struct TileSizes {
    short: Tile,
    tall: Option<Tile>,
}

const fn tile(name: &'static str, dim: u32, span: u32, stages: u32, bands: u32, shares: u32) -> Tile {
    Tile { name, dim, span, stages, bands, shares }
}

/// Hopper's: one family of instructions for all rows of a head size. Larger heads have too many sums for a warpgroup.
const WGMMA: [TileSizes; 2] = [
    TileSizes {
        short: tile("paged_attention_wgmma64_bf16", 64, 64, 2, 4, 1),
        tall: Some(tile("paged_attention_wgmma64_tall_bf16", 64, 64, 2, 8, 1)),
    },
    TileSizes {
        short: tile("paged_attention_wgmma128_bf16", 128, 64, 2, 4, 1),
        tall: Some(tile("paged_attention_wgmma128_tall_bf16", 128, 64, 2, 8, 1)),
    },
];

/// Everywhere else.
const MMA: [TileSizes; 7] = [
    TileSizes {
        short: tile("paged_attention_mma32_bf16", 32, 64, 2, 1, 4),
        tall: Some(tile("paged_attention_mma32_tall_bf16", 32, 64, 2, 4, 1)),
    },
    TileSizes {
        short: tile("paged_attention_mma64_bf16", 64, 64, 2, 1, 4),
        tall: Some(tile("paged_attention_mma64_tall_bf16", 64, 64, 2, 4, 1)),
    },
    TileSizes {
        short: tile("paged_attention_mma96_bf16", 96, 64, 2, 1, 4),
        tall: Some(tile("paged_attention_mma96_tall_bf16", 96, 64, 1, 4, 1)),
    },
    TileSizes {
        short: tile("paged_attention_mma128_bf16", 128, 64, 2, 1, 4),
        tall: Some(tile("paged_attention_mma128_tall_bf16", 128, 64, 1, 4, 1)),
    },
    TileSizes {
        short: tile("paged_attention_mma192_bf16", 192, 64, 1, 1, 4),
        tall: Some(tile("paged_attention_mma192_tall_bf16", 192, 64, 1, 2, 4)),
    },
    TileSizes {
        short: tile("paged_attention_mma256_bf16", 256, 64, 1, 1, 4),
        tall: Some(tile("paged_attention_mma256_tall_bf16", 256, 64, 1, 2, 4)),
    },
    TileSizes { short: tile("paged_attention_mma512_bf16", 512, 32, 1, 1, 8), tall: None },
];

pub(super) fn paged_attention(
    gpu: &CudaDevice,
    check: Check,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: PagedSequences<'_>,
    params: AttentionParams<'_>,
) -> Result<()> {
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [_, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    let of_heads = HeadShape { heads, kv_heads, head_dim, block_size };
    let sizes = Sizes { rows, of_heads, value_dim: head_dim };
    let [count] = check.dims("context_lens", &sequences.context_lens)?;
    let queries = rows * (heads / kv_heads) / count.max(1);
    let variant = Variant::of(gpu.capability(), q.dtype(), head_dim, queries);
    attend(gpu, check, variant, sizes, out, q, cache, sequences, params)
}

/// Sizes of an attention: the values are the first `value_dim` elements of their slots.
pub(in crate::ops) struct Sizes {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) of_heads: HeadShape,
    pub(in crate::ops) value_dim: usize,
}

/// Launches `variant`, and what merges the splits where each has a thread block.
#[allow(clippy::too_many_arguments)] // One per tensor, as in every op.
pub(in crate::ops) fn attend(
    gpu: &CudaDevice,
    check: Check,
    variant: Variant,
    sizes: Sizes,
    mut out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: PagedSequences<'_>,
    params: AttentionParams<'_>,
) -> Result<()> {
    let Sizes { rows, of_heads, value_dim } = sizes;
    let HeadShape { heads, kv_heads, head_dim, block_size } = of_heads;
    let [count, table_width] = check.dims("block_tables", &sequences.block_tables)?;
    let tiles = rows * (heads / kv_heads) / variant.queries + count;
    let mut splits = (table_width * block_size).div_ceil(SPLIT);
    let bytes = partial_bytes(rows, heads, value_dim, splits);
    // Bits do not depend on this choice.
    if tiles * kv_heads >= 4 * gpu.multiprocessors() as usize || bytes > PARTIAL_BYTES {
        splits = 1;
    }
    let limit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let shape = Shape {
        sequences: count as u32,
        table_width: table_width as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        value_dim: value_dim as u32,
        block_shift: of_heads.block_shift(check)?,
        splits: splits as u32,
        window: match params.mask {
            AttentionMask::Sliding { window } => limit(window),
            _ => u32::MAX,
        },
        chunk: match params.mask {
            AttentionMask::Chunked { chunk } => limit(chunk),
            _ => 0,
        },
        sinks_type: params.sinks.map_or(0, |sinks| float_type(sinks.dtype())),
        scale: params.scale,
        softcap: params.softcap.unwrap_or(0.0),
        per_softcap: params.softcap.map_or(0.0, f32::recip),
    };
    let mut args = Args::new();
    args.write(&mut out).read(&q).read(&cache.k).read(&cache.v);
    args.read(&sequences.cu_seqlens_q).read(&sequences.context_lens).read(&sequences.block_tables);
    args.read_opt(params.temperature.as_ref())
        .read_opt(params.alibi_slopes.as_ref())
        .read_opt(params.sinks.as_ref());
    // There are fewer tiles than semaphores: else splits would be 1.
    match variant.combine {
        _ if splits == 1 => args.u64(0).u64(0),
        Some(_) => args.pointer(gpu.scratch(bytes)?).u64(0),
        None => args.pointer(gpu.scratch(bytes)?).pointer(gpu.semaphores()),
    };
    args.bytes(bytemuck::bytes_of(&shape));
    let Variant { threads, shared_bytes, .. } = variant;
    let blocks = [tiles as u32, kv_heads as u32, splits as u32];
    gpu.launch(variant.name, Grid { blocks, threads, shared_bytes }, &args)?;
    match variant.combine {
        Some(combine) if splits > 1 => {
            let grid = Grid { blocks: [rows as u32, heads as u32, 1], threads: 128, shared_bytes: 0 };
            gpu.launch(combine, grid, &args)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_of_a_head_size_have_one_family_of_instructions() {
        for head_dim in (8..=512).step_by(8) {
            for capability in [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)] {
                let hopper = capability == (9, 0) && head_dim <= 128;
                let family = if hopper { "paged_attention_wgmma" } else { "paged_attention_mma" };
                for queries in [1, 17, 65, 10_000] {
                    let variant = Variant::of(capability, DType::BF16, head_dim, queries);
                    assert!(
                        variant.name.starts_with(family),
                        "{capability:?} {head_dim} {queries}: {}",
                        variant.name
                    );
                    // What a thread block may have on 8.9 and 12.0.
                    assert!(hopper || variant.shared_bytes <= 99 << 10, "{}", variant.name);
                }
            }
        }
    }

    #[test]
    fn many_queries_take_tall_tiles() {
        let queries = |capability, queries| Variant::of(capability, DType::BF16, 128, queries).queries;
        assert_eq!([1, 16, 17, 5000].map(|n| queries((8, 0), n)), [16, 16, 64, 64]);
        assert_eq!([1, 64, 65, 5000].map(|n| queries((9, 0), n)), [64, 64, 128, 128]);
    }
}
