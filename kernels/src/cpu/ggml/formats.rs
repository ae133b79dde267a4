//! The formats.

use super::{BlockFormat, STEP, Values, less};
use crate::cpu::{
    Float,
    packed::{E2M1_TWICE, Scales, half_of_power},
    simd::{LANES, Simd},
};

/// `n <= 16` floats of 16 bits that lie `stride` bytes apart. They meet in memory: no instruction gathers words.
///
/// # Safety
/// They can be read at `p`.
#[inline(always)]
unsafe fn halves<S: Simd>(s: S, p: *const u8, stride: usize, n: usize) -> [f32; LANES] {
    let mut words = [half::f16::ZERO; LANES];
    for (i, word) in words.iter_mut().enumerate().take(n) {
        // SAFETY: as promised by the caller.
        *word = unsafe { p.add(i * stride).cast::<half::f16>().read_unaligned() };
    }
    let mut floats = [0.0; LANES];
    // SAFETY: there are 16.
    f32::store(s, &mut floats, unsafe { s.load_f16(words.as_ptr(), LANES) });
    floats
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

/// Up to 16 groups: `scale` and `offset` times a number for each.
#[inline(always)]
fn groups<S: Simd>(s: S, scales: S::V, d: f32, offsets: S::V, dmin: f32) -> Scales {
    let mut groups = Scales { scale: [0.0; LANES], offset: [0.0; LANES] };
    let [scales, offsets] = [s.mul(scales, s.splat(d)), s.mul(offsets, s.splat(dmin))];
    f32::store(s, &mut groups.scale, scales);
    f32::store(s, &mut groups.offset, offsets);
    groups
}

/// A format: elements and bytes of a block, elements of a group, what codes stand for, whether there are offsets; its
/// scales; the codes of a block of 32 (and of two of them), or of 64 elements of a larger one.
macro_rules! block_format {
    (
        $(#[$doc:meta])* $Name:ident, $block:literal in $bytes:literal, groups of $group:literal,
        $values:expr, offset $offset:literal, scales |$s:ident, $p:ident, $n:ident| $scales:block,
        $kind:ident |$($codes:tt)*
    ) => {
        $(#[$doc])*
        pub(crate) struct $Name;

        impl BlockFormat for $Name {
            const BLOCK: usize = $block;
            const BYTES: usize = $bytes;
            const GROUP: usize = $group;
            const VALUES: Values = $values;
            const OFFSET: bool = $offset;

            #[inline(always)]
            unsafe fn scales<S: Simd>($s: S, $p: *const u8, $n: usize) -> Scales {
                // SAFETY: all offsets are within the bytes of a block.
                unsafe { $scales }
            }

            block_format! { $kind |$($codes)* }
        }
    };
    (codes |$s:ident, $p:ident| $codes:block $(, twice |$t:ident, $q:ident| $twice:block)?) => {
        #[inline(always)]
        unsafe fn codes<S: Simd>($s: S, $p: *const u8, _: usize) -> S::Bytes {
            // SAFETY: all offsets are within the bytes of a block.
            unsafe { $codes }
        }

        #[inline(always)]
        unsafe fn quads<S: Simd>(s: S, blocks: *const u8, _: usize) -> S::Quads {
            $(
                let ($t, $q) = (s, [blocks, blocks.wrapping_add(Self::BYTES)]);
                // SAFETY: all offsets are within the bytes of a block.
                return unsafe { $twice };
            )?
            #[allow(unreachable_code)]
            // SAFETY: the caller vouches for two blocks.
            s.quads(unsafe { [Self::codes(s, blocks, 0), Self::codes(s, blocks.add(Self::BYTES), 0)] })
        }
    };
    (quads |$s:ident, $p:ident, $pair:ident| $quads:block) => {
        #[inline(always)]
        unsafe fn codes<S: Simd>(s: S, block: *const u8, step: usize) -> S::Bytes {
            // SAFETY: the block has all of its steps.
            s.halves(unsafe { Self::quads(s, block, step / 2) })[step % 2]
        }

        #[inline(always)]
        unsafe fn quads<S: Simd>($s: S, $p: *const u8, $pair: usize) -> S::Quads {
            // SAFETY: all offsets are within the bytes of a block.
            unsafe { $quads }
        }
    };
}

block_format! {
    /// d; 32 signed bytes.
    Q8_0, 32 in 34, groups of 32, Values::Signed, offset false,
    scales |s, p, n| { Scales { scale: halves(s, p, Self::BYTES, n), offset: [0.0; LANES] } },
    codes |s, p| { s.load_bytes(p.add(2), STEP) }
}
block_format! {
    /// d; 32 codes of 4 bits.
    Q4_0, 32 in 18, groups of 32, Values::Less(8), offset false,
    scales |s, p, n| { Scales { scale: halves(s, p, Self::BYTES, n), offset: [0.0; LANES] } },
    codes |s, p| { s.load_nibbles(p.add(2)) },
    twice |s, p| { s.load_nibbles_twice([p[0].add(2), p[1].add(2)]) }
}
block_format! {
    /// d, m; 32 codes of 4 bits.
    Q4_1, 32 in 20, groups of 32, Values::Less(0), offset true,
    scales |s, p, n| {
        Scales { scale: halves(s, p, Self::BYTES, n), offset: halves(s, p.add(2), Self::BYTES, n) }
    },
    codes |s, p| { s.load_nibbles(p.add(4)) },
    twice |s, p| { s.load_nibbles_twice([p[0].add(4), p[1].add(4)]) }
}
block_format! {
    /// d; the fifth bits; 32 codes of 4 bits.
    Q5_0, 32 in 22, groups of 32, Values::Less(16), offset false,
    scales |s, p, n| { Scales { scale: halves(s, p, Self::BYTES, n), offset: [0.0; LANES] } },
    codes |s, p| { five_bits(s, p.add(2)) }
}
block_format! {
    /// d, m; the fifth bits; 32 codes of 4 bits.
    Q5_1, 32 in 24, groups of 32, Values::Less(0), offset true,
    scales |s, p, n| {
        Scales { scale: halves(s, p, Self::BYTES, n), offset: halves(s, p.add(2), Self::BYTES, n) }
    },
    codes |s, p| { five_bits(s, p.add(4)) }
}

/// Codes of five bits: the upper ones in a word, then the lower four.
///
/// # Safety
/// 20 bytes can be read at `p`.
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, p: *const u8) -> S::Bytes {
    // SAFETY: as promised by the caller.
    let (upper, lower) = unsafe { (p.cast::<u32>().read_unaligned(), s.load_nibbles(p.add(4))) };
    s.raise(lower, upper, 16)
}

block_format! {
    /// Scales and minima of 16 elements, 4 bits each; codes of 2 bits; d, dmin.
    Q2K, 256 in 84, groups of 16, Values::Less(0), offset true,
    scales |s, p, _n| {
        let [scales, minima] = s.unsigned(s.load_nibbles(p));
        groups(s, scales, f16(s, p.add(80)), minima, -f16(s, p.add(82)))
    },
    quads |s, p, pair| {
        let from = 4 * (pair as u32 % 2);
        s.bits(s.load_twice(p.add(16 + pair / 2 * 32)), [from, from + 2], 3, 0)
    }
}
block_format! {
    /// The third bits; codes of 2 bits; scales of 16 elements, 6 bits each; d.
    Q3K, 256 in 110, groups of 16, Values::Less(4), offset false,
    scales |s, p, _n| {
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
    quads |s, p, pair| {
        let (from, bit) = (4 * (pair as u32 % 2), 2 * pair as u32);
        let lower = s.bits(s.load_twice(p.add(32 + pair / 2 * 32)), [from, from + 2], 3, 0);
        s.or(lower, s.bits(s.load_twice(p), [bit, bit + 1], 1, 2))
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
        for (i, word) in words.iter().flatten().enumerate() {
            bytes[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
        }
        let [both, _] = s.unsigned(s.load_bytes(bytes.as_ptr(), STEP));
        let of_block = s.keep(s.splat(f16(s, p)), 0..8, -f16(s, p.add(2)));
        let mut both_scaled = [0.0; LANES];
        f32::store(s, &mut both_scaled, s.mul(both, of_block));
        let mut all = Scales::one(0.0, 0.0);
        all.scale[..8].copy_from_slice(&both_scaled[..8]);
        all.offset[..8].copy_from_slice(&both_scaled[8..]);
        all
    }
}

block_format! {
    /// d, dmin; scales and minima; codes of 4 bits.
    Q4K, 256 in 144, groups of 32, Values::Less(0), offset true,
    scales |s, p, _n| { scales_and_minima(s, p) },
    quads |s, p, pair| { s.bits(s.load_twice(p.add(16 + 32 * pair)), [0, 4], 15, 0) }
}
block_format! {
    /// d, dmin; scales and minima; the fifth bits; codes of 4 bits.
    Q5K, 256 in 176, groups of 32, Values::Less(0), offset true,
    scales |s, p, _n| { scales_and_minima(s, p) },
    quads |s, p, pair| {
        let bit = 2 * pair as u32;
        let lower = s.bits(s.load_twice(p.add(48 + 32 * pair)), [0, 4], 15, 0);
        s.or(lower, s.bits(s.load_twice(p.add(16)), [bit, bit + 1], 1, 4))
    }
}
block_format! {
    /// The lower four bits; the upper two; scales of 16 elements; d.
    Q6K, 256 in 210, groups of 16, Values::Less(32), offset false,
    scales |s, p, _n| {
        let [scales, _] = s.signed(s.load_bytes(p.add(192), LANES));
        groups(s, scales, f16(s, p.add(208)), scales, 0.0)
    },
    quads |s, p, pair| {
        let (half, from) = (pair / 2, 4 * (pair as u32 % 2));
        let lower = s.bits(s.load_quads(p.add(64 * half)), [from; 2], 15, 0);
        s.or(lower, s.bits(s.load_twice(p.add(128 + 32 * half)), [from, from + 2], 3, 4))
    }
}

/// The values of IQ4_NL and IQ4_XS.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

block_format! {
    /// d; 32 codes of 4 bits.
    Iq4Nl, 32 in 18, groups of 32, Values::Table(IQ4), offset false,
    scales |s, p, n| { Scales { scale: halves(s, p, Self::BYTES, n), offset: [0.0; LANES] } },
    codes |s, p| { s.load_nibbles(p.add(2)) },
    twice |s, p| { s.load_nibbles_twice([p[0].add(2), p[1].add(2)]) }
}
block_format! {
    /// d; scales of 32 elements, 6 bits each: two of each in a word, four in bytes; codes of 4 bits.
    Iq4Xs, 256 in 136, groups of 32, Values::Table(IQ4), offset false,
    scales |s, p, _n| {
        let (d, high) = (f16(s, p), p.add(2).cast::<u16>().read_unaligned());
        let mut scales = Scales::one(0.0, 0.0);
        for step in 0..8 {
            let low = *p.add(4 + step / 2) >> (4 * (step % 2)) & 15;
            let high = (high >> (2 * step) & 3) as u8;
            scales.scale[step] = d * f32::from((low | high << 4) as i8 - 32);
        }
        scales
    },
    quads |s, p, pair| { s.load_nibbles_twice([p.add(8 + 32 * pair), p.add(24 + 32 * pair)]) }
}
block_format! {
    /// An E8M0 scale; 32 codes of 4 bits.
    Mxfp4Block, 32 in 17, groups of 32, Values::Table(E2M1_TWICE), offset false,
    scales |_s, p, n| {
        let mut scales = Scales::one(0.0, 0.0);
        for (i, scale) in scales.scale.iter_mut().enumerate().take(n) {
            *scale = half_of_power(*p.add(i * Self::BYTES));
        }
        scales
    },
    codes |s, p| { s.load_nibbles(p.add(1)) },
    twice |s, p| { s.load_nibbles_twice([p[0].add(1), p[1].add(1)]) }
}
