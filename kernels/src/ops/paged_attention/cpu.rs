//! Paged attention on the CPU: a task walks the keys and values of one key/value head for a tile of queries.

use std::ops::Range;

use half::bf16;

use super::{AttentionMask, AttentionParams, KvCache, MAX_HEAD_DIM, PagedSequences};
use crate::{
    CpuDevice, DType, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd, Weight, exp},
    ops::{adjust_logits::softcapped, check::Check},
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

/// The sequences, checked.
#[derive(Clone, Copy)]
struct Sequences<'a> {
    cu_seqlens_q: &'a [u32],
    context_lens: &'a [u32],
    block_tables: &'a [u32],
    table_width: usize,
}

impl<'a> Sequences<'a> {
    fn new(
        check: Check,
        views: PagedSequences<'a>,
        mask: AttentionMask,
        rows: usize,
        block_size: usize,
        blocks: usize,
    ) -> Result<Sequences<'a>> {
        let [count, table_width] = [0, 1].map(|i| views.block_tables.shape().dims()[i]);
        let sequences = Sequences {
            cu_seqlens_q: views.cu_seqlens_q.as_slice()?,
            context_lens: views.context_lens.as_slice()?,
            block_tables: views.block_tables.as_slice()?,
            table_width,
        };
        let ends = (sequences.cu_seqlens_q[0], sequences.cu_seqlens_q[count] as usize);
        check.that(ends == (0, rows), || {
            format!("cu_seqlens_q runs from {} to {}, expected 0 to {rows}", ends.0, ends.1)
        })?;
        for i in 0..count {
            let (start, end) = (sequences.cu_seqlens_q[i], sequences.cu_seqlens_q[i + 1]);
            let context = sequences.context_lens[i] as usize;
            check.that(start <= end && (end - start) as usize <= context, || {
                format!("sequence {i} has rows {start}..{end} and {context} tokens in the cache")
            })?;
            check.that(context <= table_width * block_size, || {
                format!(
                    "sequence {i} has {context} tokens, its block table holds {}",
                    table_width * block_size
                )
            })?;
            if start < end {
                let first = mask.first_visible(context - (end - start) as usize);
                let table = &sequences.table(i)[first / block_size..context.div_ceil(block_size)];
                check.indices("block_tables", table, blocks)?;
            }
        }
        Ok(sequences)
    }

    /// No sequence has more than `positions` tokens.
    fn end_within(&self, check: Check, positions: usize) -> Result<()> {
        let beyond = self.context_lens.iter().position(|&context| context as usize > positions);
        check.that(beyond.is_none(), || {
            let sequence = beyond.unwrap_or_default();
            let context = self.context_lens[sequence];
            format!("sequence {sequence} has {context} tokens, temperatures end at {positions}")
        })
    }

    fn table(&self, sequence: usize) -> &'a [u32] {
        &self.block_tables[sequence * self.table_width..(sequence + 1) * self.table_width]
    }

    fn rows(&self, sequence: usize) -> usize {
        (self.cu_seqlens_q[sequence + 1] - self.cu_seqlens_q[sequence]) as usize
    }

    /// Tiles of each key/value head.
    fn tiles(&self, group: usize) -> usize {
        (0..self.context_lens.len()).map(|i| (self.rows(i) * group).div_ceil(TILE)).sum()
    }

    /// The sequence of a tile, and its first query in it.
    fn locate(&self, mut tile: usize, group: usize) -> (usize, usize) {
        for i in 0..self.context_lens.len() {
            let tiles = (self.rows(i) * group).div_ceil(TILE);
            if tile < tiles {
                return (i, tile * TILE);
            }
            tile -= tiles;
        }
        (self.context_lens.len(), 0)
    }
}

/// Queries that share a walk over keys and values. A query is a (row, head) pair; those of a row's group are
/// neighbours.
const TILE: usize = 16;
/// Positions of one step of the walk, which starts at a multiple of it. Part of the order of sums.
const SPAN: usize = 64;
/// Vectors of keys in a span.
const KEYS: usize = SPAN / LANES;
/// Elements of a value that are handled together: two vectors.
const CHUNK: usize = 2 * LANES;

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

/// An element type of keys and values.
pub(in crate::ops) trait CacheElement: Weight<Input = Self> + Float {
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
            first_row: sequences.cu_seqlens_q[sequence] as usize,
            first_position: sequences.context_lens[sequence] as usize - rows,
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

/// A query's progress.
#[derive(Clone, Copy)]
struct State<V> {
    /// The largest score so far.
    max: f32,
    /// The sum of `e^(score - max)` so far, by lane.
    sum: V,
    /// What the weighted sum of values is to be scaled by before the current span is added.
    rescale: f32,
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

/// The scores of a tile's queries with a span's keys, then their weights.
type Scores = [[f32; SPAN]; TILE];
/// The weighted sums of values of a tile's queries, by chunks of [`CHUNK`].
type Sums = [f32; TILE * MAX_HEAD_DIM];

impl<T: CacheElement> Kernel for Tile<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scores: Scores = [[0.0; SPAN]; TILE];
        let mut sums: Sums = [0.0; TILE * MAX_HEAD_DIM];
        let mut states = [State { max: f32::MIN, sum: s.splat(0.0), rescale: 1.0 }; TILE];
        for (i, state) in states[..self.count].iter_mut().enumerate() {
            self.begin(s, state, i);
        }
        let visible = self.visible(0).start..self.visible(self.count - 1).end;
        let last = (visible.end - 1) / SPAN;
        let mut span = self.span(visible.start / SPAN, &visible);
        loop {
            let next = self.span(last.min(span.start / SPAN + 1), &visible);
            self.score(s, &span, &next, &mut scores);
            for (i, (state, scores)) in states[..self.count].iter_mut().zip(&mut scores).enumerate() {
                self.weigh(s, state, scores, span.start, i);
            }
            self.add_values(s, &span, &next, &states, &scores, &mut sums);
            if span.start == next.start {
                break;
            }
            span = next;
        }
        self.finish(s, &states, &sums);
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

    /// A sink is a key without a value, and comes before all others.
    #[inline(always)]
    fn begin<S: Simd>(&self, s: S, state: &mut State<S::V>, i: usize) {
        if let Some(sinks) = self.shape.sinks {
            let sink = sinks.get(self.head(i));
            // -∞ - -∞ is NaN, and a sink of -∞ is none.
            state.max = if sink < f32::MIN { f32::MIN } else { sink };
            state.sum = s.keep(s.splat(1.0), 0..1, 0.0);
        }
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
                [unsafe { T::load_weight(s, keys[0].as_ptr().add(at), LANES * T::GROUP) }; KEYS];
            for j in 1..KEYS {
                // SAFETY: as above.
                operands[j] = unsafe { T::load_weight(s, keys[j].as_ptr().add(at), LANES * T::GROUP) };
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

    /// Turns a query's scores from position `start` into weights `e^(score - max)`, 0 for keys that it does not see.
    #[inline(always)]
    fn weigh<S: Simd>(
        &self,
        s: S,
        state: &mut State<S::V>,
        scores: &mut [f32; SPAN],
        start: usize,
        i: usize,
    ) {
        let visible = self.visible(i);
        let lanes = visible.start.saturating_sub(start)..visible.end.saturating_sub(start);
        let mut masked = [s.splat(0.0); KEYS];
        let mut max = s.splat(state.max);
        for j in 0..KEYS {
            let first = lanes.start.saturating_sub(j * LANES).min(LANES);
            let end = lanes.end.saturating_sub(j * LANES).min(LANES);
            let scores = f32::load(s, &scores[j * LANES..(j + 1) * LANES]);
            let scores = self.adjust(s, scores, start + j * LANES, i);
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

    /// Softcap, temperature and ALiBi of query `i`'s scores with the keys from position `start`.
    #[inline(always)]
    fn adjust<S: Simd>(&self, s: S, mut scores: S::V, start: usize, i: usize) -> S::V {
        if let Some(cap) = self.shape.softcap {
            scores = softcapped(s, scores, cap);
        }
        let query = self.visible(i).end - 1;
        if let Some(temperature) = self.shape.temperature {
            scores = s.mul(scores, s.splat(temperature[query]));
        }
        if let Some(slopes) = self.shape.slopes {
            let distance = s.add(s.splat(start as f32 - query as f32), f32::load(s, &LANE_NUMBERS));
            scores = s.mul_add(s.splat(slopes[self.head(i)]), distance, scores);
        }
        scores
    }

    /// `sums = rescale · sums + Σ weight · value` over the keys of one span, for all queries.
    #[inline(always)]
    fn add_values<S: Simd>(
        &self,
        s: S,
        span: &Span,
        next: &Span,
        states: &[State<S::V>; TILE],
        weights: &Scores,
        sums: &mut Sums,
    ) {
        let mut i = 0;
        if S::REGISTERS >= 32 {
            while i + 4 <= self.count {
                self.add_tile::<S, 4>(s, i, span, next, states, weights, sums);
                i += 4;
            }
        }
        while i + 2 <= self.count {
            self.add_tile::<S, 2>(s, i, span, next, states, weights, sums);
            i += 2;
        }
        if i < self.count {
            self.add_tile::<S, 1>(s, i, span, next, states, weights, sums);
        }
    }

    /// Queries `i..i + M`. The first tile also fetches the next span's values.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // Inlined into `add_values`.
    fn add_tile<S: Simd, const M: usize>(
        &self,
        s: S,
        i: usize,
        span: &Span,
        next: &Span,
        states: &[State<S::V>; TILE],
        weights: &Scores,
        sums: &mut Sums,
    ) {
        let d = self.shape.head_dim;
        let width = d.next_multiple_of(CHUNK);
        for at in (0..d).step_by(CHUNK) {
            let n = CHUNK.min(d - at);
            let mut chunks = [[s.splat(0.0); 2]; M];
            for m in 0..M {
                for half in 0..2 {
                    let sums = &sums[(i + m) * width + at + half * LANES..][..LANES];
                    chunks[m][half] = s.mul(f32::load(s, sums), s.splat(states[i + m].rescale));
                }
            }
            for key in span.keys.clone() {
                let value = &self.values[span.value_at[key] + at..][..n];
                // SAFETY: the slice has n elements.
                let value = unsafe {
                    if n == CHUNK {
                        T::load_chunk(s, value.as_ptr(), CHUNK)
                    } else {
                        T::load_chunk(s, value.as_ptr(), n)
                    }
                };
                if i == 0 {
                    s.prefetch(self.values.as_ptr().wrapping_add(next.value_at[key] + at).cast());
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

    /// Divides by the sum of weights and writes the output.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, states: &[State<S::V>; TILE], sums: &Sums) {
        let d = self.shape.head_dim;
        let width = d.next_multiple_of(CHUNK);
        for (i, state) in states[..self.count].iter().enumerate() {
            let start = self.query(i);
            // SAFETY: this query's output is no other task's.
            let out = unsafe { self.out.get(start..start + d) };
            let scale = s.splat(1.0 / s.sum(state.sum));
            for (out, sums) in out.chunks_mut(CHUNK).zip(sums[i * width..].chunks(CHUNK)) {
                // Adding zero turns -0 into 0: a key that is masked instead of left out may change that sign.
                let first = s.mul_add(f32::load(s, &sums[..LANES]), scale, s.splat(0.0));
                let second = s.mul_add(f32::load(s, &sums[LANES..]), scale, s.splat(0.0));
                T::store_chunk(s, out, [first, second]);
            }
        }
    }
}
