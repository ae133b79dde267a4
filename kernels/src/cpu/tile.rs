//! Matrix products with a weight: register tiles of dot products whose lanes run along K.
//!
//! Every output is one dot product: lane `l` of an accumulator sums the products at positions `l`, `l + 16`, ...
//! of K (pairs of positions for bf16) in ascending order, then the lanes are summed by one fixed tree. Rows and
//! columns of a tile only share loads, so tile shapes may differ from call to call and the bits do not.
//!
//! A packed weight is decoded to the inputs' type on its way into a register or, where many rows meet it, once into a
//! panel in the cache; both are the same numbers.

use std::ops::Range;

use super::{
    Floats, Kernel, Parts, panel,
    simd::Simd,
    weight::{Input, Weight},
};

/// Input rows `[rows, width]`, or a selection of them.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) width: usize,
    /// Row `i` is `data`'s row `select[i]`.
    pub(crate) select: Option<&'a [u32]>,
}

impl<'a, T> Rows<'a, T> {
    #[inline(always)]
    fn get(&self, i: usize) -> &'a [T] {
        let row = self.select.map_or(i, |select| select[i] as usize);
        &self.data[row * self.width..(row + 1) * self.width]
    }
}

/// A block of `out = input · weightᵀ (+ bias)`, whatever the weight `[N, K]`.
#[derive(Clone)]
pub(crate) struct Block<'a, X> {
    /// `[.., K]`
    pub(crate) input: Rows<'a, X>,
    /// `[N]`
    pub(crate) bias: Option<Floats<'a>>,
    /// `[.., out_width]`; this block's elements are written by no one else meanwhile.
    pub(crate) out: &'a Parts<'a, f32>,
    pub(crate) out_width: usize,
    /// Column of `out` for the weight's row 0.
    pub(crate) out_column: usize,
    /// Rows of the block, in `input` and `out`.
    pub(crate) rows: Range<usize>,
    /// Columns of the block: rows of the weight.
    pub(crate) columns: Range<usize>,
}

impl<X> Block<'_, X> {
    /// Input rows of `k` elements that stay in the second-level cache while the columns go by.
    pub(crate) fn rows_in_cache(k: usize) -> usize {
        const BYTES: usize = 256 * 1024;
        (BYTES / (k * size_of::<X>()).max(1)).clamp(16, 256) / 4 * 4
    }
}

/// A block and the weight.
pub(crate) struct Product<'a, W: Weight> {
    pub(crate) weight: W::Rows<'a>,
    pub(crate) block: Block<'a, W::Input>,
}

impl<W: Weight> Kernel for Product<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { weight, block } = self;
        let step = Block::<W::Input>::rows_in_cache(block.input.width);
        for start in block.rows.clone().step_by(step) {
            let rows = start..block.rows.end.min(start + step);
            let part = Product::<W> { weight, block: Block { rows, ..block.clone() } };
            if S::REGISTERS >= 32 { part.columns::<S, 4, 6>(s) } else { part.columns::<S, 2, 3>(s) }
        }
    }
}

impl<W: Weight> Product<'_, W> {
    /// Columns outermost: each is read from memory once and meets all rows while in the nearest cache.
    ///
    /// Few rows take one column at a time, since nothing reads memory as fast as one ascending stream. More rows take
    /// groups of columns, which needs fewer loads, and the next group is fetched while one is computed.
    #[inline(always)]
    fn columns<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let k = self.block.input.width;
        let row = |column| W::row(self.weight, column, k);
        let mut column = self.block.columns.start;
        if self.block.rows.len() > M {
            while column + N <= self.block.columns.end {
                let rows = std::array::from_fn(|n| row(column + n));
                if W::PACKED {
                    panel::with(N * k, |panel: &mut [W::Input]| {
                        let rows = panel::decode::<S, W, N>(s, rows, k, panel);
                        self.rows::<S, W::Input, M, N>(s, column, rows, &mut Ahead::nothing());
                    });
                } else {
                    let next = (self.block.columns.end - column - N).min(N);
                    let ahead = &mut Ahead::over(W::bytes(self.weight, column + N, next, k));
                    self.rows::<S, W, M, N>(s, column, rows, ahead);
                }
                column += N;
            }
        }
        let rest = self.block.columns.end - column;
        let mut ahead = Ahead::stream(W::bytes(self.weight, column, rest, k));
        while column < self.block.columns.end {
            self.rows::<S, W, M, 1>(s, column, [row(column)], &mut ahead);
            column += 1;
        }
    }

    /// All rows, up to M at a time, with N rows of the weight or of its panel.
    #[inline(always)]
    fn rows<'w, S: Simd, V: Weight<Input = W::Input>, const M: usize, const N: usize>(
        &self,
        s: S,
        column: usize,
        weights: [V::Row<'w>; N],
        ahead: &mut Ahead,
    ) {
        let Range { start: mut row, end } = self.block.rows;
        while row + M <= end {
            self.tile::<S, V, M, N>(s, row, column, weights, ahead);
            row += M;
        }
        if row + 2 <= end {
            self.tile::<S, V, 2, N>(s, row, column, weights, ahead);
            row += 2;
        }
        if row < end {
            self.tile::<S, V, 1, N>(s, row, column, weights, ahead);
        }
    }

    /// Rows `row..row + M`, columns `column..column + N`.
    #[inline(always)]
    fn tile<'w, S: Simd, V: Weight<Input = W::Input>, const M: usize, const N: usize>(
        &self,
        s: S,
        row: usize,
        column: usize,
        weights: [V::Row<'w>; N],
        ahead: &mut Ahead,
    ) {
        let k = self.block.input.width;
        let inputs: [&[W::Input]; M] = std::array::from_fn(|m| self.block.input.get(row + m));
        let mut sums = [[s.splat(0.0); N]; M];
        let step = W::Input::STEP;
        let steps = k / step;
        let fetching = ahead.steps.min(steps);
        for i in 0..fetching {
            // SAFETY: all rows have k >= (i + 1) * STEP elements.
            unsafe { add_step::<S, V, M, N>(s, &mut sums, inputs, weights, i * step, step) };
            ahead.fetch::<S, N>(s);
        }
        ahead.steps -= fetching;
        for i in fetching..steps {
            // SAFETY: as above.
            unsafe { add_step::<S, V, M, N>(s, &mut sums, inputs, weights, i * step, step) };
        }
        if !k.is_multiple_of(step) {
            // SAFETY: all rows have k elements.
            unsafe { add_step::<S, V, M, N>(s, &mut sums, inputs, weights, steps * step, k % step) };
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let start = (row + m) * self.block.out_width + self.block.out_column + column;
            // SAFETY: the block is ours alone.
            let out = unsafe { self.block.out.get(start..start + N) };
            for (n, sums) in sums.chunks(4).enumerate() {
                let four = s.sums(std::array::from_fn(|i| sums[i.min(sums.len() - 1)]));
                out[4 * n..4 * n + sums.len()].copy_from_slice(&four[..sums.len()]);
            }
            if let Some(bias) = self.block.bias {
                for (out, n) in out.iter_mut().zip(column..) {
                    *out += bias.get(n);
                }
            }
        }
    }
}

/// Bytes that come from memory together.
const LINE: usize = 64;
/// How far ahead a single stream is fetched: a little over the memory's latency. Not a multiple of 4096, which puts
/// both ends into the same set of a cache.
const STREAM_AHEAD: usize = 2048;

/// Lines that each step fetches of the next group of columns.
const GROUP_LINES: usize = 2;

/// Cache lines to fetch ahead of their use, a few per step along K so that memory and arithmetic overlap. A thread's
/// next block of columns is as a rule the one after, so a block's end is no end.
struct Ahead {
    line: *const u8,
    /// Steps that fetch.
    steps: usize,
}

impl Ahead {
    /// Fetches nothing.
    #[inline(always)]
    fn nothing() -> Ahead {
        Ahead::over(&[])
    }

    /// `data`, the next group of columns.
    #[inline(always)]
    fn over(data: &[u8]) -> Ahead {
        Ahead { line: data.as_ptr(), steps: data.len() / (GROUP_LINES * LINE) }
    }

    /// What follows the place in `data` that is being read, one column at a time.
    #[inline(always)]
    fn stream(data: &[u8]) -> Ahead {
        Ahead { line: data.as_ptr().wrapping_add(STREAM_AHEAD), steps: usize::MAX }
    }

    #[inline(always)]
    fn fetch<S: Simd, const N: usize>(&mut self, s: S) {
        let lines = if N == 1 { 1 } else { GROUP_LINES };
        for i in 0..lines {
            s.prefetch(self.line.wrapping_add(i * LINE));
        }
        self.line = self.line.wrapping_add(lines * LINE);
    }
}

/// One step along K: `n` elements from `at`.
///
/// # Safety
/// All rows have `at + n` elements, `at` is a multiple of the step and `n` at most one.
#[inline(always)]
unsafe fn add_step<S: Simd, W: Weight, const M: usize, const N: usize>(
    s: S,
    sums: &mut [[S::V; N]; M],
    inputs: [&[W::Input]; M],
    weights: [W::Row<'_>; N],
    at: usize,
    n: usize,
) {
    // SAFETY: as promised by the caller.
    let mut operands = [unsafe { W::Input::load_operand(s, inputs[0].as_ptr().add(at), n) }; M];
    for i in 1..M {
        // SAFETY: as promised by the caller.
        operands[i] = unsafe { W::Input::load_operand(s, inputs[i].as_ptr().add(at), n) };
    }
    for j in 0..N {
        // SAFETY: as promised by the caller.
        let weight = unsafe { W::load_weight(s, weights[j], at, n) };
        for i in 0..M {
            sums[i][j] = W::Input::dot(s, sums[i][j], operands[i], weight);
        }
    }
}
