//! Online softmax: one step of the walk over a sequence's keys and values, for the queries of a tile.

use std::ops::Range;

use super::{CHUNK, CacheElement, MAX_HEAD_DIM, SPAN, TILE};
use crate::cpu::{Float, LANES, Simd, exp};

/// Vectors of keys in a span.
pub(in crate::ops) const KEYS: usize = SPAN / LANES;

/// The scores of a tile's queries with a span's keys, then their weights.
pub(in crate::ops) type Scores = [[f32; SPAN]; TILE];
/// The weighted sums of values of a tile's queries, by chunks of [`CHUNK`].
pub(in crate::ops) type Sums = [f32; TILE * MAX_HEAD_DIM];

/// A query's progress.
#[derive(Clone, Copy)]
pub(in crate::ops) struct State<V> {
    /// The largest score so far.
    max: f32,
    /// The sum of `e^(score - max)` so far, by lane.
    sum: V,
    /// What the weighted sum of values is to be scaled by before the current span is added.
    rescale: f32,
}

impl<V: Copy> State<V> {
    /// Before the first key.
    #[inline(always)]
    pub(in crate::ops) fn new<S: Simd<V = V>>(s: S) -> State<V> {
        State { max: f32::MIN, sum: s.splat(0.0), rescale: 1.0 }
    }

    /// After a key without a value, which comes before all others.
    #[inline(always)]
    pub(in crate::ops) fn after_sink<S: Simd<V = V>>(s: S, sink: f32) -> State<V> {
        // -∞ - -∞ is NaN, and a sink of -∞ is none.
        let max = if sink < f32::MIN { f32::MIN } else { sink };
        State { max, sum: s.keep(s.splat(1.0), 0..1, 0.0), rescale: 1.0 }
    }
}

/// Turns a query's scores into weights `e^(score - max)`, 0 for keys outside `visible`.
#[inline(always)]
pub(in crate::ops) fn weigh<S: Simd>(
    s: S,
    state: &mut State<S::V>,
    scores: &mut [f32; SPAN],
    visible: Range<usize>,
) {
    let mut masked = [s.splat(0.0); KEYS];
    let mut max = s.splat(state.max);
    for j in 0..KEYS {
        let first = visible.start.saturating_sub(j * LANES).min(LANES);
        let end = visible.end.saturating_sub(j * LANES).min(LANES);
        let scores = f32::load(s, &scores[j * LANES..(j + 1) * LANES]);
        masked[j] = s.keep(scores, first..end, f32::NEG_INFINITY);
        max = s.max(masked[j], max);
    }
    let max = s.max_lane(max);
    state.rescale = s.first(exp(s, s.splat(state.max - max)));
    state.sum = s.mul(state.sum, s.splat(state.rescale));
    state.max = max;
    for j in 0..KEYS {
        let weights = exp(s, s.sub(masked[j], s.splat(max)));
        state.sum = s.add(state.sum, weights);
        f32::store(s, &mut scores[j * LANES..(j + 1) * LANES], weights);
    }
}

/// The values of a span.
pub(in crate::ops) struct Values<'a, T> {
    pub(in crate::ops) data: &'a [T],
    /// Elements of a value.
    pub(in crate::ops) width: usize,
    /// Those that some query of the tile sees, from the span's first.
    pub(in crate::ops) keys: Range<usize>,
    /// Index in `data` of each.
    pub(in crate::ops) at: &'a [usize; SPAN],
    /// Index of each of the next span's, to be fetched ahead.
    pub(in crate::ops) next_at: &'a [usize; SPAN],
}

impl<T: CacheElement> Values<'_, T> {
    /// `sums = rescale · sums + Σ weight · value`, for all queries.
    #[inline(always)]
    pub(in crate::ops) fn add<S: Simd>(
        &self,
        s: S,
        states: &[State<S::V>],
        weights: &Scores,
        sums: &mut Sums,
    ) {
        let mut i = 0;
        if S::REGISTERS >= 32 {
            while i + 4 <= states.len() {
                self.add_tile::<S, 4>(s, i, states, weights, sums);
                i += 4;
            }
        }
        while i + 2 <= states.len() {
            self.add_tile::<S, 2>(s, i, states, weights, sums);
            i += 2;
        }
        if i < states.len() {
            self.add_tile::<S, 1>(s, i, states, weights, sums);
        }
    }

    /// Queries `i..i + M`. The first tile also fetches the next span's values.
    #[inline(always)]
    fn add_tile<S: Simd, const M: usize>(
        &self,
        s: S,
        i: usize,
        states: &[State<S::V>],
        weights: &Scores,
        sums: &mut Sums,
    ) {
        let width = self.width.next_multiple_of(CHUNK);
        for at in (0..self.width).step_by(CHUNK) {
            let n = CHUNK.min(self.width - at);
            let mut chunks = [[s.splat(0.0); 2]; M];
            for m in 0..M {
                for half in 0..2 {
                    let sums = &sums[(i + m) * width + at + half * LANES..][..LANES];
                    chunks[m][half] = s.mul(f32::load(s, sums), s.splat(states[i + m].rescale));
                }
            }
            for key in self.keys.clone() {
                let value = &self.data[self.at[key] + at..][..n];
                // SAFETY: the slice has n elements.
                let value = unsafe {
                    if n == CHUNK {
                        T::load_chunk(s, value.as_ptr(), CHUNK)
                    } else {
                        T::load_chunk(s, value.as_ptr(), n)
                    }
                };
                if i == 0 {
                    s.prefetch(self.data.as_ptr().wrapping_add(self.next_at[key] + at).cast());
                }
                for m in 0..M {
                    let weight = s.splat(weights[i + m][key]);
                    for half in 0..2 {
                        chunks[m][half] = s.mul_add(weight, value[half], chunks[m][half]);
                    }
                }
            }
            for m in 0..M {
                for half in 0..2 {
                    let sums = &mut sums[(i + m) * width + at + half * LANES..][..LANES];
                    f32::store(s, sums, chunks[m][half]);
                }
            }
        }
    }
}

/// Writes the output of query `i` of a tile: its sums, divided by the sum of weights.
#[inline(always)]
pub(in crate::ops) fn finish<S: Simd, T: CacheElement>(
    s: S,
    state: &State<S::V>,
    sums: &Sums,
    i: usize,
    out: &mut [T],
) {
    let width = out.len().next_multiple_of(CHUNK);
    let scale = s.splat(1.0 / s.sum(state.sum));
    for (out, sums) in out.chunks_mut(CHUNK).zip(sums[i * width..].chunks(CHUNK)) {
        // Adding zero turns -0 into 0: a key that is masked instead of left out may change that sign.
        let first = s.mul_add(f32::load(s, &sums[..LANES]), scale, s.splat(0.0));
        let second = s.mul_add(f32::load(s, &sums[LANES..]), scale, s.splat(0.0));
        T::store_chunk(s, out, [first, second]);
    }
}
