//! Matrix products with a weight: register tiles of dot products whose lanes run along K.
//!
//! Every output is one dot product: lane `l` of an accumulator sums the products at positions `l`, `l + 16`, ...
//! of K (pairs of positions for bf16) in ascending order, then the lanes are summed by one fixed tree. Rows and
//! columns of a tile only share loads, so tile shapes may differ from call to call and the bits do not.

use std::ops::Range;

use half::{bf16, f16};

use super::{Floats, Kernel, Parts, simd::Simd};
use crate::Element;

/// A weight's element type: what its inputs are and how the two multiply.
pub(crate) trait Weight: Element {
    /// The inputs' type: [`DType::compute`] of the weight's.
    type Input: Element;
    /// A register's worth of elements of either.
    type Operand<S: Simd>: Copy;
    /// Elements of an operand.
    const STEP: usize;

    /// # Safety
    /// `n <= STEP` elements can be read at `p`.
    unsafe fn load_input<S: Simd>(s: S, p: *const Self::Input, n: usize) -> Self::Operand<S>;
    /// # Safety
    /// `n <= STEP` elements can be read at `p`.
    unsafe fn load_weight<S: Simd>(s: S, p: *const Self, n: usize) -> Self::Operand<S>;
    /// `sum` plus the products, added up into its lanes.
    fn dot<S: Simd>(s: S, sum: S::V, input: Self::Operand<S>, weight: Self::Operand<S>) -> S::V;
}

impl Weight for bf16 {
    type Input = bf16;
    type Operand<S: Simd> = S::Pairs;
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn load_input<S: Simd>(s: S, p: *const bf16, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe { s.load_pairs(p, n) }
    }

    #[inline(always)]
    unsafe fn load_weight<S: Simd>(s: S, p: *const bf16, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe { s.load_pairs(p, n) }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, input: S::Pairs, weight: S::Pairs) -> S::V {
        s.dot_pairs(sum, input, weight)
    }
}

impl Weight for f32 {
    type Input = f32;
    type Operand<S: Simd> = S::V;
    const STEP: usize = 16;

    #[inline(always)]
    unsafe fn load_input<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { s.load_f32(p, n) }
    }

    #[inline(always)]
    unsafe fn load_weight<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { s.load_f32(p, n) }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, input: S::V, weight: S::V) -> S::V {
        s.mul_add(input, weight, sum)
    }
}

impl Weight for f16 {
    type Input = f32;
    type Operand<S: Simd> = S::V;
    const STEP: usize = 16;

    #[inline(always)]
    unsafe fn load_input<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { s.load_f32(p, n) }
    }

    #[inline(always)]
    unsafe fn load_weight<S: Simd>(s: S, p: *const f16, n: usize) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { s.load_f16(p, n) }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, input: S::V, weight: S::V) -> S::V {
        s.mul_add(input, weight, sum)
    }
}

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

/// A block of `out = input · weightᵀ (+ bias)`.
#[derive(Clone)]
pub(crate) struct Product<'a, W: Weight> {
    /// `[.., K]`
    pub(crate) input: Rows<'a, W::Input>,
    /// `[N, K]`
    pub(crate) weight: &'a [W],
    /// `[N]`
    pub(crate) bias: Option<Floats<'a>>,
    /// `[.., out_width]`; this block's elements are written by no one else meanwhile.
    pub(crate) out: &'a Parts<'a, f32>,
    pub(crate) out_width: usize,
    /// Column of `out` for the weight's row 0.
    pub(crate) out_column: usize,
    /// Rows of the block, in `input` and `out`.
    pub(crate) rows: Range<usize>,
    /// Columns of the block: rows of `weight`.
    pub(crate) columns: Range<usize>,
}

impl<W: Weight> Kernel for Product<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let step = Self::block_rows(self.input.width);
        for start in self.rows.clone().step_by(step) {
            let block = Product { rows: start..self.rows.end.min(start + step), ..self.clone() };
            if S::REGISTERS >= 32 { block.columns::<S, 4, 6>(s) } else { block.columns::<S, 2, 3>(s) }
        }
    }
}

impl<W: Weight> Product<'_, W> {
    /// Input rows of `k` elements that stay in the second-level cache while the columns go by.
    pub(crate) fn block_rows(k: usize) -> usize {
        const BYTES: usize = 256 * 1024;
        (BYTES / (k * size_of::<W::Input>()).max(1)).clamp(16, 256) / 4 * 4
    }

    /// Columns outermost: each is read from memory once and meets all rows while in the nearest cache.
    ///
    /// Few rows take one column at a time, since nothing reads memory as fast as one ascending stream. More rows take
    /// groups of columns, which needs fewer loads, and the next group is fetched while one is computed.
    #[inline(always)]
    fn columns<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let k = self.input.width;
        let mut column = self.columns.start;
        if self.rows.len() > M {
            while column + N <= self.columns.end {
                let mut ahead = Ahead::over(&self.weight[(column + N) * k..], N * k);
                self.rows::<S, M, N>(s, column, &mut ahead);
                column += N;
            }
        }
        let mut ahead = Ahead::stream(&self.weight[column * k..]);
        while column < self.columns.end {
            self.rows::<S, M, 1>(s, column, &mut ahead);
            column += 1;
        }
    }

    /// All rows, up to M at a time.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const N: usize>(&self, s: S, column: usize, ahead: &mut Ahead) {
        let Range { start: mut row, end } = self.rows;
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
        let k = self.input.width;
        let inputs: [&[W::Input]; M] = std::array::from_fn(|m| self.input.get(row + m));
        let weights: [&[W]; N] =
            std::array::from_fn(|n| &self.weight[(column + n) * k..(column + n + 1) * k]);
        let mut sums = [[s.splat(0.0); N]; M];
        let steps = k / W::STEP;
        let fetching = ahead.steps.min(steps);
        for i in 0..fetching {
            // SAFETY: all rows have k >= (i + 1) * STEP elements.
            unsafe { step::<S, W, M, N>(s, &mut sums, inputs, weights, i * W::STEP, W::STEP) };
            ahead.fetch::<S, N>(s);
        }
        ahead.steps -= fetching;
        for i in fetching..steps {
            // SAFETY: as above.
            unsafe { step::<S, W, M, N>(s, &mut sums, inputs, weights, i * W::STEP, W::STEP) };
        }
        if !k.is_multiple_of(W::STEP) {
            // SAFETY: all rows have k elements.
            unsafe { step::<S, W, M, N>(s, &mut sums, inputs, weights, steps * W::STEP, k % W::STEP) };
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let start = (row + m) * self.out_width + self.out_column + column;
            // SAFETY: the block is ours alone.
            let out = unsafe { self.out.get(start..start + N) };
            for (n, sums) in sums.chunks(4).enumerate() {
                let four = s.sums(std::array::from_fn(|i| sums[i.min(sums.len() - 1)]));
                out[4 * n..4 * n + sums.len()].copy_from_slice(&four[..sums.len()]);
            }
            if let Some(bias) = self.bias {
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
unsafe fn step<S: Simd, W: Weight, const M: usize, const N: usize>(
    s: S,
    sums: &mut [[S::V; N]; M],
    inputs: [&[W::Input]; M],
    weights: [&[W]; N],
    at: usize,
    n: usize,
) {
    // SAFETY: as promised by the caller.
    let mut operands = [unsafe { W::load_input(s, inputs[0].as_ptr().add(at), n) }; M];
    for i in 1..M {
        // SAFETY: as promised by the caller.
        operands[i] = unsafe { W::load_input(s, inputs[i].as_ptr().add(at), n) };
    }
    for j in 0..N {
        // SAFETY: as promised by the caller.
        let weight = unsafe { W::load_weight(s, weights[j].as_ptr().add(at), n) };
        for i in 0..M {
            sums[i][j] = W::dot(s, sums[i][j], operands[i], weight);
        }
    }
}

/// An op's instantiation for each type of weight.
macro_rules! for_weight {
    ($dtype:expr, $op:literal, $arg:literal, $W:ident => $call:expr) => {
        match $dtype {
            crate::DType::F32 => {
                type $W = f32;
                $call
            }
            crate::DType::F16 => {
                type $W = half::f16;
                $call
            }
            crate::DType::BF16 => {
                type $W = half::bf16;
                $call
            }
            found => {
                Err(crate::KernelError::DType { op: $op, arg: $arg, found, expected: crate::DType::BF16 })
            }
        }
    };
}
pub(crate) use for_weight;
