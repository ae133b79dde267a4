//! Paged attention on the CPU: a task walks the keys and values of one key/value head for a tile of queries.

use std::ops::Range;

use half::bf16;

use super::{AttentionParams, KvCache};
use crate::{
    CpuDevice, DType, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd},
    ops::{
        adjust_logits::softcapped,
        attention::{
            AttentionMask, CacheElement, KEYS, MAX_HEAD_DIM, PagedSequences, SPAN, Scores, Sequences, State,
            Sums, TILE, Values, finish, weigh,
        },
        check::Check,
    },
};

pub(super) fn paged_attention(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: PagedSequences<'_>,
    params: AttentionParams<'_>,
) -> Result<()> {
    let [rows, heads, head_dim] = [0, 1, 2].map(|i| q.shape().dims()[i]);
    let [blocks, kv_heads, block_size] = [0, 1, 2].map(|i| cache.k.shape().dims()[i]);
    let sequences = Sequences::new(check, sequences, params.mask, rows, block_size, blocks)?;
    let group = heads / kv_heads;
    let AttentionParams { scale, mask, softcap, .. } = params;
    let temperature = params.temperature.map(|temperature| temperature.as_slice::<f32>()).transpose()?;
    if let Some(temperature) = temperature {
        sequences.end_within(check, temperature.len())?;
    }
    let sinks = params.sinks.map(Floats::new).transpose()?;
    let slopes = params.alibi_slopes.map(|slopes| slopes.as_slice()).transpose()?;
    let shape = Geometry {
        heads,
        kv_heads,
        group,
        head_dim,
        block_size,
        mask,
        scale,
        softcap,
        temperature,
        sinks,
        slopes,
    };
    match q.dtype() {
        DType::F32 => run::<f32>(cpu, out, q, cache, sequences, shape),
        _ => run::<bf16>(cpu, out, q, cache, sequences, shape),
    }
}

#[derive(Clone, Copy)]
struct Geometry<'a> {
    heads: usize,
    kv_heads: usize,
    /// Query heads per key/value head.
    group: usize,
    head_dim: usize,
    block_size: usize,
    mask: AttentionMask,
    scale: f32,
    softcap: Option<f32>,
    /// `[P]`
    temperature: Option<&'a [f32]>,
    /// `[Hq]`
    sinks: Option<Floats<'a>>,
    /// `[Hq]`
    slopes: Option<&'a [f32]>,
}

/// 0, 1, 2 ...
const LANE_NUMBERS: [f32; LANES] = {
    let mut numbers = [0.0; LANES];
    let mut i = 0;
    while i < LANES {
        numbers[i] = i as f32;
        i += 1;
    }
    numbers
};

/// One task per key/value head and tile of queries.
fn run<T: CacheElement>(
    cpu: &CpuDevice,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: Sequences<'_>,
    shape: Geometry<'_>,
) -> Result<()> {
    let (q, keys, values) = (q.as_slice::<T>()?, cache.k.as_slice::<T>()?, cache.v.as_slice::<T>()?);
    let out = Parts::new(out.into_mut_slice::<T>()?);
    let tiles = sequences.tiles(shape.group);
    cpu.pool.run(tiles * shape.kv_heads, |task| {
        let (kv_head, (sequence, first)) = (task / tiles, sequences.locate(task % tiles, shape.group));
        let rows = sequences.rows(sequence);
        let count = TILE.min(rows * shape.group - first);
        cpu.isa.run(Tile {
            q,
            keys,
            values,
            out: &out,
            shape,
            table: sequences.table(sequence),
            first_row: sequences.first_row(sequence),
            first_position: sequences.first_position(sequence),
            kv_head,
            first,
            count,
        });
    });
    Ok(())
}

struct Tile<'a, T> {
    q: &'a [T],
    keys: &'a [T],
    values: &'a [T],
    out: &'a Parts<'a, T>,
    shape: Geometry<'a>,
    /// The sequence's KV blocks, its first row in the step and that row's position.
    table: &'a [u32],
    first_row: usize,
    first_position: usize,
    kv_head: usize,
    /// The tile's first query in the sequence, and how many it has.
    first: usize,
    count: usize,
}

/// Where the keys and values of a span lie.
#[derive(Clone)]
struct Span {
    /// The first position.
    start: usize,
    /// The positions that some query of the tile sees, from the first.
    keys: Range<usize>,
    /// Index of the first element of each vector of keys. Vectors that no query sees repeat one that some do.
    key_at: [usize; KEYS],
    /// Index of each value that some query sees.
    value_at: [usize; SPAN],
}

impl<T: CacheElement> Kernel for Tile<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scores: Scores = [[0.0; SPAN]; TILE];
        let mut sums: Sums = [0.0; TILE * MAX_HEAD_DIM];
        let mut states = [State::new(s); TILE];
        let states = &mut states[..self.count];
        if let Some(sinks) = self.shape.sinks {
            for (i, state) in states.iter_mut().enumerate() {
                *state = State::after_sink(s, sinks.get(self.head(i)));
            }
        }
        let visible = self.visible(0).start..self.visible(self.count - 1).end;
        let last = (visible.end - 1) / SPAN;
        let mut span = self.span(visible.start / SPAN, &visible);
        loop {
            let next = self.span(last.min(span.start / SPAN + 1), &visible);
            self.score(s, &span, &next, &mut scores);
            for (i, (state, scores)) in states.iter_mut().zip(&mut scores).enumerate() {
                self.adjust(s, scores, span.start, i);
                weigh(s, state, scores, self.visible_in(span.start, i));
            }
            let (keys, at, next_at) = (span.keys.clone(), &span.value_at, &next.value_at);
            let values = Values { data: self.values, width: self.shape.head_dim, keys, at, next_at };
            values.add(s, states, &scores, &mut sums);
            if span.start == next.start {
                break;
            }
            span = next;
        }
        for (i, state) in states.iter().enumerate() {
            let start = self.query(i);
            // SAFETY: this query's output is no other task's.
            let out = unsafe { self.out.get(start..start + self.shape.head_dim) };
            finish(s, state, &sums, i, out);
        }
    }
}

impl<T: CacheElement> Tile<'_, T> {
    /// Positions that query `i` of the tile sees.
    #[inline(always)]
    fn visible(&self, i: usize) -> Range<usize> {
        let position = self.first_position + (self.first + i) / self.shape.group;
        self.shape.mask.first_visible(position)..position + 1
    }

    /// The head of query `i`.
    #[inline(always)]
    fn head(&self, i: usize) -> usize {
        self.kv_head * self.shape.group + (self.first + i) % self.shape.group
    }

    /// First element of query `i` in `q` and `out`.
    #[inline(always)]
    fn query(&self, i: usize) -> usize {
        let row = self.first_row + (self.first + i) / self.shape.group;
        (row * self.shape.heads + self.head(i)) * self.shape.head_dim
    }

    /// Keys of the span from position `start` that query `i` sees.
    #[inline(always)]
    fn visible_in(&self, start: usize, i: usize) -> Range<usize> {
        let visible = self.visible(i);
        visible.start.saturating_sub(start)..visible.end.saturating_sub(start)
    }

    /// The span of positions from `index * SPAN`, as far as they are in `visible`.
    #[inline(always)]
    fn span(&self, index: usize, visible: &Range<usize>) -> Span {
        let Geometry { kv_heads, head_dim, block_size, .. } = self.shape;
        let start = index * SPAN;
        let keys = visible.start.saturating_sub(start)..SPAN.min(visible.end - start);
        let block = |position: usize| {
            let block = self.table[position / block_size] as usize;
            (block * kv_heads + self.kv_head) * block_size * head_dim
        };
        let key_at = std::array::from_fn(|j| {
            let position =
                start + (j * LANES).clamp(keys.start / LANES * LANES, keys.end - 1) / LANES * LANES;
            block(position) + position % block_size * T::GROUP
        });
        let mut value_at = [0; SPAN];
        for (key, at) in value_at.iter_mut().enumerate().take(keys.end).skip(keys.start) {
            *at = block(start + key) + (start + key) % block_size * head_dim;
        }
        Span { start, keys, key_at, value_at }
    }

    /// Scores of all queries with a span's keys. Those of keys that no query sees mean nothing.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, span: &Span, next: &Span, scores: &mut Scores) {
        let mut i = 0;
        if S::REGISTERS >= 32 {
            while i + 4 <= self.count {
                self.score_tile::<S, 4>(s, i, span, next, scores);
                i += 4;
            }
        }
        while i + 2 <= self.count {
            self.score_tile::<S, 2>(s, i, span, next, scores);
            i += 2;
        }
        if i < self.count {
            self.score_tile::<S, 1>(s, i, span, next, scores);
        }
    }

    /// Scores of queries `i..i + M` with a span's keys. The first tile also fetches the next span's keys.
    #[inline(always)]
    fn score_tile<S: Simd, const M: usize>(
        &self,
        s: S,
        i: usize,
        span: &Span,
        next: &Span,
        scores: &mut Scores,
    ) {
        let Geometry { block_size, head_dim, scale, .. } = self.shape;
        let queries: [&[T]; M] = std::array::from_fn(|m| &self.q[self.query(i + m)..][..head_dim]);
        // A head's keys from the vector's first key on; they end with the KV block's last group.
        let extent = (head_dim / T::GROUP - 1) * block_size * T::GROUP + LANES * T::GROUP;
        let keys: [&[T]; KEYS] = std::array::from_fn(|j| &self.keys[span.key_at[j]..][..extent]);
        let mut sums = [[s.splat(0.0); KEYS]; M];
        for group in 0..head_dim / T::GROUP {
            let at = group * block_size * T::GROUP;
            // SAFETY: 16 keys' groups lie at most `extent` from the first.
            let mut operands =
                [unsafe { T::load_operand(s, keys[0].as_ptr().add(at), LANES * T::GROUP) }; KEYS];
            for j in 1..KEYS {
                // SAFETY: as above.
                operands[j] = unsafe { T::load_operand(s, keys[j].as_ptr().add(at), LANES * T::GROUP) };
            }
            if i == 0 {
                for first in next.key_at {
                    s.prefetch(self.keys.as_ptr().wrapping_add(first + at).cast());
                }
            }
            for m in 0..M {
                // SAFETY: a query has head_dim elements.
                let query = unsafe { T::splat(s, queries[m].as_ptr().add(group * T::GROUP)) };
                for j in 0..KEYS {
                    sums[m][j] = T::dot(s, sums[m][j], query, operands[j]);
                }
            }
        }
        for m in 0..M {
            for j in 0..KEYS {
                let scores = &mut scores[i + m][j * LANES..(j + 1) * LANES];
                f32::store(s, scores, s.mul(sums[m][j], s.splat(scale)));
            }
        }
    }

    /// Softcap, temperature and ALiBi of query `i`'s scores with the keys from position `start`.
    #[inline(always)]
    fn adjust<S: Simd>(&self, s: S, scores: &mut [f32; SPAN], start: usize, i: usize) {
        let Geometry { softcap, temperature, slopes, .. } = self.shape;
        if softcap.is_none() && temperature.is_none() && slopes.is_none() {
            return;
        }
        let query = self.visible(i).end - 1;
        for (j, scores) in scores.chunks_mut(LANES).enumerate() {
            let mut x = f32::load(s, scores);
            if let Some(cap) = softcap {
                x = softcapped(s, x, cap);
            }
            if let Some(temperature) = temperature {
                x = s.mul(x, s.splat(temperature[query]));
            }
            if let Some(slopes) = slopes {
                let first = (start + j * LANES) as f32 - query as f32;
                let distance = s.add(s.splat(first), f32::load(s, &LANE_NUMBERS));
                x = s.mul_add(s.splat(slopes[self.head(i)]), distance, x);
            }
            f32::store(s, scores, x);
        }
    }
}
