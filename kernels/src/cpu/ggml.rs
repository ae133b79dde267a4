//! Rows of the block formats of GGUF files, as llama.cpp's ggml defines them (`ggml-common.h`, `ggml-quants.c`): an element is
//! `scale · value(code) + offset`, with scale and offset of its group. Products are rounded to f32 in the order of ggml's
//! reference, so that decoded weights are the same.

use super::{
    Float,
    packed::{E2M1_TWICE, PackedWeight, Scales, half_of_power},
    simd::{LANES, Simd},
};

/// Elements that are decoded together.
const STEP: usize = 2 * LANES;

/// What codes stand for.
pub(crate) enum Values {
    /// Themselves, less a number.
    Less(f32),
    /// Themselves, as signed bytes.
    Signed,
    /// Entries of a table.
    Table([i8; 16]),
}

/// A format whose rows are blocks that hold all of their scales.
pub(crate) trait BlockFormat: Send + Sync + 'static {
    /// Elements of a block: a multiple of 32.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements of a group: 16 or 32.
    const GROUP: usize;
    /// Codes are below this.
    const CODES: usize;
    /// What they stand for.
    const VALUES: Values;
    /// Elements have an offset.
    const OFFSET: bool;

    /// # Safety
    /// `BYTES` bytes can be read at `block`.
    unsafe fn scales<S: Simd>(s: S, block: *const u8) -> Scales;
    /// The codes of elements `32 step..32 (step + 1)` of a block.
    ///
    /// # Safety
    /// `BYTES` bytes can be read at `block`, and the block has that step.
    unsafe fn codes<S: Simd>(s: S, block: *const u8, step: usize) -> S::Bytes;
}

/// A weight of such blocks.
pub(crate) struct Blocks<F>(std::marker::PhantomData<F>);

impl<F: BlockFormat> Blocks<F> {
    /// The values of all codes below 32.
    const TABLE: [f32; STEP] = {
        let mut table = [0.0; STEP];
        let mut code = 0;
        while code < STEP {
            table[code] = match F::VALUES {
                Values::Less(zero) => code as f32 - zero,
                Values::Signed => code as f32,
                Values::Table(entries) => entries[code % 16] as f32,
            };
            code += 1;
        }
        table
    };
    /// The last 16 of 32 codes have a table of their own.
    const SECOND: [u8; STEP] = {
        let mut codes = [0; STEP];
        let mut i = LANES;
        while i < STEP {
            codes[i] = LANES as u8;
            i += 1;
        }
        codes
    };

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
        unsafe { F::scales(s, row.as_ptr().add(at / F::BLOCK * F::BYTES)) }
    }

    #[inline(always)]
    unsafe fn halves<S: Simd>(s: S, row: &[u8], scales: &Scales, at: usize, _: usize) -> [S::V; 2] {
        let step = at % F::BLOCK / STEP;
        // SAFETY: as above.
        let codes = unsafe { F::codes(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), step) };
        let [first, last] = match F::VALUES {
            Values::Less(zero) => less(s, s.unsigned(codes), zero),
            Values::Signed => s.signed(codes),
            Values::Table(table) => s.signed(s.look_up(codes, &table)),
        };
        [Self::apply(s, first, scales, step, 0), Self::apply(s, last, scales, step, 1)]
    }

    #[inline(always)]
    unsafe fn pairs<S: Simd>(s: S, row: &[u8], scales: &Scales, at: usize, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe {
            // A table of all elements that a group can have, where there are few.
            if !S::LOOKS_UP || F::CODES * STEP / F::GROUP > STEP {
                return s.pack(Self::halves(s, row, scales, at, n));
            }
            let step = at % F::BLOCK / STEP;
            let codes = F::codes(s, row.as_ptr().add(at / F::BLOCK * F::BYTES), step);
            let [low, high] = [f32::load(s, &Self::TABLE[..LANES]), f32::load(s, &Self::TABLE[LANES..])];
            let first = Self::apply(s, low, scales, step, 0);
            if F::GROUP == LANES {
                let last = Self::apply(s, low, scales, step, 1);
                let second = s.load_bytes(Self::SECOND.as_ptr(), STEP);
                s.look_up_pairs(s.or(codes, second), [first, last])
            } else if F::CODES > LANES {
                s.look_up_pairs(codes, [first, Self::apply(s, high, scales, step, 0)])
            } else {
                s.look_up_pairs(codes, [first, first])
            }
        }
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

/// `code - zero`
#[inline(always)]
fn less<S: Simd>(s: S, [first, last]: [S::V; 2], zero: f32) -> [S::V; 2] {
    if zero == 0.0 {
        return [first, last];
    }
    let zero = s.splat(zero);
    [s.sub(first, zero), s.sub(last, zero)]
}

/// Up to 16 groups: `scale` and `offset` times a number for each.
#[inline(always)]
fn groups<S: Simd>(s: S, scales: S::V, d: f32, offsets: S::V, dmin: f32) -> Scales {
    let mut groups = Scales { scale: [0.0; LANES], offset: [0.0; LANES] };
    let [scales, offsets] = [s.mul(scales, s.splat(d)), s.mul(offsets, s.splat(dmin))];
    f32::store(s, &mut groups.scale, scales);
    f32::store(s, &mut groups.offset, offsets);
    groups
}

/// A format: elements and bytes of a block, elements of a group, codes and what they stand for, whether there are offsets;
/// its scales; the codes of a step.
macro_rules! block_format {
    (
        $(#[$doc:meta])* $Name:ident, $block:literal in $bytes:literal, groups of $group:literal, $codes:literal codes,
        $values:expr, offset $offset:literal, scales |$s:ident, $p:ident| $scales:block,
        codes |$t:ident, $q:ident, $step:ident| $decode:block
    ) => {
        $(#[$doc])*
        pub(crate) struct $Name;

        impl BlockFormat for $Name {
            const BLOCK: usize = $block;
            const BYTES: usize = $bytes;
            const GROUP: usize = $group;
            const CODES: usize = $codes;
            const VALUES: Values = $values;
            const OFFSET: bool = $offset;

            #[inline(always)]
            unsafe fn scales<S: Simd>($s: S, $p: *const u8) -> Scales {
                // SAFETY: all offsets are within the bytes of a block.
                unsafe { $scales }
            }

            #[inline(always)]
            unsafe fn codes<S: Simd>($t: S, $q: *const u8, $step: usize) -> S::Bytes {
                // SAFETY: all offsets are within the bytes of a block.
                unsafe { $decode }
            }
        }
    };
}

block_format! {
    /// d; 32 signed bytes.
    Q8_0, 32 in 34, groups of 32, 256 codes, Values::Signed, offset false,
    scales |s, p| { Scales::one(f16(s, p), 0.0) },
    codes |s, p, _step| { s.load_bytes(p.add(2), STEP) }
}
block_format! {
    /// d; 32 codes of 4 bits.
    Q4_0, 32 in 18, groups of 32, 16 codes, Values::Less(8.0), offset false,
    scales |s, p| { Scales::one(f16(s, p), 0.0) },
    codes |s, p, _step| { s.load_nibbles(p.add(2)) }
}
block_format! {
    /// d, m; 32 codes of 4 bits.
    Q4_1, 32 in 20, groups of 32, 16 codes, Values::Less(0.0), offset true,
    scales |s, p| { Scales::one(f16(s, p), f16(s, p.add(2))) },
    codes |s, p, _step| { s.load_nibbles(p.add(4)) }
}
block_format! {
    /// d; the fifth bits; 32 codes of 4 bits.
    Q5_0, 32 in 22, groups of 32, 32 codes, Values::Less(16.0), offset false,
    scales |s, p| { Scales::one(f16(s, p), 0.0) },
    codes |s, p, _step| { five_bits(s, p.add(2)) }
}
block_format! {
    /// d, m; the fifth bits; 32 codes of 4 bits.
    Q5_1, 32 in 24, groups of 32, 32 codes, Values::Less(0.0), offset true,
    scales |s, p| { Scales::one(f16(s, p), f16(s, p.add(2))) },
    codes |s, p, _step| { five_bits(s, p.add(4)) }
}

/// Codes of five bits: the upper ones in a word, then the lower four.
///
/// # Safety
/// 20 bytes can be read at `p`.
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, p: *const u8) -> S::Bytes {
    // SAFETY: as promised by the caller.
    let (upper, lower) = unsafe { (p.cast::<u32>().read_unaligned(), s.load_nibbles(p.add(4))) };
    s.or(lower, s.bits(s.spread_bits(upper), 0, 1, 4))
}

block_format! {
    /// Scales and minima of 16 elements, 4 bits each; codes of 2 bits; d, dmin.
    Q2K, 256 in 84, groups of 16, 4 codes, Values::Less(0.0), offset true,
    scales |s, p| {
        let [scales, minima] = s.unsigned(s.load_nibbles(p));
        groups(s, scales, f16(s, p.add(80)), minima, -f16(s, p.add(82)))
    },
    codes |s, p, step| { s.bits(s.load_bytes(p.add(16 + step / 4 * 32), STEP), 2 * (step as u32 % 4), 3, 0) }
}
block_format! {
    /// The third bits; codes of 2 bits; scales of 16 elements, 6 bits each; d.
    Q3K, 256 in 110, groups of 16, 8 codes, Values::Less(4.0), offset false,
    scales |s, p| {
        let word = |i: usize| p.add(96 + 4 * i).cast::<u32>().read_unaligned();
        let (low, high) = ([word(0), word(1)], word(2));
        let mut bytes = [0_u8; STEP];
        for i in 0..4 {
            let lower = low[i % 2] >> (i / 2 * 4) & 0x0f0f_0f0f;
            let upper = (high >> (2 * i) & 0x0303_0303) << 4;
            bytes[4 * i..4 * i + 4].copy_from_slice(&(lower | upper).to_le_bytes());
        }
        let [scales, _] = less(s, s.unsigned(s.load_bytes(bytes.as_ptr(), STEP)), 32.0);
        groups(s, scales, f16(s, p.add(108)), scales, 0.0)
    },
    codes |s, p, step| {
        let lower = s.bits(s.load_bytes(p.add(32 + step / 4 * 32), STEP), 2 * (step as u32 % 4), 3, 0);
        s.or(lower, s.bits(s.load_bytes(p, STEP), step as u32, 1, 2))
    }
}

/// Scales and minima of eight groups of 32, 6 bits each in 12 bytes, times those of the block.
///
/// # Safety
/// 16 bytes can be read at `p`: d, dmin, and those.
#[inline(always)]
unsafe fn scales_and_minima<S: Simd>(s: S, p: *const u8) -> Scales {
    // SAFETY: as promised by the caller.
    unsafe {
        let word = |i: usize| p.add(4 + 4 * i).cast::<u32>().read_unaligned();
        let (scales, minima, rest) = (word(0), word(1), word(2));
        let words = [
            [scales & 0x3f3f_3f3f, rest & 0x0f0f_0f0f | (scales >> 6 & 0x0303_0303) << 4],
            [minima & 0x3f3f_3f3f, rest >> 4 & 0x0f0f_0f0f | (minima >> 6 & 0x0303_0303) << 4],
        ];
        let mut bytes = [0_u8; STEP];
        for (half, words) in words.iter().enumerate() {
            bytes[LANES * half..][..4].copy_from_slice(&words[0].to_le_bytes());
            bytes[LANES * half + 4..][..4].copy_from_slice(&words[1].to_le_bytes());
        }
        let [scales, minima] = s.unsigned(s.load_bytes(bytes.as_ptr(), STEP));
        groups(s, scales, f16(s, p), minima, -f16(s, p.add(2)))
    }
}

block_format! {
    /// d, dmin; scales and minima; codes of 4 bits.
    Q4K, 256 in 144, groups of 32, 16 codes, Values::Less(0.0), offset true,
    scales |s, p| { scales_and_minima(s, p) },
    codes |s, p, step| { s.bits(s.load_bytes(p.add(16 + step / 2 * 32), STEP), 4 * (step as u32 % 2), 15, 0) }
}
block_format! {
    /// d, dmin; scales and minima; the fifth bits; codes of 4 bits.
    Q5K, 256 in 176, groups of 32, 32 codes, Values::Less(0.0), offset true,
    scales |s, p| { scales_and_minima(s, p) },
    codes |s, p, step| {
        let lower = s.bits(s.load_bytes(p.add(48 + step / 2 * 32), STEP), 4 * (step as u32 % 2), 15, 0);
        s.or(lower, s.bits(s.load_bytes(p.add(16), STEP), step as u32, 1, 4))
    }
}
block_format! {
    /// The lower four bits; the upper two; scales of 16 elements; d.
    Q6K, 256 in 210, groups of 16, 64 codes, Values::Less(32.0), offset false,
    scales |s, p| {
        let [scales, _] = s.signed(s.load_bytes(p.add(192), LANES));
        groups(s, scales, f16(s, p.add(208)), scales, 0.0)
    },
    codes |s, p, step| {
        let (half, quarter) = (step / 4, step % 4);
        let lower = s.load_bytes(p.add(64 * half + 32 * (quarter % 2)), STEP);
        let upper = s.load_bytes(p.add(128 + 32 * half), STEP);
        s.or(s.bits(lower, 4 * (quarter as u32 / 2), 15, 0), s.bits(upper, 2 * quarter as u32, 3, 4))
    }
}

/// The values of IQ4_NL and IQ4_XS.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block_format! {
    /// d; 32 codes of 4 bits.
    Iq4Nl, 32 in 18, groups of 32, 16 codes, Values::Table(IQ4), offset false,
    scales |s, p| { Scales::one(f16(s, p), 0.0) },
    codes |s, p, _step| { s.load_nibbles(p.add(2)) }
}
block_format! {
    /// d; scales of 32 elements, 6 bits each: two of each in a word, four in bytes; codes of 4 bits.
    Iq4Xs, 256 in 136, groups of 32, 16 codes, Values::Table(IQ4), offset false,
    scales |s, p| {
        let (d, high) = (f16(s, p), p.add(2).cast::<u16>().read_unaligned());
        let mut scales = Scales::one(0.0, 0.0);
        for step in 0..8 {
            let low = *p.add(4 + step / 2) >> (4 * (step % 2)) & 15;
            let high = (high >> (2 * step) & 3) as u8;
            scales.scale[step] = d * f32::from((low | high << 4) as i8 - 32);
        }
        scales
    },
    codes |s, p, step| { s.load_nibbles(p.add(8 + 16 * step)) }
}
block_format! {
    /// An E8M0 scale; 32 codes of 4 bits.
    Mxfp4Block, 32 in 17, groups of 32, 16 codes, Values::Table(E2M1_TWICE), offset false,
    scales |_s, p| { Scales::one(half_of_power(*p), 0.0) },
    codes |s, p, _step| { s.load_nibbles(p.add(1)) }
}
