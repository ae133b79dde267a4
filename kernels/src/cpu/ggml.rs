//! Rows of the block formats of GGUF files, as llama.cpp's ggml defines them (`ggml-common.h`, `ggml-quants.c`). Products of
//! scales and codes are rounded to f32 in the order of its reference, so that decoded weights are the same.

use super::{
    packed::{E2M1_TWICE, PackedWeight, half_of_power, scaled},
    simd::{LANES, Simd},
};

/// Elements that are decoded together.
const STEP: usize = 2 * LANES;

/// A format whose rows are blocks that hold all of their scales.
pub(crate) trait BlockFormat: Send + Sync + 'static {
    /// Elements of a block: a multiple of 32.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Elements `32 step..32 (step + 1)` of a block: the first 16, and the last.
    ///
    /// # Safety
    /// `BYTES` bytes can be read at `block`, and the block has that step.
    unsafe fn decode<S: Simd>(s: S, block: *const u8, step: usize) -> [S::V; 2];
}

/// A weight of such blocks.
pub(crate) struct Blocks<F>(std::marker::PhantomData<F>);

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
    unsafe fn load_halves<S: Simd>(s: S, row: &[u8], at: usize, _: usize) -> [S::V; 2] {
        // SAFETY: rows are whole blocks, and the caller vouches for this one.
        unsafe { F::decode(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), at % F::BLOCK / STEP) }
    }
}

/// A float of 16 bits.
///
/// # Safety
/// Two bytes can be read at `p`, which is even.
#[inline(always)]
unsafe fn f16<S: Simd>(s: S, p: *const u8) -> f32 {
    // SAFETY: as promised by the caller.
    s.first(unsafe { s.load_f16(p.cast(), 1) })
}

/// `scale · code + offset`
#[inline(always)]
fn shifted<S: Simd>(s: S, codes: [S::V; 2], scale: f32, offset: f32) -> [S::V; 2] {
    let ([first, last], offset) = (scaled(s, codes, scale), s.splat(offset));
    [s.add(first, offset), s.add(last, offset)]
}

/// `code - zero`
#[inline(always)]
fn less<S: Simd>(s: S, [first, last]: [S::V; 2], zero: f32) -> [S::V; 2] {
    let zero = s.splat(zero);
    [s.sub(first, zero), s.sub(last, zero)]
}

/// A scale for each 16 elements.
#[inline(always)]
fn scaled_in_two<S: Simd>(s: S, [first, last]: [S::V; 2], scales: [f32; 2]) -> [S::V; 2] {
    [s.mul(first, s.splat(scales[0])), s.mul(last, s.splat(scales[1]))]
}

/// A format: its elements and bytes a block, and how step `$step` of the block at `$p` is decoded.
macro_rules! block_format {
    ($(#[$doc:meta])* $Name:ident, $block:literal, $bytes:literal, |$s:ident, $p:ident, $step:ident| $decode:block) => {
        $(#[$doc])*
        pub(crate) struct $Name;

        impl BlockFormat for $Name {
            const BLOCK: usize = $block;
            const BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn decode<S: Simd>($s: S, $p: *const u8, $step: usize) -> [S::V; 2] {
                // SAFETY: all offsets are within the bytes of a block.
                unsafe { $decode }
            }
        }
    };
}

block_format! {
    /// d; 32 signed bytes.
    Q8_0, 32, 34, |s, p, _step| { scaled(s, s.signed(s.load_bytes(p.add(2), STEP)), f16(s, p)) }
}
block_format! {
    /// d; 32 codes of 4 bits.
    Q4_0, 32, 18, |s, p, _step| { scaled(s, less(s, s.unsigned(s.load_nibbles(p.add(2))), 8.0), f16(s, p)) }
}
block_format! {
    /// d, m; 32 codes of 4 bits.
    Q4_1, 32, 20, |s, p, _step| {
        shifted(s, s.unsigned(s.load_nibbles(p.add(4))), f16(s, p), f16(s, p.add(2)))
    }
}
block_format! {
    /// d; the fifth bits; 32 codes of 4 bits.
    Q5_0, 32, 22, |s, p, _step| { scaled(s, less(s, five_bits(s, p.add(2)), 16.0), f16(s, p)) }
}
block_format! {
    /// d, m; the fifth bits; 32 codes of 4 bits.
    Q5_1, 32, 24, |s, p, _step| { shifted(s, five_bits(s, p.add(4)), f16(s, p), f16(s, p.add(2))) }
}

/// Codes of five bits: the upper ones in a word, then the lower four.
///
/// # Safety
/// 20 bytes can be read at `p`.
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, p: *const u8) -> [S::V; 2] {
    // SAFETY: as promised by the caller.
    let (upper, lower) = unsafe { (p.cast::<u32>().read_unaligned(), s.load_nibbles(p.add(4))) };
    s.unsigned(s.or(lower, s.bits(s.spread_bits(upper), 0, 1, 4)))
}

block_format! {
    /// Scales and minima of 16 elements, 4 bits each; codes of 2 bits; d, dmin.
    Q2K, 256, 84, |s, p, step| {
        let codes = s.bits(s.load_bytes(p.add(16 + step / 4 * 32), STEP), 2 * (step as u32 % 4), 3, 0);
        let (d, dmin) = (f16(s, p.add(80)), f16(s, p.add(82)));
        let of = |i: usize| *p.add(2 * step + i);
        let [first, last] = scaled_in_two(s, s.unsigned(codes), [0, 1].map(|i| d * f32::from(of(i) & 15)));
        let minima = [0, 1].map(|i| dmin * f32::from(of(i) >> 4));
        [s.sub(first, s.splat(minima[0])), s.sub(last, s.splat(minima[1]))]
    }
}
block_format! {
    /// The third bits; codes of 2 bits; scales of 16 elements, 6 bits each; d.
    Q3K, 256, 110, |s, p, step| {
        let lower = s.bits(s.load_bytes(p.add(32 + step / 4 * 32), STEP), 2 * (step as u32 % 4), 3, 0);
        let upper = s.bits(s.load_bytes(p, STEP), step as u32, 1, 2);
        let d = f16(s, p.add(108));
        let scale = |i: usize| {
            let (i, at) = (2 * step + i, p.add(96));
            let low = if i < 8 { *at.add(i) & 15 } else { *at.add(i - 8) >> 4 };
            let high = *at.add(8 + i % 4) >> (2 * (i / 4)) & 3;
            d * f32::from((low | high << 4) as i8 - 32)
        };
        let codes = less(s, s.unsigned(s.or(lower, upper)), 4.0);
        scaled_in_two(s, codes, [scale(0), scale(1)])
    }
}

/// Scale and minimum of a run of 32, 6 bits each, of eight in 12 bytes.
///
/// # Safety
/// 12 bytes can be read at `p`, and `i` is below 8.
#[inline(always)]
unsafe fn scale_and_minimum(p: *const u8, i: usize) -> [f32; 2] {
    // SAFETY: as promised by the caller.
    unsafe {
        let [scale, minimum] = if i < 4 {
            [*p.add(i) & 63, *p.add(i + 4) & 63]
        } else {
            let low = *p.add(i + 4);
            [low & 15 | *p.add(i - 4) >> 6 << 4, low >> 4 | *p.add(i) >> 6 << 4]
        };
        [f32::from(scale), f32::from(minimum)]
    }
}

block_format! {
    /// d, dmin; scales and minima; codes of 4 bits.
    Q4K, 256, 144, |s, p, step| {
        let codes = s.bits(s.load_bytes(p.add(16 + step / 2 * 32), STEP), 4 * (step as u32 % 2), 15, 0);
        let [scale, minimum] = scale_and_minimum(p.add(4), step);
        shifted(s, s.unsigned(codes), f16(s, p) * scale, -(f16(s, p.add(2)) * minimum))
    }
}
block_format! {
    /// d, dmin; scales and minima; the fifth bits; codes of 4 bits.
    Q5K, 256, 176, |s, p, step| {
        let lower = s.bits(s.load_bytes(p.add(48 + step / 2 * 32), STEP), 4 * (step as u32 % 2), 15, 0);
        let codes = s.or(lower, s.bits(s.load_bytes(p.add(16), STEP), step as u32, 1, 4));
        let [scale, minimum] = scale_and_minimum(p.add(4), step);
        shifted(s, s.unsigned(codes), f16(s, p) * scale, -(f16(s, p.add(2)) * minimum))
    }
}
block_format! {
    /// The lower four bits; the upper two; scales of 16 elements; d.
    Q6K, 256, 210, |s, p, step| {
        let (half, quarter) = (step / 4, step % 4);
        let lower = s.load_bytes(p.add(64 * half + 32 * (quarter % 2)), STEP);
        let upper = s.load_bytes(p.add(128 + 32 * half), STEP);
        let codes = s.or(
            s.bits(lower, 4 * (quarter as u32 / 2), 15, 0),
            s.bits(upper, 2 * quarter as u32, 3, 4),
        );
        let d = f16(s, p.add(208));
        let scales = [0, 1].map(|i| d * f32::from(*p.add(192 + 2 * step + i) as i8));
        scaled_in_two(s, less(s, s.unsigned(codes), 32.0), scales)
    }
}

/// The values of IQ4_NL and IQ4_XS.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block_format! {
    /// d; 32 codes of 4 bits.
    Iq4Nl, 32, 18, |s, p, _step| {
        scaled(s, s.signed(s.look_up(s.load_nibbles(p.add(2)), &IQ4)), f16(s, p))
    }
}
block_format! {
    /// d; scales of 32 elements, 6 bits each: two of each in a word, four in bytes; codes of 4 bits.
    Iq4Xs, 256, 136, |s, p, step| {
        let codes = s.look_up(s.load_nibbles(p.add(8 + 16 * step)), &IQ4);
        let low = *p.add(4 + step / 2) >> (4 * (step % 2)) & 15;
        let high = p.add(2).cast::<u16>().read_unaligned() >> (2 * step) & 3;
        scaled(s, s.signed(codes), f16(s, p) * f32::from((low | (high << 4) as u8) as i8 - 32))
    }
}

block_format! {
    /// An E8M0 scale; 32 codes of 4 bits.
    Mxfp4Block, 32, 17, |s, p, _step| {
        scaled(s, s.signed(s.look_up(s.load_nibbles(p.add(1)), &E2M1_TWICE)), half_of_power(*p))
    }
}
