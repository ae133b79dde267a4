//! Matrix products with a packed weight. Coded ones meet quantised inputs, in integers: see `coded_product`. Of others, one
//! row of inputs meets what is decoded in registers. For more, a few rows of the weight are decoded into a panel that stays
//! in the thread's cache, and are floats from then on. Both are the same numbers in the same order as those of the decoded
//! weight.

use std::cell::RefCell;

use half::bf16;

use super::{
    Isa, Kernel,
    any_packed::{ByKind, Packed, WithPacked},
    coded_product,
    packed::{CodedWeight, PackedWeight},
    simd::{LANES, Simd},
    tile::{Block, LINE, Product, STREAM_AHEAD},
};

/// Elements that are decoded together.
const STEP: usize = 2 * LANES;
/// Rows of the weight in a panel: whole tiles of every instruction set.
const PANEL_ROWS: usize = 12;

thread_local! {
    /// Grows to the largest panel that the thread has needed.
    static PANEL: RefCell<Vec<bf16>> = const { RefCell::new(Vec::new()) };
}

/// A block of the product with `weight`.
pub(crate) fn multiply(isa: Isa, weight: Packed<'_>, block: Block<'_, bf16>) {
    weight.by_kind(Multiply { isa, block });
}

/// A block of the product with a coded weight whose inputs were f32.
pub(crate) fn multiply_coded(isa: Isa, weight: Packed<'_>, block: Block<'_, f32>) {
    struct Coded<'a>(Isa, Block<'a, f32>);
    impl ByKind for Coded<'_> {
        fn codes<W: CodedWeight>(self, weight: W::Rows<'_>) {
            coded_product::multiply::<W>(self.0, weight, self.1);
        }
        fn floats<W: PackedWeight>(self, _: W::Rows<'_>) {
            debug_assert!(false, "packed floats meet bf16 alone");
        }
    }
    weight.by_kind(Coded(isa, block));
}

/// Calls `with` with row `row` of `weight`, `k` elements, decoded.
pub(crate) fn with_decoded_row(
    isa: Isa,
    weight: Packed<'_>,
    row: usize,
    k: usize,
    with: impl FnOnce(&[bf16]),
) {
    with_panel(k, |panel| {
        weight.run(DecodeRow { isa, row, panel: &mut *panel });
        with(panel);
    });
}

struct DecodeRow<'a> {
    isa: Isa,
    row: usize,
    panel: &'a mut [bf16],
}

impl WithPacked for DecodeRow<'_> {
    fn run<W: PackedWeight>(self, weight: W::Rows<'_>) {
        let DecodeRow { isa, row, panel } = self;
        isa.run(Decode::<W> { weight, first: row, k: panel.len(), panel });
    }
}

/// Calls `run` with room for so many elements, which hold anything.
fn with_panel(elements: usize, run: impl FnOnce(&mut [bf16])) {
    PANEL.with_borrow_mut(|panel| {
        if panel.len() < elements {
            panel.resize(elements, bf16::ZERO);
        }
        run(&mut panel[..elements]);
    });
}

struct Multiply<'a> {
    isa: Isa,
    block: Block<'a, bf16>,
}

impl ByKind for Multiply<'_> {
    fn codes<W: CodedWeight>(self, weight: W::Rows<'_>) {
        coded_product::multiply::<W>(self.isa, weight, self.block.quantized());
    }

    fn floats<W: PackedWeight>(self, weight: W::Rows<'_>) {
        let Multiply { isa, block } = self;
        if block.rows.len() == 1 {
            return isa.run(OneRow::<W> { weight, block });
        }
        let k = block.input.width;
        with_panel(PANEL_ROWS * k, |panel| {
            for first in block.columns.clone().step_by(PANEL_ROWS) {
                let rows = PANEL_ROWS.min(block.columns.end - first);
                let panel = &mut panel[..rows * k];
                isa.run(Decode::<W> { weight, first, k, panel });
                let block = Block {
                    bias: block.bias.map(|bias| bias.from(first)),
                    out_column: block.out_column + first,
                    columns: 0..rows,
                    ..block.clone()
                };
                isa.run(Product::<bf16> { weight: panel, block });
            }
        });
    }
}

/// Rows `first..` of a weight.
struct Decode<'a, 'w, W: PackedWeight> {
    weight: W::Rows<'w>,
    first: usize,
    k: usize,
    /// `[rows, K]`
    panel: &'a mut [bf16],
}

impl<W: PackedWeight> Kernel for Decode<'_, '_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (n, out) in (self.first..).zip(self.panel.chunks_exact_mut(self.k.max(1))) {
            let row = W::row(self.weight, n, self.k);
            for (block, out) in (0..).step_by(W::BLOCK).zip(out.chunks_mut(W::BLOCK)) {
                // SAFETY: the row has this block.
                let scales = unsafe { W::scales(s, row, block) };
                for (at, out) in (block..).step_by(STEP).zip(out.chunks_mut(STEP)) {
                    // SAFETY: the row has as many elements as `out`, which has room for those of this step.
                    unsafe {
                        let operand = s.pack(W::halves(s, row, &scales, at, out.len()));
                        s.store_pairs(out.as_mut_ptr(), out.len(), operand);
                    }
                }
            }
        }
    }
}

/// A block of one row of inputs.
struct OneRow<'a, 'w, W: PackedWeight> {
    weight: W::Rows<'w>,
    block: Block<'a, bf16>,
}

impl<W: PackedWeight> Kernel for OneRow<'_, '_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OneRow { weight, block } = self;
        let (row, k) = (block.rows.start, block.input.width);
        let input = block.input.get(row);
        for column in block.columns.clone() {
            let of_column = W::row(weight, column, k);
            // Memory is read in one stream: a line ahead for every line that is read.
            let bytes = W::bytes(of_column);
            let mut ahead = bytes.as_ptr().wrapping_add(STREAM_AHEAD);
            let per_block = bytes.len() * W::BLOCK / k.max(1);
            let mut sum = s.splat(0.0);
            for (block, input) in (0..).step_by(W::BLOCK).zip(input.chunks(W::BLOCK)) {
                for line in (0..per_block).step_by(LINE) {
                    s.prefetch(ahead.wrapping_add(line));
                }
                ahead = ahead.wrapping_add(per_block);
                // SAFETY: the row has this block.
                let scales = unsafe { W::scales(s, of_column, block) };
                for (at, input) in (block..).step_by(STEP).zip(input.chunks(STEP)) {
                    // SAFETY: the row has as many elements as the input.
                    unsafe {
                        let operand = s.pack(W::halves(s, of_column, &scales, at, input.len()));
                        sum = s.dot_pairs(sum, s.load_pairs(input.as_ptr(), input.len()), operand);
                    }
                }
            }
            let mut sum = s.sum(sum);
            if let Some(bias) = block.bias {
                sum += bias.get(column);
            }
            let at = row * block.out_width + block.out_column + column;
            // SAFETY: the block is ours alone.
            unsafe { block.out.get(at..at + 1)[0] = sum };
        }
    }
}
