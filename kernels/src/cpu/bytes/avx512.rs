//! AVX-512, with VNNI where there is BF16.

use std::{arch::x86_64::*, mem::transmute};

use super::ByteSimd;
use crate::cpu::{
    avx512::{self, Avx512},
    bytes256,
    simd::{LANES, methods},
};

/// The first and the third, the second and the fourth byte of each quad, as signed words.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn words(quads: __m512i) -> [__m512i; 2] {
    // SAFETY: as promised by the caller.
    unsafe { [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(quads)), _mm512_srai_epi16::<8>(quads)] }
}

/// In each quarter of the result: the sums of that quarter of each of the four.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn sums_in_quarters([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// How far bits `from..` of every byte rotate left to become bits `to..`. Words are wider than bytes: what comes from a
/// neighbour is masked off.
#[inline(always)]
fn rotation(from: u32, to: u32) -> i32 {
    (to.wrapping_sub(from) & 31) as i32
}

/// Four for every quarter, of the lower and the upper half of bytes in turn.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn nibbles_of_quarters(quarters: __m512i) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe {
        let down = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4);
        _mm512_and_si512(_mm512_srlv_epi32(quarters, down), _mm512_set1_epi8(15))
    }
}

impl<const BF16: bool> ByteSimd for Avx512<BF16> {
    type Bytes = __m256i;
    type Quads = __m512i;
    type Ints = __m512i;

    /// The dot product of bytes takes unsigned weights.
    const BIAS: u8 = if BF16 { 128 } else { 0 };

    methods! {
        fn raise(self, bytes: __m256i, bits: u32, by: u8) -> __m256i {
            _mm256_mask_add_epi8(bytes, bits, bytes, _mm256_set1_epi8(by as i8))
        }
        fn add_bytes(self, bytes: __m256i, term: u8) -> __m256i {
            _mm256_add_epi8(bytes, _mm256_set1_epi8(term as i8))
        }
        fn look_up(self, bytes: __m256i, table: &[i8; 16]) -> __m256i { bytes256::look_up(bytes, table) }
        fn quads(self, halves: [__m256i; 2]) -> __m512i {
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1])
        }
        fn halves(self, quads: __m512i) -> [__m256i; 2] {
            [_mm512_castsi512_si256(quads), _mm512_extracti64x4_epi64::<1>(quads)]
        }
        fn bits(self, quads: __m512i, from: [u32; 2], mask: u8, to: u32) -> __m512i {
            let [first, last] = [_mm256_set1_epi32(rotation(from[0], to)), _mm256_set1_epi32(rotation(from[1], to))];
            let rotations = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), last);
            _mm512_and_si512(_mm512_rolv_epi32(quads, rotations), _mm512_set1_epi8((mask << to) as i8))
        }
        fn or(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn add_to_quads(self, quads: __m512i, term: u8) -> __m512i {
            _mm512_add_epi8(quads, _mm512_set1_epi8(term as i8))
        }
        fn look_up_quads(self, quads: __m512i, table: &[i8; 16]) -> __m512i {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), quads)
        }
        fn transpose_quads(self, rows: [__m512i; LANES]) -> [__m512i; LANES] {
            let rows = transmute::<[__m512i; LANES], [__m512; LANES]>(rows);
            transmute::<[__m512; LANES], [__m512i; LANES]>(avx512::transpose(rows))
        }
        fn dot_quads(self, sum: __m512i, weights: __m512i, inputs: __m512i) -> __m512i {
            if BF16 {
                _mm512_dpbusd_epi32(sum, weights, inputs)
            } else {
                let ([w0, w1], [x0, x1]) = (words(weights), words(inputs));
                let products = _mm512_add_epi32(_mm512_madd_epi16(w0, x0), _mm512_madd_epi16(w1, x1));
                _mm512_add_epi32(sum, products)
            }
        }
        fn splat_int(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn add_ints(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn sums_of_eight(self, ints: [__m512i; 8]) -> __m512i {
            let [a, b, c, d, e, f, g, h] = ints;
            let (first, last) = (sums_in_quarters([a, b, c, d]), sums_in_quarters([e, f, g, h]));
            // Of the even quarters, and of the odd ones: first the groups 0, 2, 4, 6 that `first` begins with, then 1, 3, ..
            let (even, odd) =
                (_mm512_shuffle_i32x4::<0x88>(first, last), _mm512_shuffle_i32x4::<0xdd>(first, last));
            let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
            _mm512_permutexvar_epi32(order, _mm512_add_epi32(even, odd))
        }
        fn sums_of_four(self, ints: [__m512i; 4]) -> __m512i {
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, sums_in_quarters(ints))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> __m256i {
        // SAFETY: the instructions as above; masked lanes are not read.
        unsafe {
            if n == 2 * LANES {
                _mm256_loadu_si256(p.cast())
            } else {
                _mm256_maskz_loadu_epi8((1u32 << n) - 1, p.cast())
            }
        }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8) -> __m256i {
        // SAFETY: the instructions as above; the caller vouches for 16 bytes.
        unsafe { bytes256::load_nibbles(p) }
    }

    #[inline(always)]
    unsafe fn load_nibble_pairs(self, p: *const u8) -> __m256i {
        // SAFETY: the instructions as above; the caller vouches for 16 bytes.
        unsafe { bytes256::load_nibble_pairs(p) }
    }

    #[inline(always)]
    unsafe fn load_quads(self, p: *const u8) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_quads(self, p: *mut u8, quads: __m512i) {
        // SAFETY: the instructions as above; the caller vouches for 64 bytes.
        unsafe { _mm512_storeu_si512(p.cast(), quads) }
    }

    #[inline(always)]
    unsafe fn splat_quad(self, p: *const i8) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for four bytes.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_twice(self, p: *const u8) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for 32 bytes.
        unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_nibbles_twice(self, p: [*const u8; 2]) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for 16 bytes each.
        unsafe {
            let (first, last) = (_mm_loadu_si128(p[0].cast()), _mm_loadu_si128(p[1].cast()));
            let first = _mm512_broadcast_i32x4(first);
            nibbles_of_quarters(_mm512_mask_broadcast_i32x4(first, 0xff00, last))
        }
    }

    #[inline(always)]
    unsafe fn load_nibble_pairs_twice(self, p: *const u8) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for 32 bytes.
        unsafe {
            let words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
            let both = _mm512_or_si512(words, _mm512_slli_epi16::<4>(words));
            _mm512_and_si512(both, _mm512_set1_epi8(15))
        }
    }

    #[inline(always)]
    unsafe fn load_ints(self, p: *const i32) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for 16 integers.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
}
