//! Rows of packed weights, and how their elements are decoded: see [`Format`](crate::Format).

use super::simd::{LANES, Simd};

/// The groups of elements of a format, each with a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Elements: 16 or 32.
    pub(crate) size: usize,
    /// They have an offset too, and their codes are unsigned.
    pub(crate) offset: bool,
}

/// A format, and how its elements are decoded.
pub(crate) trait PackedWeight: 'static {
    /// All rows.
    type Rows<'a>: Copy + Send + Sync;
    /// One row.
    type Row<'a>: Copy;
    /// Elements whose steps are decoded one after another, so that what they share is read once: a multiple of 32.
    const BLOCK: usize;

    /// Row `n` of a weight with rows of `k` elements.
    fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a>;
    /// The memory of a row, where most of it is.
    fn bytes<'a>(row: Self::Row<'a>) -> &'a [u8];
    /// The scales of the block that begins at `at`.
    ///
    /// # Safety
    /// The row has that block.
    unsafe fn scales<S: Simd>(s: S, row: Self::Row<'_>, at: usize) -> Scales;
    /// Elements `at..at + n` of a row in f32: the first 16, and the others. `scales` are those of its block.
    ///
    /// # Safety
    /// The row has them, `at` is a multiple of 32, and `n` at most that.
    unsafe fn halves<S: Simd>(s: S, row: Self::Row<'_>, scales: &Scales, at: usize, n: usize) -> [S::V; 2];
}

/// A format whose elements are `scale · code + offset` with small integers for codes, which meet quantised inputs.
pub(crate) trait CodedWeight: PackedWeight {
    /// Its groups.
    const GROUPS: Groups;

    /// The codes of elements `at..at + 32` of a row as [`ByteSimd::dot_quads`](super::bytes::ByteSimd::dot_quads) takes them:
    /// signed, raised by its bias, but unsigned as they are where groups have offsets.
    ///
    /// # Safety
    /// The row has them, and `at` is a multiple of 32.
    unsafe fn codes<S: Simd>(s: S, row: Self::Row<'_>, at: usize) -> S::Bytes;
    /// The codes of elements `at + 64 pair..at + 64 (pair + 1)`.
    ///
    /// # Safety
    /// The row has them, and a block begins at `at`.
    #[inline(always)]
    unsafe fn quads<S: Simd>(s: S, row: Self::Row<'_>, at: usize, pair: usize) -> S::Quads {
        let at = at + 2 * STEP * pair;
        // SAFETY: as promised by the caller.
        s.quads(unsafe { [Self::codes(s, row, at), Self::codes(s, row, at + STEP)] })
    }
    /// Scales and offsets of groups `first..first + n` of a row, in f32.
    ///
    /// # Safety
    /// The row has them, `first` is a multiple of 16, and `n` at most that.
    unsafe fn group_scales<S: Simd>(s: S, row: Self::Row<'_>, first: usize, n: usize) -> Scales;
}

/// Scale and offset of each group of elements of a block.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    pub(super) scale: [f32; LANES],
    pub(super) offset: [f32; LANES],
}

impl Scales {
    /// Of a block that is one group.
    #[inline(always)]
    pub(super) fn one(scale: f32, offset: f32) -> Scales {
        Scales { scale: [scale; LANES], offset: [offset; LANES] }
    }
}

/// Elements of an operand, and of a block of MXFP4.
const STEP: usize = 2 * LANES;

/// MXFP4: blocks of 32 E2M1 values, two in a byte, the lower half first, that share a power of two.
pub(crate) struct Mxfp4;

/// Values and scales of MXFP4: 16 bytes and one of each block.
#[derive(Clone, Copy)]
pub(crate) struct Mxfp4Rows<'a> {
    pub(crate) values: &'a [u8],
    pub(crate) scales: &'a [u8],
}

impl PackedWeight for Mxfp4 {
    type Rows<'a> = Mxfp4Rows<'a>;
    type Row<'a> = Mxfp4Rows<'a>;
    const BLOCK: usize = STEP;

    #[inline(always)]
    fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a> {
        let Mxfp4Rows { values, scales } = rows;
        Mxfp4Rows {
            values: &values[n * (k / 2)..(n + 1) * (k / 2)],
            scales: &scales[n * (k / STEP)..(n + 1) * (k / STEP)],
        }
    }

    #[inline(always)]
    fn bytes<'a>(row: Self::Row<'a>) -> &'a [u8] {
        row.values
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(_: S, row: Mxfp4Rows<'_>, at: usize) -> Scales {
        // SAFETY: as promised by the caller.
        Scales::one(half_of_power(unsafe { *row.scales.get_unchecked(at / STEP) }), 0.0)
    }

    #[inline(always)]
    unsafe fn halves<S: Simd>(s: S, row: Mxfp4Rows<'_>, scales: &Scales, at: usize, _: usize) -> [S::V; 2] {
        // SAFETY: rows are whole blocks, and the caller vouches for this one.
        let codes = unsafe { s.load_nibble_pairs(row.values.as_ptr().add(at / 2)) };
        scaled(s, s.signed(s.look_up(codes, &E2M1_TWICE)), scales.scale[0])
    }
}

impl CodedWeight for Mxfp4 {
    const GROUPS: Groups = Groups { size: STEP, offset: false };

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, row: Mxfp4Rows<'_>, at: usize) -> S::Bytes {
        // SAFETY: rows are whole blocks, and the caller vouches for this one.
        let codes = unsafe { s.load_nibble_pairs(row.values.as_ptr().add(at / 2)) };
        s.look_up(codes, &const { biased::<S>(E2M1_TWICE) })
    }

    #[inline(always)]
    unsafe fn quads<S: Simd>(s: S, row: Mxfp4Rows<'_>, at: usize, _: usize) -> S::Quads {
        // SAFETY: rows are whole blocks, and the caller vouches for these two.
        let codes = unsafe { s.load_nibble_pairs_twice(row.values.as_ptr().add(at / 2)) };
        s.look_up_quads(codes, &const { biased::<S>(E2M1_TWICE) })
    }

    #[inline(always)]
    unsafe fn group_scales<S: Simd>(_: S, row: Mxfp4Rows<'_>, first: usize, n: usize) -> Scales {
        let mut scales = Scales::one(0.0, 0.0);
        for (i, scale) in scales.scale.iter_mut().enumerate().take(n) {
            // SAFETY: the row has a scale for each of its groups.
            *scale = half_of_power(unsafe { *row.scales.get_unchecked(first + i) });
        }
        scales
    }
}

/// A table of values as [`ByteSimd::dot_quads`](super::bytes::ByteSimd::dot_quads) takes them.
pub(super) const fn biased<S: Simd>(mut table: [i8; 16]) -> [i8; 16] {
    let mut i = 0;
    while i < table.len() {
        table[i] = table[i].wrapping_add(S::BIAS as i8);
        i += 1;
    }
    table
}

/// Both halves times a scale. No closure: only what is inlined has the wider instructions.
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, [first, last]: [S::V; 2], scale: f32) -> [S::V; 2] {
    let scale = s.splat(scale);
    [s.mul(first, scale), s.mul(last, scale)]
}

/// Twice the values of E2M1, by code.
pub(super) const E2M1_TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the E8M0 scale 2^(code - 127); of 255, which is NaN, that.
#[inline(always)]
pub(super) fn half_of_power(code: u8) -> f32 {
    HALVES_OF_POWERS[usize::from(code)]
}

static HALVES_OF_POWERS: [f32; 256] = {
    let mut all = [f32::NAN; 256];
    let mut code = 0;
    while code < 255 {
        all[code] = f32::from_bits(if code < 2 { 1 << (21 + code) } else { (code as u32 - 1) << 23 });
        code += 1;
    }
    all
};

/// FP8: E4M3 values without infinities, with a scale per block of rows and columns.
pub(crate) struct Fp8;

/// Values `[N, K]` and scales `[⌈N / rows⌉, ⌈K / columns⌉]` of FP8.
#[derive(Clone, Copy)]
pub(crate) struct Fp8Rows<'a> {
    pub(crate) values: &'a [u8],
    pub(crate) scales: &'a [f32],
    pub(crate) block: Fp8Block,
}

/// Rows and columns of FP8 that share a scale.
#[derive(Clone, Copy)]
pub(crate) struct Fp8Block {
    rows: usize,
    /// The columns' binary logarithm.
    columns_log2: u32,
    per_row: usize,
}

impl Fp8Block {
    /// Blocks of rows of `k` elements; `columns` are a power of two.
    pub(crate) fn new([rows, columns]: [usize; 2], k: usize) -> Fp8Block {
        Fp8Block { rows, columns_log2: columns.ilog2(), per_row: k.div_ceil(columns) }
    }
}

impl PackedWeight for Fp8 {
    type Rows<'a> = Fp8Rows<'a>;
    type Row<'a> = Fp8Rows<'a>;
    const BLOCK: usize = STEP;

    #[inline(always)]
    fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a> {
        let (block, first) = (rows.block, n / rows.block.rows * rows.block.per_row);
        let scales = &rows.scales[first..first + block.per_row];
        Fp8Rows { values: &rows.values[n * k..(n + 1) * k], scales, block }
    }

    #[inline(always)]
    fn bytes<'a>(row: Self::Row<'a>) -> &'a [u8] {
        row.values
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(_: S, row: Fp8Rows<'_>, at: usize) -> Scales {
        // SAFETY: a row has a scale for each of its blocks.
        Scales::one(unsafe { *row.scales.get_unchecked(at >> row.block.columns_log2) }, 0.0)
    }

    #[inline(always)]
    unsafe fn halves<S: Simd>(s: S, row: Fp8Rows<'_>, scales: &Scales, at: usize, n: usize) -> [S::V; 2] {
        // SAFETY: the caller vouches for the elements.
        let values = s.e4m3(unsafe { s.load_bytes(row.values.as_ptr().add(at), n) });
        scaled(s, values, scales.scale[0])
    }
}
