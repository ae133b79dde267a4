//! Matrix products with a weight: register tiles of dot products whose lanes run along K.
//!
//! Every output is one dot product: lane `l` of an accumulator sums the products at positions `l`, `l + 16`, ...
//! of K (pairs of positions for bf16) in ascending order, then the lanes are summed by one fixed tree. Rows and
//! columns of a tile only share loads, so tile shapes may differ from call to call and the bits do not.

use std::ops::Range;

use super::{
    Floats, Kernel, Parts,
    quantized::Quantized,
    simd::Simd,
    weight::{FloatWeight, Input},
};

/// Input rows `[rows, width]`, or a selection of them.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) width: usize,
    /// Row `i` is `data`'s row `select[i]`.
    pub(crate) select: Option<&'a [u32]>,
    /// The rows, selected or not, where coded weights meet them.
    pub(crate) quantized: &'a Quantized,
}

impl<'a, T> Rows<'a, T> {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.select.map_or_else(|| self.data.len().checked_div(self.width).unwrap_or(0), <[u32]>::len)
    }

    /// All rows, for weights of floats.
    pub(crate) fn new(data: &'a [T], width: usize) -> Rows<'a, T> {
        Rows { data, width, select: None, quantized: Quantized::NONE }
    }

    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> &'a [T] {
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

impl<'a, X> Block<'a, X> {
    /// The block of quantised inputs, whatever type they had.
    pub(super) fn quantized(self) -> Block<'a, f32> {
        let Block { input: Rows { width, quantized, .. }, bias, out, out_width, out_column, rows, columns } =
            self;
        let input = Rows { quantized, ..Rows::new(&[], width) };
        Block { input, bias, out, out_width, out_column, rows, columns }
    }

    /// Input rows of `k` elements that stay in the second-level cache while the columns go by.
    pub(crate) fn rows_in_cache(k: usize) -> usize {
        const BYTES: usize = 256 * 1024;
        (BYTES / (k * size_of::<X>()).max(1)).clamp(16, 256) / 4 * 4
    }
}

/// A block and a weight of floats, `[N, K]`.
pub(crate) struct Product<'a, W: FloatWeight> {
    pub(crate) weight: &'a [W],
    pub(crate) block: Block<'a, W::Input>,
}

impl<W: FloatWeight> Kernel for Product<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { weight, block } = self;
        let step = Block::<W::Input>::rows_in_cache(block.input.width);
        for start in block.rows.clone().step_by(step) {
            let rows = start..block.rows.end.min(start + step);
            let part = Product { weight, block: Block { rows, ..block.clone() } };
            if S::REGISTERS >= 32 { part.columns::<S, 4, 6>(s) } else { part.columns::<S, 2, 3>(s) }
        }
    }
}

impl<W: FloatWeight> Product<'_, W> {
    /// Columns outermost: each is read from memory once and meets all rows while in the nearest cache.
    ///
    /// Few rows take one column at a time, since nothing reads memory as fast as one ascending stream. More rows take
    /// groups of columns, which needs fewer loads, and the next group is fetched while one is computed.
    #[inline(always)]
    fn columns<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let k = self.block.input.width;
        let mut column = self.block.columns.start;
        if self.block.rows.len() > M {
            while column + N <= self.block.columns.end {
                let mut ahead = Ahead::over(&self.weight[(column + N) * k..], N * k);
                self.rows::<S, M, N>(s, column, &mut ahead);
                column += N;
            }
        }
        let mut ahead = Ahead::stream(&self.weight[column * k..]);
        while column < self.block.columns.end {
            self.rows::<S, M, 1>(s, column, &mut ahead);
            column += 1;
        }
    }

    /// All rows, up to M at a time.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const N: usize>(&self, s: S, column: usize, ahead: &mut Ahead) {
        let Range { start: mut row, end } = self.block.rows;
        while row + M <= end {
            self.tile::<S, M, N>(s, row, column, ahead);
            row += M;
        }
        if row + 2 <= end {
            self.tile::<S, 2, N>(s, row, column, ahead);
            row += 2;
        }
        if row < end {
            self.tile::<S, 1, N>(s, row, column, ahead);
        }
    }

    /// Rows `row..row + M`, columns `column..column + N`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        row: usize,
        column: usize,
        ahead: &mut Ahead,
    ) {
        let k = self.block.input.width;
        let inputs: [&[W::Input]; M] = std::array::from_fn(|m| self.block.input.get(row + m));
        let weights: [&[W]; N] =
            std::array::from_fn(|n| &self.weight[(column + n) * k..(column + n + 1) * k]);
        let mut sums = [[s.splat(0.0); N]; M];
        let steps = k / W::Input::STEP;
        let fetching = ahead.steps.min(steps);
        for i in 0..fetching {
            // SAFETY: all rows have k >= (i + 1) * STEP elements.
            unsafe { step::<S, W, M, N>(s, &mut sums, inputs, weights, i * W::Input::STEP, W::Input::STEP) };
            ahead.fetch::<S, N>(s);
        }
        ahead.steps -= fetching;
        for i in fetching..steps {
            // SAFETY: as above.
            unsafe { step::<S, W, M, N>(s, &mut sums, inputs, weights, i * W::Input::STEP, W::Input::STEP) };
        }
        if !k.is_multiple_of(W::Input::STEP) {
            // SAFETY: all rows have k elements.
            unsafe {
                step::<S, W, M, N>(s, &mut sums, inputs, weights, steps * W::Input::STEP, k % W::Input::STEP)
            };
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
pub(super) const LINE: usize = 64;
/// How far ahead a single stream is fetched: over the memory's latency (on a Sapphire Rapids 5 KiB read 15 % faster than 2,
/// and as fast as 9). Not a multiple of 4096, which puts both ends into the same set of a cache.
pub(super) const STREAM_AHEAD: usize = 5184;

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
    /// The first `n` elements of `data`, the next group of columns.
    #[inline(always)]
    fn over<T>(data: &[T], n: usize) -> Ahead {
        let bytes = size_of_val(&data[..n.min(data.len())]);
        Ahead { line: data.as_ptr().cast(), steps: bytes / (GROUP_LINES * LINE) }
    }

    /// What follows the place in `data` that is being read, one column at a time.
    #[inline(always)]
    fn stream<T>(data: &[T]) -> Ahead {
        Ahead { line: data.as_ptr().cast::<u8>().wrapping_add(STREAM_AHEAD), steps: usize::MAX }
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
/// All rows have `at + n` elements, and `n <= STEP`.
#[inline(always)]
unsafe fn step<S: Simd, W: FloatWeight, const M: usize, const N: usize>(
    s: S,
    sums: &mut [[S::V; N]; M],
    inputs: [&[W::Input]; M],
    weights: [&[W]; N],
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
        let weight = unsafe { W::load_weight(s, weights[j].as_ptr().add(at), n) };
        for i in 0..M {
            sums[i][j] = W::Input::dot(s, sums[i][j], operands[i], weight);
        }
    }
}
