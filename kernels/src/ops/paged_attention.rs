//! `paged_attention`: queries against the keys and values of their sequences, KV block by KV block.

use std::ops::Range;

use half::bf16;

use super::check::Check;
use crate::{
    DType, Device, KernelError, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Parts, Simd, Weight, exp},
};

/// The widest head that fits the scratch of one task.
pub(super) const MAX_HEAD_DIM: usize = 512;

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

/// The sequences that the rows of a step belong to.
#[derive(Clone, Copy)]
pub struct PagedSequences<'a> {
    /// u32 `[S + 1]`: first row of each sequence, then T. A sequence's rows are its last positions.
    pub cu_seqlens_q: View<'a>,
    /// u32 `[S]`: tokens in the cache, those of this step included.
    pub context_lens: View<'a>,
    /// u32 `[S, M]`: KV blocks in order of position; entries that no visible key needs may hold anything.
    pub block_tables: View<'a>,
}

/// Which keys a query at position `q` sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Those at positions up to `q`.
    Full,
    /// The last `window` of those.
    Sliding {
        /// In tokens, the query's own included; at least 1.
        window: usize,
    },
}

/// `out = softmax(scale · q·kᵀ) · v` over the keys that each row sees, head by head; `Hq / Hkv` query heads in a
/// row share a key/value head.
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
/// When shapes or types do not fit, D is odd or over 512, or the sequences contradict themselves.
pub fn paged_attention(
    device: &Device,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: PagedSequences<'_>,
    mask: AttentionMask,
    scale: f32,
) -> Result<()> {
    let check = Check("paged_attention");
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [blocks, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    for (name, tensor) in [("cache.k", &cache.k), ("cache.v", &cache.v)] {
        check.is(name, tensor, [blocks, kv_heads, block_size, head_dim], q.dtype())?;
    }
    check.is("out", &out, [rows, heads * head_dim], q.dtype())?;
    check.that(block_size.is_multiple_of(LANES) && block_size > 0, || {
        format!("KV blocks have {block_size} slots, expected a multiple of {LANES}")
    })?;
    check.that(kv_heads > 0 && heads.is_multiple_of(kv_heads), || {
        format!("{heads} query heads cannot share {kv_heads} key/value heads")
    })?;
    check.that(head_dim.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(&head_dim), || {
        format!("heads have {head_dim} elements, expected an even number from 2 to {MAX_HEAD_DIM}")
    })?;
    let window = match mask {
        AttentionMask::Full => usize::MAX,
        AttentionMask::Sliding { window: 0 } => return Err(check.error("the window is empty".into())),
        AttentionMask::Sliding { window } => window,
    };
    let sequences = Sequences::new(check, sequences, window, rows, block_size, blocks)?;
    let group = heads / kv_heads;
    let shape = Geometry { heads, kv_heads, group, head_dim, block_size, window, scale };
    match q.dtype() {
        DType::F32 => run::<f32>(device, out, q, cache, sequences, shape),
        DType::BF16 => run::<bf16>(device, out, q, cache, sequences, shape),
        found => Err(KernelError::DType { op: check.0, arg: "q", found, expected: DType::BF16 }),
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    heads: usize,
    kv_heads: usize,
    /// Query heads per key/value head.
    group: usize,
    head_dim: usize,
    block_size: usize,
    window: usize,
    scale: f32,
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
        window: usize,
        rows: usize,
        block_size: usize,
        blocks: usize,
    ) -> Result<Sequences<'a>> {
        let [count] = check.dims("context_lens", &views.context_lens)?;
        let [_, table_width] = check.dims("block_tables", &views.block_tables)?;
        check.is("cu_seqlens_q", &views.cu_seqlens_q, [count + 1], DType::U32)?;
        check.is("context_lens", &views.context_lens, [count], DType::U32)?;
        check.is("block_tables", &views.block_tables, [count, table_width], DType::U32)?;
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
            let first = (context - (end - start) as usize + 1).saturating_sub(window);
            let table = &sequences.table(i)[first / block_size..context.div_ceil(block_size)];
            check.indices("block_tables", if start < end { table } else { &[] }, blocks)?;
        }
        Ok(sequences)
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

/// An element type of keys and values.
pub(super) trait CacheElement: Weight<Input = Self> + Float {
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
    device: &Device,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: KvCache<'_>,
    sequences: Sequences<'_>,
    shape: Geometry,
) -> Result<()> {
    let (q, keys, values) = (q.as_slice::<T>()?, cache.k.as_slice::<T>()?, cache.v.as_slice::<T>()?);
    let out = Parts::new(out.into_mut_slice::<T>()?);
    let tiles = sequences.tiles(shape.group);
    let cpu = device.as_cpu("paged_attention")?;
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
    shape: Geometry,
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
        let end = self.first_position + (self.first + i) / self.shape.group + 1;
        end.saturating_sub(self.shape.window)..end
    }

    /// First element of query `i` in `q` and `out`.
    #[inline(always)]
    fn query(&self, i: usize) -> usize {
        let (row, head) = ((self.first + i) / self.shape.group, (self.first + i) % self.shape.group);
        let head = self.kv_head * self.shape.group + head;
        ((self.first_row + row) * self.shape.heads + head) * self.shape.head_dim
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    /// Sequences with keys and values in scattered KV blocks; every slot that no row sees holds NaN.
    struct Case<T> {
        heads: [usize; 2],
        head_dim: usize,
        block_size: usize,
        window: Option<usize>,
        /// Per sequence: rows of the step, tokens in the cache.
        lengths: Vec<(usize, usize)>,
        q: Vec<T>,
        /// Per sequence `[context, Hkv, D]`.
        keys: Vec<Vec<T>>,
        values: Vec<Vec<T>>,
    }

    const SCALE: f32 = 0.3;

    impl<T: CacheElement + Rounded> Case<T> {
        fn new(
            heads: [usize; 2],
            head_dim: usize,
            block_size: usize,
            window: Option<usize>,
            lengths: &[(usize, usize)],
        ) -> Case<T> {
            let mut random = Random::new(9);
            let mut values = |n: usize| -> Vec<T> { rounded(&random.floats(n, 2.0)) };
            let rows: usize = lengths.iter().map(|&(rows, _)| rows).sum();
            let mut cached =
                || lengths.iter().map(|&(_, context)| values(context * heads[1] * head_dim)).collect();
            let (keys, vs) = (cached(), cached());
            let q = values(rows * heads[0] * head_dim);
            Case { heads, head_dim, block_size, window, lengths: lengths.to_vec(), q, keys, values: vs }
        }

        /// First and last row of a sequence.
        fn rows(&self, sequence: usize) -> Range<usize> {
            let start = self.lengths[..sequence].iter().map(|&(rows, _)| rows).sum();
            start..start + self.lengths[sequence].0
        }

        fn expected(&self) -> Vec<f64> {
            let (d, [heads, kv_heads]) = (self.head_dim, self.heads);
            let mut out = vec![];
            for (i, &(rows, context)) in self.lengths.iter().enumerate() {
                for (row, position) in self.rows(i).zip(context - rows..) {
                    for head in 0..heads {
                        let kv_head = head * kv_heads / heads;
                        let wide =
                            |x: &[T]| -> Vec<f64> { x.iter().map(|&x| f64::from(x.widen())).collect() };
                        let of = |all: &[T], at: usize| wide(&all[(at * kv_heads + kv_head) * d..][..d]);
                        let q = wide(&self.q[(row * heads + head) * d..][..d]);
                        let first = (position + 1).saturating_sub(self.window.unwrap_or(usize::MAX));
                        let weights: Vec<f64> = (first..=position)
                            .map(|at| of(&self.keys[i], at).iter().zip(&q).map(|(k, q)| k * q).sum::<f64>())
                            .map(|score| (score * f64::from(SCALE)).exp())
                            .collect();
                        let sum: f64 = weights.iter().sum();
                        let mut row = vec![0.0; d];
                        for (at, weight) in (first..).zip(weights) {
                            for (out, v) in row.iter_mut().zip(of(&self.values[i], at)) {
                                *out += weight / sum * v;
                            }
                        }
                        out.extend(row);
                    }
                }
            }
            out
        }

        /// The last `rows` rows of each of these sequences, as one step.
        fn run(&self, device: &Device, sequences: &[(usize, usize)]) -> Vec<f32> {
            let (d, [heads, kv_heads], bs) = (self.head_dim, self.heads, self.block_size);
            let width = self.lengths.iter().map(|&(_, context)| context.div_ceil(bs)).max().unwrap() + 1;
            let blocks = sequences.len() * width;
            let nan = T::from_bits_of_nan();
            let mut k = vec![nan; blocks * kv_heads * bs * d];
            let mut v = k.clone();
            let mut tables = vec![u32::MAX; sequences.len() * width];
            let (mut q, mut starts, mut contexts) = (vec![], vec![0], vec![]);
            for (n, &(i, rows)) in sequences.iter().enumerate() {
                let context = self.lengths[i].1;
                let first = (context - rows + 1).saturating_sub(self.window.unwrap_or(usize::MAX));
                for position in first..context {
                    // Blocks of different sequences interleave, in reverse.
                    let block = blocks - 1 - (position / bs * sequences.len() + n);
                    tables[n * width + position / bs] = block as u32;
                    for head in 0..kv_heads {
                        let start = (block * kv_heads + head) * bs * d;
                        let from = (position * kv_heads + head) * d;
                        for at in 0..d {
                            k[start + T::key_index(at, position % bs, bs)] = self.keys[i][from + at];
                            v[start + position % bs * d + at] = self.values[i][from + at];
                        }
                    }
                }
                let end = self.rows(i).end;
                q.extend_from_slice(&self.q[(end - rows) * heads * d..end * heads * d]);
                starts.push(starts[n] + rows as u32);
                contexts.push(context as u32);
            }
            let rows = q.len() / (heads * d);
            let mut out = vec![nan; q.len()];
            let cache = [blocks, kv_heads, bs, d];
            paged_attention(
                device,
                ViewMut::from_slice([rows, heads * d], &mut out).unwrap(),
                View::from_slice([rows, heads, d], &q).unwrap(),
                KvCache { k: View::from_slice(cache, &k).unwrap(), v: View::from_slice(cache, &v).unwrap() },
                PagedSequences {
                    cu_seqlens_q: View::from_slice([starts.len()], &starts).unwrap(),
                    context_lens: View::from_slice([contexts.len()], &contexts).unwrap(),
                    block_tables: View::from_slice([sequences.len(), width], &tables).unwrap(),
                },
                self.window.map_or(AttentionMask::Full, |window| AttentionMask::Sliding { window }),
                SCALE,
            )
            .unwrap();
            widened(&out)
        }

        fn check(&self, tolerance: f64) {
            let all: Vec<(usize, usize)> = self.lengths.iter().map(|l| l.0).enumerate().collect();
            let expected = self.expected();
            let width = self.heads[0] * self.head_dim;
            let mut first: Option<(String, Vec<f32>)> = None;
            for device in devices() {
                let found = self.run(&device, &all);
                assert_close(&found, &expected, tolerance, "paged_attention");
                match &first {
                    Some((isa, bits)) if *isa == kind(&device) => assert_same_bits(&found, bits, "threads"),
                    _ => first = Some((kind(&device), found.clone())),
                }
                // The last rows alone, as the last chunk of a prefill or a decode.
                for (i, &(rows, _)) in self.lengths.iter().enumerate() {
                    for last in [1, 2, 7, 32].into_iter().filter(|&last| last <= rows) {
                        let end = self.rows(i).end;
                        let part = self.run(&device, &[(i, last)]);
                        assert_same_bits(&part, &found[(end - last) * width..end * width], "chunk");
                    }
                }
                // All sequences decoding at once.
                let decode: Vec<(usize, usize)> = (0..all.len()).map(|i| (i, 1)).collect();
                let found_decode = self.run(&device, &decode);
                for (i, row) in found_decode.chunks(width).enumerate() {
                    let end = self.rows(i).end;
                    assert_same_bits(row, &found[(end - 1) * width..end * width], "decode");
                }
            }
        }
    }

    /// A NaN of each element type.
    trait Nan {
        fn from_bits_of_nan() -> Self;
    }
    impl<T: CacheElement> Nan for T {
        fn from_bits_of_nan() -> T {
            bytemuck::cast_slice(&[u32::MAX])[0]
        }
    }

    #[test]
    fn full_attention_agrees_with_f64_and_no_row_depends_on_another() {
        let lengths = [(1, 1), (5, 5), (40, 140), (1, 200), (64, 64)];
        Case::<f32>::new([4, 2], 32, 16, None, &lengths).check(2e-6);
        Case::<f32>::new([7, 1], 20, 32, None, &lengths).check(2e-6);
        Case::<bf16>::new([4, 2], 64, 16, None, &lengths).check(0.01);
        Case::<bf16>::new([3, 3], 18, 16, None, &lengths).check(0.01);
        Case::<f32>::new([40, 2], 8, 16, None, &[(3, 90)]).check(2e-6);
    }

    #[test]
    fn sliding_windows_see_only_their_keys() {
        let lengths = [(1, 1), (5, 5), (40, 140), (1, 200), (64, 64)];
        for window in [1, 3, 16, 70, 1000] {
            Case::<f32>::new([4, 2], 16, 16, Some(window), &lengths).check(2e-6);
            Case::<bf16>::new([4, 2], 16, 16, Some(window), &lengths).check(0.01);
        }
    }

    #[test]
    fn contradictions_are_named() {
        let zeros = |shape: [usize; 4]| Tensor::zeros(shape, DType::F32).unwrap();
        let (k, v) = (zeros([4, 1, 16, 8]), zeros([4, 1, 16, 8]));
        let q = Tensor::zeros([2, 1, 8], DType::F32).unwrap();
        let message = |starts: &[u32], contexts: &[u32], table: &[u32]| {
            let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
            let sequences = PagedSequences {
                cu_seqlens_q: View::from_slice([starts.len()], starts).unwrap(),
                context_lens: View::from_slice([contexts.len()], contexts).unwrap(),
                block_tables: View::from_slice([1, table.len()], table).unwrap(),
            };
            let cache = KvCache { k: k.view(), v: v.view() };
            let out = out.view_mut().unwrap();
            paged_attention(&devices()[0], out, q.view(), cache, sequences, AttentionMask::Full, 1.0)
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(message(&[0, 2], &[20], &[3, 0]), "fine");
        assert_eq!(
            message(&[0, 2], &[20], &[3, 4]),
            "paged_attention: block_tables[1] is 4, expected less than 4"
        );
        assert_eq!(
            message(&[0, 2], &[33], &[3, 0]),
            "paged_attention: sequence 0 has 33 tokens, its block table holds 32"
        );
        assert_eq!(
            message(&[0, 2], &[1], &[3, 0]),
            "paged_attention: sequence 0 has rows 0..2 and 1 tokens in the cache"
        );
        assert_eq!(
            message(&[0, 1], &[20], &[3, 0]),
            "paged_attention: cu_seqlens_q runs from 0 to 1, expected 0 to 2"
        );
    }
}
