//! Element types of keys and values.

use half::bf16;

use super::CHUNK;
use crate::cpu::{Float, FloatWeight, Input, LANES, Simd};

/// An element type of keys and values.
pub(in crate::ops) trait CacheElement: Input + FloatWeight<Input = Self> {
    /// Elements of a key that lie together.
    const GROUP: usize;

    /// Where element `d` of the key at `offset` lies in a KV block of a head.
    fn key_index(d: usize, offset: usize, block_size: usize) -> usize {
        (d / Self::GROUP * block_size + offset) * Self::GROUP + d % Self::GROUP
    }

    /// One group of elements, 16 times.
    ///
    /// # Safety
    /// `GROUP` elements can be read at `p`.
    unsafe fn splat<S: Simd>(s: S, p: *const Self) -> Self::Operand<S>;

    /// `n <= CHUNK` elements of a value, in the order that is cheapest.
    ///
    /// # Safety
    /// `n` elements can be read at `p`.
    unsafe fn load_chunk<S: Simd>(s: S, p: *const Self, n: usize) -> [S::V; 2];

    /// Writes up to `CHUNK` elements that are in the order of [`CacheElement::load_chunk`].
    fn store_chunk<S: Simd>(s: S, out: &mut [Self], chunk: [S::V; 2]);
}

impl CacheElement for f32 {
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn splat<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: as promised by the caller.
        s.splat(unsafe { *p })
    }

    #[inline(always)]
    unsafe fn load_chunk<S: Simd>(s: S, p: *const f32, n: usize) -> [S::V; 2] {
        let first = n.min(LANES);
        // SAFETY: as promised by the caller.
        unsafe { [s.load_f32(p, first), s.load_f32(p.add(first), n - first)] }
    }

    #[inline(always)]
    fn store_chunk<S: Simd>(s: S, out: &mut [f32], chunk: [S::V; 2]) {
        let (first, second) = out.split_at_mut(out.len().min(LANES));
        f32::store(s, first, chunk[0]);
        f32::store(s, second, chunk[1]);
    }
}

impl CacheElement for bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn splat<S: Simd>(s: S, p: *const bf16) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe { s.splat_pair(p) }
    }

    #[inline(always)]
    unsafe fn load_chunk<S: Simd>(s: S, p: *const bf16, n: usize) -> [S::V; 2] {
        // SAFETY: as promised by the caller.
        s.split(unsafe { s.load_pairs(p, n) })
    }

    #[inline(always)]
    fn store_chunk<S: Simd>(s: S, out: &mut [bf16], chunk: [S::V; 2]) {
        // SAFETY: no more elements than the slice has.
        unsafe { s.store_pairs(out.as_mut_ptr(), out.len().min(CHUNK), s.join(chunk)) }
    }
}
