//! Rows of packed weights: see [`Format`](crate::Format).

use super::{
    Float, ggml,
    simd::{LANES, Simd},
};
use crate::BlockType;

/// A packed weight `[N, K]` of any format.
#[derive(Clone, Copy)]
pub(crate) enum Packed<'a> {
    Mxfp4(Mxfp4Rows<'a>),
    Fp8(Fp8Rows<'a>),
    Blocks(BlockType, &'a [u8]),
}

/// What is done with the rows of a packed weight of any format.
pub(crate) trait WithPacked {
    fn run<W: PackedWeight>(self, rows: W::Rows<'_>);
}

impl Packed<'_> {
    /// Calls `with` for the format.
    pub(crate) fn run(self, with: impl WithPacked) {
        match self {
            Packed::Mxfp4(rows) => with.run::<Mxfp4>(rows),
            Packed::Fp8(rows) => with.run::<Fp8>(rows),
            Packed::Blocks(blocks, rows) => match blocks {
                BlockType::Q4_0 => with.run::<ggml::Blocks<ggml::Q4_0>>(rows),
                BlockType::Q4_1 => with.run::<ggml::Blocks<ggml::Q4_1>>(rows),
                BlockType::Q5_0 => with.run::<ggml::Blocks<ggml::Q5_0>>(rows),
                BlockType::Q5_1 => with.run::<ggml::Blocks<ggml::Q5_1>>(rows),
                BlockType::Q8_0 => with.run::<ggml::Blocks<ggml::Q8_0>>(rows),
                BlockType::Q2K => with.run::<ggml::Blocks<ggml::Q2K>>(rows),
                BlockType::Q3K => with.run::<ggml::Blocks<ggml::Q3K>>(rows),
                BlockType::Q4K => with.run::<ggml::Blocks<ggml::Q4K>>(rows),
                BlockType::Q5K => with.run::<ggml::Blocks<ggml::Q5K>>(rows),
                BlockType::Q6K => with.run::<ggml::Blocks<ggml::Q6K>>(rows),
                BlockType::Iq4Nl => with.run::<ggml::Blocks<ggml::Iq4Nl>>(rows),
                BlockType::Iq4Xs => with.run::<ggml::Blocks<ggml::Iq4Xs>>(rows),
                BlockType::Mxfp4Block => with.run::<ggml::Blocks<ggml::Mxfp4Block>>(rows),
            },
        }
    }
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
    /// The same rounded to bf16.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn pairs<S: Simd>(s: S, row: Self::Row<'_>, scales: &Scales, at: usize, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        s.pack(unsafe { Self::halves(s, row, scales, at, n) })
    }
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

    #[inline(always)]
    unsafe fn pairs<S: Simd>(s: S, row: Mxfp4Rows<'_>, scales: &Scales, at: usize, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe {
            if !S::LOOKS_UP {
                return s.pack(Self::halves(s, row, scales, at, n));
            }
            let table = s.mul(f32::load(s, &E2M1_TWICE.map(f32::from)), s.splat(scales.scale[0]));
            s.look_up_pairs(s.load_nibble_pairs(row.values.as_ptr().add(at / 2)), [table; 2])
        }
    }
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
    match code {
        0..=1 => f32::from_bits(1 << (21 + code)),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code - 1) << 23),
    }
}

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
