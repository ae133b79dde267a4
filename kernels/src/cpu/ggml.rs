//! Rows of the block formats of GGUF files, as llama.cpp's ggml defines them (`ggml-common.h`, `ggml-quants.c`): an element is
//! `scale · value(code) + offset`, with scale and offset of its group. Products are rounded to f32 in the order of ggml's
//! reference, so that decoded weights are the same.

pub(super) mod formats;

use super::{
    packed::{CodedWeight, Groups, PackedWeight, Scales, biased},
    simd::{LANES, Simd},
};

/// Elements that are decoded together.
const STEP: usize = 2 * LANES;

/// What codes stand for.
pub(crate) enum Values {
    /// Themselves, less a number.
    Less(u8),
    /// Themselves, as signed bytes.
    Signed,
    /// Entries of a table.
    Table([i8; 16]),
}

impl Values {
    /// The table, if there is one.
    const fn table(self) -> [i8; 16] {
        if let Values::Table(table) = self { table } else { [0; 16] }
    }
}

/// A format whose rows are blocks that hold all of their scales.
pub(crate) trait BlockFormat: Send + Sync + 'static {
    /// Elements of a block: a multiple of 32.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements of a group: 16 or 32.
    const GROUP: usize;
    /// What they stand for.
    const VALUES: Values;
    /// Elements have an offset.
    const OFFSET: bool;

    /// Of the groups of a block, or of up to 16 blocks that are a group each.
    ///
    /// # Safety
    /// They can be read at `blocks`.
    unsafe fn scales<S: Simd>(s: S, blocks: *const u8, n: usize) -> Scales;
    /// The codes of elements `64 pair..64 (pair + 1)`: of a block, or of two that have 32 elements each.
    ///
    /// # Safety
    /// They can be read at `blocks`.
    unsafe fn quads<S: Simd>(s: S, blocks: *const u8, pair: usize) -> S::Quads;
    /// The codes of elements `32 step..32 (step + 1)` of a block.
    ///
    /// # Safety
    /// `BYTES` bytes can be read at `block`, and the block has that step.
    unsafe fn codes<S: Simd>(s: S, block: *const u8, step: usize) -> S::Bytes;
}

/// A weight of such blocks.
pub(crate) struct Blocks<F>(std::marker::PhantomData<F>);

impl<F: BlockFormat> Blocks<F> {
    /// `scale · values + offset` of a group of step `step`.
    #[inline(always)]
    fn apply<S: Simd>(s: S, values: S::V, scales: &Scales, step: usize, half: usize) -> S::V {
        let group = step * STEP / F::GROUP + half * LANES / F::GROUP;
        let product = s.mul(values, s.splat(scales.scale[group]));
        if F::OFFSET { s.add(product, s.splat(scales.offset[group])) } else { product }
    }
}

impl<F: BlockFormat> PackedWeight for Blocks<F> {
    type Rows<'a> = &'a [u8];
    type Row<'a> = &'a [u8];
    const BLOCK: usize = F::BLOCK;

    #[inline(always)]
    fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a> {
        let bytes = k / F::BLOCK * F::BYTES;
        &rows[n * bytes..(n + 1) * bytes]
    }

    #[inline(always)]
    fn bytes<'a>(row: Self::Row<'a>) -> &'a [u8] {
        row
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, row: &[u8], at: usize) -> Scales {
        // SAFETY: rows are whole blocks, and the caller vouches for this one.
        unsafe { F::scales(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), F::BLOCK / F::GROUP) }
    }

    #[inline(always)]
    unsafe fn halves<S: Simd>(s: S, row: &[u8], scales: &Scales, at: usize, _: usize) -> [S::V; 2] {
        let step = at % F::BLOCK / STEP;
        // SAFETY: as above.
        let codes = unsafe { F::codes(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), step) };
        let [first, last] = match F::VALUES {
            Values::Less(zero) => less(s, s.unsigned(codes), f32::from(zero)),
            Values::Signed => s.signed(codes),
            Values::Table(table) => s.signed(s.look_up(codes, &table)),
        };
        [Self::apply(s, first, scales, step, 0), Self::apply(s, last, scales, step, 1)]
    }
}

impl<F: BlockFormat> CodedWeight for Blocks<F> {
    const GROUPS: Groups = Groups { size: F::GROUP, offset: F::OFFSET };

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, row: &[u8], at: usize) -> S::Bytes {
        let step = at % F::BLOCK / STEP;
        // SAFETY: rows are whole blocks, and the caller vouches for this one.
        let codes = unsafe { F::codes(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), step) };
        match F::VALUES {
            Values::Less(_) if F::OFFSET => codes,
            Values::Less(zero) => s.add_bytes(codes, S::BIAS.wrapping_sub(zero)),
            Values::Signed => s.add_bytes(codes, S::BIAS),
            Values::Table(_) => s.look_up(codes, &const { biased::<S>(F::VALUES.table()) }),
        }
    }

    #[inline(always)]
    unsafe fn quads<S: Simd>(s: S, row: &[u8], at: usize, pair: usize) -> S::Quads {
        // SAFETY: rows are whole blocks, and the caller vouches for these.
        let codes = unsafe { F::quads(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), pair) };
        match F::VALUES {
            Values::Less(_) if F::OFFSET => codes,
            Values::Less(zero) => s.add_to_quads(codes, S::BIAS.wrapping_sub(zero)),
            Values::Signed => s.add_to_quads(codes, S::BIAS),
            Values::Table(_) => s.look_up_quads(codes, &const { biased::<S>(F::VALUES.table()) }),
        }
    }

    #[inline(always)]
    unsafe fn group_scales<S: Simd>(s: S, row: &[u8], first: usize, n: usize) -> Scales {
        let groups = F::BLOCK / F::GROUP;
        // SAFETY: rows are whole blocks, and the caller vouches for these.
        unsafe {
            let block = row.as_ptr().add(first / groups * F::BYTES);
            if groups == 1 {
                return F::scales(s, block, n);
            }
            let mut all = Scales::one(0.0, 0.0);
            for i in 0..n.div_ceil(groups) {
                let scales = F::scales(s, block.add(i * F::BYTES), groups);
                all.scale[i * groups..][..groups].copy_from_slice(&scales.scale[..groups]);
                all.offset[i * groups..][..groups].copy_from_slice(&scales.offset[..groups]);
            }
            all
        }
    }
}

/// `code - zero`
#[inline(always)]
fn less<S: Simd>(s: S, [first, last]: [S::V; 2], zero: f32) -> [S::V; 2] {
    if zero == 0.0 {
        return [first, last];
    }
    let zero = s.splat(zero);
    [s.sub(first, zero), s.sub(last, zero)]
}
