//! Matrix products of coded weights with quantised inputs, in integers.
//!
//! Every output is `Σ_g ((Σ codes · inputs) · scale + offset · Σ inputs) · input scale` over the groups g of a row in
//! ascending order. The inner sums are exact, whatever their order, and there is one chain of floats for each output; so
//! one row may take another way through the registers than many, and the bits are the same.

use std::cell::RefCell;

use super::{
    Float, Isa, Kernel,
    packed::{CodedWeight, Groups},
    quantized::{QuantizedRows, SCALED},
    simd::{LANES, Simd},
    tile::{Block, LINE, STREAM_AHEAD},
};

/// Elements of a step of the weight's codes.
const STEP: usize = 2 * LANES;
/// Elements that a vector of quads holds.
const QUADS: usize = 4 * LANES;

/// 16 numbers of 32 bits, or 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    /// Grows to the longest panel that the thread has needed.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `run` with so many lines, which hold anything.
fn with_lines(n: usize, run: impl FnOnce(&mut [Line])) {
    LINES.with_borrow_mut(|lines| {
        if lines.len() < n {
            lines.resize(n, Line([0.0; LANES]));
        }
        run(&mut lines[..n]);
    });
}

/// A block of the product, 16 rows of the weight at a time.
pub(super) fn multiply<W: CodedWeight>(isa: Isa, weight: W::Rows<'_>, block: Block<'_, f32>) {
    let k = block.input.width;
    let groups = k / W::GROUPS.size;
    if block.rows.len() == 1 {
        return with_lines(LANES * groups.div_ceil(LANES), |terms| {
            isa.run(OneRow::<W> { weight, block, terms });
        });
    }
    let columns = block.columns.clone();
    with_lines(k / 4 + 2 * groups, |lines| {
        let (codes, scales) = lines.split_at_mut(k / 4);
        let (scales, offsets) = scales.split_at_mut(groups);
        for first in columns.clone().step_by(LANES) {
            let columns = first..columns.end.min(first + LANES);
            let mut panel = Panel { codes: &mut *codes, scales: &mut *scales, offsets: &mut *offsets };
            isa.run(Fill::<W> { weight, first, last: columns.end - 1, k, panel: &mut panel });
            let block = Block { columns, ..block.clone() };
            match (W::GROUPS.size, W::GROUPS.offset) {
                (SCALED, false) => isa.run(Tiles::<SCALED, false> { panel, block }),
                (SCALED, true) => isa.run(Tiles::<SCALED, true> { panel, block }),
                (_, false) => isa.run(Tiles::<LANES, false> { panel, block }),
                (_, true) => isa.run(Tiles::<LANES, true> { panel, block }),
            }
        }
    });
}

/// A block of one row of inputs. Each row of the weight is read in one stream.
struct OneRow<'a, 'w, W: CodedWeight> {
    weight: W::Rows<'w>,
    block: Block<'a, f32>,
    /// `[16, ⌈K / size / 16⌉]`: the terms of each group of 16 rows of the weight, but for the scale of the inputs.
    terms: &'a mut [Line],
}

impl<W: CodedWeight> Kernel for OneRow<'_, '_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OneRow { weight, block, terms } = self;
        let (row, k) = (block.rows.start, block.input.width);
        let input = block.input.quantized.rows(row..row + 1, W::GROUPS);
        let lines = terms.len() / LANES;
        for first in block.columns.clone().step_by(LANES) {
            let n = LANES.min(block.columns.end - first);
            for (column, terms) in (first..first + n).zip(terms.chunks_exact_mut(lines.max(1))) {
                group_terms::<S, W>(s, W::row(weight, column, k), input, terms);
            }
            store(s, &block, row, first, n, sum_terms(s, terms, input, W::GROUPS.size));
        }
    }
}

/// `(Σ codes · inputs) · scale + offset · Σ inputs` of all groups of a row of the weight.
#[inline(always)]
fn group_terms<S: Simd, W: CodedWeight>(s: S, row: W::Row<'_>, input: QuantizedRows<'_>, terms: &mut [Line]) {
    let (k, size) = (input.codes.len(), W::GROUPS.size);
    let groups = k / size;
    let bytes = W::bytes(row);
    let mut ahead = bytes.as_ptr().wrapping_add(STREAM_AHEAD);
    let per_line = bytes.len() * LANES / groups.max(1);
    for (first, terms) in (0..groups).step_by(LANES).zip(terms) {
        // Memory is read in one stream: a line ahead for every line that is read.
        for line in (0..per_line).step_by(LINE) {
            s.prefetch(ahead.wrapping_add(line));
        }
        ahead = ahead.wrapping_add(per_line);
        let n = LANES.min(groups - first);
        // SAFETY: the row has these groups; what is read past the end of the inputs is their padding.
        unsafe {
            let scales = W::group_scales(s, row, first, n);
            let sums = group_sums::<S, W>(s, row, input.codes, first * size, n * size);
            let scale = s.load_f32(scales.scale.as_ptr(), LANES);
            let term = if W::GROUPS.offset {
                let offset = s.load_f32(scales.offset.as_ptr(), LANES);
                let inputs = s.load_f32(input.sums.as_ptr().add(first), LANES);
                s.mul_add(offset, inputs, s.mul(s.to_floats(sums), scale))
            } else {
                let corrections = s.load_ints(input.corrections.as_ptr().add(first));
                s.mul(s.to_floats(s.add_ints(sums, corrections)), scale)
            };
            s.store_f32(terms.0.as_mut_ptr(), LANES, term);
        }
    }
}

/// `Σ codes · inputs` of the 16 groups that begin at element `at`, of which `n` elements are there.
///
/// # Safety
/// The row has those, and a vector can be read past the end of the inputs.
#[inline(always)]
unsafe fn group_sums<S: Simd, W: CodedWeight>(
    s: S,
    row: W::Row<'_>,
    inputs: &[i8],
    at: usize,
    n: usize,
) -> S::Ints {
    let all = LANES * W::GROUPS.size;
    let unit = if W::BLOCK > QUADS { W::BLOCK } else { QUADS };
    let zero = s.splat_int(0);
    let mut dots = [zero; 8];
    // SAFETY: as promised by the caller.
    unsafe {
        let inputs = inputs.as_ptr().add(at).cast::<u8>();
        if n == all {
            for block in 0..all / unit {
                for pair in 0..unit / QUADS {
                    let quads = W::quads(s, row, at + block * unit, pair);
                    let here = block * unit + pair * QUADS;
                    dots[here / QUADS] = s.dot_quads(zero, quads, s.load_quads(inputs.add(here)));
                }
            }
        } else {
            for (dot, here) in dots.iter_mut().zip((0..n).step_by(QUADS)) {
                let first = W::codes(s, row, at + here);
                let last = if here + STEP < n { W::codes(s, row, at + here + STEP) } else { first };
                *dot = s.dot_quads(zero, s.quads([first, last]), s.load_quads(inputs.add(here)));
            }
        }
    }
    if W::GROUPS.size == SCALED {
        s.sums_of_eight(dots)
    } else {
        s.sums_of_four([dots[0], dots[1], dots[2], dots[3]])
    }
}

/// For each of 16 rows of the weight: the sum of its groups' terms times the scales of the inputs.
#[inline(always)]
fn sum_terms<S: Simd>(s: S, terms: &[Line], input: QuantizedRows<'_>, size: usize) -> S::V {
    let (groups, lines) = (input.codes.len() / size, terms.len() / LANES);
    let mut sum = s.splat(0.0);
    for line in 0..lines {
        let mut rows = [s.splat(0.0); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = f32::load(s, &terms[i * lines + line].0);
        }
        let columns = s.transpose(rows);
        let first = line * LANES;
        if first + LANES <= groups {
            for (i, column) in columns.into_iter().enumerate() {
                sum = s.mul_add(column, s.splat(input.scales[(first + i) * size / SCALED]), sum);
            }
        } else {
            for (i, column) in columns.into_iter().enumerate().take(groups - first) {
                sum = s.mul_add(column, s.splat(input.scales[(first + i) * size / SCALED]), sum);
            }
        }
    }
    sum
}

/// Writes the first `n` of 16 columns of a row, with their biases.
#[inline(always)]
fn store<S: Simd>(s: S, block: &Block<'_, f32>, row: usize, first: usize, n: usize, sums: S::V) {
    let at = row * block.out_width + block.out_column + first;
    // SAFETY: the block is ours alone.
    let out = unsafe { block.out.get(at..at + n) };
    f32::store(s, out, sums);
    if let Some(bias) = block.bias {
        for (out, column) in out.iter_mut().zip(first..) {
            *out += bias.get(column);
        }
    }
}

/// 16 rows of a weight, so that every quad of K is a vector.
struct Panel<'a> {
    /// `[K / 4, 16, 4]`
    codes: &'a mut [Line],
    /// `[K / size, 16]`
    scales: &'a mut [Line],
    /// `[K / size, 16]`, of groups with offsets.
    offsets: &'a mut [Line],
}

struct Fill<'a, 'p, 'w, W: CodedWeight> {
    weight: W::Rows<'w>,
    first: usize,
    /// The last row that there is: it stands for those that are not.
    last: usize,
    k: usize,
    panel: &'a mut Panel<'p>,
}

impl<W: CodedWeight> Kernel for Fill<'_, '_, '_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { weight, first, last, k, panel } = self;
        let mut rows = [W::row(weight, first, k); LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = W::row(weight, last.min(first + i), k);
        }
        for at in (0..k).step_by(QUADS) {
            // SAFETY: the rows have these elements; where there are only 32, they stand for the next ones.
            let mut quads = unsafe { [s.quads([W::codes(s, rows[0], at); 2]); LANES] };
            for (quads, row) in quads.iter_mut().zip(rows) {
                // SAFETY: as above.
                unsafe {
                    let first = W::codes(s, row, at);
                    let last = if at + STEP < k { W::codes(s, row, at + STEP) } else { first };
                    *quads = s.quads([first, last]);
                }
            }
            let columns = s.transpose_quads(quads);
            for (line, quads) in panel.codes[at / 4..].iter_mut().zip(columns) {
                // SAFETY: a line has 64 bytes.
                unsafe { s.store_quads(line.0.as_mut_ptr().cast(), quads) };
            }
        }
        let groups = k / W::GROUPS.size;
        for first in (0..groups).step_by(LANES) {
            let n = LANES.min(groups - first);
            let mut scales = [s.splat(0.0); LANES];
            let mut offsets = scales;
            for i in 0..LANES {
                // SAFETY: the row has these groups.
                let own = unsafe { W::group_scales(s, rows[i], first, n) };
                scales[i] = f32::load(s, &own.scale);
                offsets[i] = f32::load(s, &own.offset);
            }
            for (line, scales) in panel.scales[first..].iter_mut().zip(s.transpose(scales)) {
                f32::store(s, &mut line.0, scales);
            }
            if W::GROUPS.offset {
                for (line, offsets) in panel.offsets[first..].iter_mut().zip(s.transpose(offsets)) {
                    f32::store(s, &mut line.0, offsets);
                }
            }
        }
    }
}

/// A block of columns of a panel.
struct Tiles<'a, const SIZE: usize, const OFFSET: bool> {
    panel: Panel<'a>,
    block: Block<'a, f32>,
}

impl<const SIZE: usize, const OFFSET: bool> Kernel for Tiles<'_, SIZE, OFFSET> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::REGISTERS >= 32 { self.rows::<S, 12, 4>(s) } else { self.rows::<S, 3, 1>(s) }
    }
}

impl<const SIZE: usize, const OFFSET: bool> Tiles<'_, SIZE, OFFSET> {
    /// All rows: M at a time, then N, then single ones.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let (mut row, end) = (self.block.rows.start, self.block.rows.end);
        while row + M <= end {
            self.tile::<S, M>(s, row);
            row += M;
        }
        while row + N <= end {
            self.tile::<S, N>(s, row);
            row += N;
        }
        while row < end {
            self.tile::<S, 1>(s, row);
            row += 1;
        }
    }

    /// Rows `row..row + M`, all 16 columns.
    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&self, s: S, row: usize) {
        let Tiles { panel, block } = self;
        let groups = Groups { size: SIZE, offset: OFFSET };
        let rows = block.input.quantized.rows(row..row + M, groups);
        let (k, all) = (block.input.width, panel.scales.len());
        let per_scale = SCALED / SIZE;
        let mut sums = [s.splat(0.0); M];
        // SAFETY: `rows` has M rows of k elements, and so many groups each.
        unsafe {
            // Three rows to a pointer: one for each would not fit the registers.
            let mut inputs = [rows.codes.as_ptr(); 4];
            for (i, inputs) in inputs.iter_mut().enumerate().take(M.div_ceil(3)) {
                *inputs = inputs.add(3 * i * k);
            }
            let mut weights = panel.codes.as_ptr();
            for group in 0..all {
                let mut dots = [s.splat_int(0); M];
                if !OFFSET {
                    for (m, dot) in dots.iter_mut().enumerate() {
                        *dot = s.splat_int(*rows.corrections.as_ptr().add(m * all + group));
                    }
                }
                for quad in 0..SIZE / 4 {
                    let weights = s.load_quads(weights.add(quad).cast());
                    for (m, dot) in dots.iter_mut().enumerate() {
                        let inputs = inputs[m / 3].add(m % 3 * k + 4 * quad);
                        *dot = s.dot_quads(*dot, weights, s.splat_quad(inputs));
                    }
                }
                let scale = f32::load(s, &panel.scales.get_unchecked(group).0);
                for m in 0..M {
                    let mut term = s.mul(s.to_floats(dots[m]), scale);
                    if OFFSET {
                        let offset = f32::load(s, &panel.offsets.get_unchecked(group).0);
                        let inputs = *rows.sums.as_ptr().add(m * all + group);
                        term = s.mul_add(offset, s.splat(inputs), term);
                    }
                    let of_inputs = *rows.scales.as_ptr().add(m * all / per_scale + group / per_scale);
                    sums[m] = s.mul_add(term, s.splat(of_inputs), sums[m]);
                }
                weights = weights.add(SIZE / 4);
                for inputs in &mut inputs {
                    *inputs = inputs.add(SIZE);
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            store(s, block, row + m, block.columns.start, block.columns.len(), sums);
        }
    }
}
