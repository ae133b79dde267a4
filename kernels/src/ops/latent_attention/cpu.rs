//! Latent attention on the CPU: a task walks the rows of a sequence's cache for a tile of queries.

use half::bf16;

use crate::{
    CpuDevice, DType, Result, View, ViewMut,
    cpu::{Block, Float, Kernel, LANES, Parts, Product, Rows, Simd},
    ops::{
        attention::{
            AttentionMask, CacheElement, MAX_HEAD_DIM, PagedSequences, SPAN, Scores, Sequences, State, Sums,
            TILE, Values, finish, weigh,
        },
        check::Check,
    },
};

pub(super) fn latent_attention(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: View<'_>,
    sequences: PagedSequences<'_>,
    scale: f32,
) -> Result<()> {
    let [rows, heads, latent] = [0, 1, 2].map(|i| out.shape().dims()[i]);
    let [blocks, block_size, width] = [0, 1, 2].map(|i| cache.shape().dims()[i]);
    let sequences = Sequences::new(check, sequences, AttentionMask::Full, rows, block_size, blocks)?;
    let shape = Geometry { heads, width, latent, block_size, scale };
    match q.dtype() {
        DType::F32 => run::<f32>(cpu, out, q, cache, sequences, shape),
        _ => run::<bf16>(cpu, out, q, cache, sequences, shape),
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    heads: usize,
    /// R
    width: usize,
    /// L
    latent: usize,
    block_size: usize,
    scale: f32,
}

/// One task per tile of queries.
fn run<T: CacheElement>(
    cpu: &CpuDevice,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: View<'_>,
    sequences: Sequences<'_>,
    shape: Geometry,
) -> Result<()> {
    let (q, cache) = (q.as_slice::<T>()?, cache.as_slice::<T>()?);
    let out = Parts::new(out.into_mut_slice::<T>()?);
    cpu.pool.run(sequences.tiles(shape.heads), |task| {
        let (sequence, first) = sequences.locate(task, shape.heads);
        cpu.isa.run(Tile {
            q,
            cache,
            out: &out,
            shape,
            table: sequences.table(sequence),
            first_query: sequences.first_row(sequence) * shape.heads,
            first_position: sequences.first_position(sequence),
            first,
            count: TILE.min(sequences.rows(sequence) * shape.heads - first),
        });
    });
    Ok(())
}

struct Tile<'a, T> {
    q: &'a [T],
    cache: &'a [T],
    out: &'a Parts<'a, T>,
    shape: Geometry,
    /// The sequence's KV blocks, its first query in the step and the position of its first row.
    table: &'a [u32],
    first_query: usize,
    first_position: usize,
    /// The tile's first query in the sequence, and how many it has.
    first: usize,
    count: usize,
}

impl<T: CacheElement> Kernel for Tile<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scores: Scores = [[0.0; SPAN]; TILE];
        let mut sums: Sums = [0.0; TILE * MAX_HEAD_DIM];
        let mut states = [State::new(s); TILE];
        let states = &mut states[..self.count];
        let end = self.position(self.count - 1) + 1;
        let mut at = self.rows(0, end);
        for start in (0..end).step_by(SPAN) {
            let next_at = self.rows(if start + SPAN < end { start + SPAN } else { start }, end);
            let keys = 0..SPAN.min(end - start);
            self.score(s, start, keys.end, &mut scores);
            for (i, (state, scores)) in states.iter_mut().zip(&mut scores).enumerate() {
                weigh(s, state, scores, 0..(self.position(i) + 1).saturating_sub(start));
            }
            let (at_now, next_at_now) = (&at, &next_at);
            let (data, width) = (self.cache, self.shape.latent);
            Values { data, width, keys, at: at_now, next_at: next_at_now }.add(s, states, &scores, &mut sums);
            at = next_at;
        }
        for (i, state) in states.iter().enumerate() {
            let start = (self.first_query + self.first + i) * self.shape.latent;
            // SAFETY: this query's output is no other task's.
            let out = unsafe { self.out.get(start..start + self.shape.latent) };
            finish(s, state, &sums, i, out);
        }
    }
}

impl<T: CacheElement> Tile<'_, T> {
    /// The position of query `i` of the tile.
    #[inline(always)]
    fn position(&self, i: usize) -> usize {
        self.first_position + (self.first + i) / self.shape.heads
    }

    /// Index of the cached row of a position.
    #[inline(always)]
    fn row(&self, position: usize) -> usize {
        let block_size = self.shape.block_size;
        let block = self.table[position / block_size] as usize;
        (block * block_size + position % block_size) * self.shape.width
    }

    /// Those of a span from position `start`, as far as they come before `end`.
    #[inline(always)]
    fn rows(&self, start: usize, end: usize) -> [usize; SPAN] {
        let mut at = [0; SPAN];
        for (at, position) in at.iter_mut().zip(start..end) {
            *at = self.row(position);
        }
        at
    }

    /// Scores of all queries with the `n` keys from position `start`.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, start: usize, n: usize, scores: &mut Scores) {
        let Geometry { width, block_size, scale, .. } = self.shape;
        let first = (self.first_query + self.first) * width;
        let queries = Rows::new(&self.q[first..], width);
        let mut key = 0;
        while key < n {
            // Those of one KV block lie together.
            let keys = (block_size - (start + key) % block_size).min(n - key);
            let row = self.row(start + key);
            let block = Block {
                input: queries,
                bias: None,
                out: &Parts::new(scores.as_flattened_mut()),
                out_width: SPAN,
                out_column: key,
                rows: 0..self.count,
                columns: 0..keys,
            };
            let product = Product::<T> { weight: &self.cache[row..row + keys * width], block };
            product.run(s);
            key += keys;
        }
        for scores in scores.iter_mut().flat_map(|scores| scores.chunks_mut(LANES)) {
            let scaled = s.mul(f32::load(s, scores), s.splat(scale));
            f32::store(s, scores, scaled);
        }
    }
}
