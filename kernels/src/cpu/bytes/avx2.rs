//! AVX2: two registers make a vector of 64 bytes.

use std::{arch::x86_64::*, mem::transmute};

use super::ByteSimd;
use crate::cpu::{
    avx2::{self, Avx2, V},
    bytes256,
    simd::{LANES, methods},
};

type Quads = [__m256i; 2];
type Ints = [__m256i; 2];

/// `sum` plus the products of each quad, whose weights are signed.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn dot_quads(sum: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        // One side must be unsigned: the sign moves to the other. Two products are below 2^15.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The sums of the eight lanes of each register.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sums_of_eight([a, b, c, d]: [Ints; 4]) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let ab = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(b[0], b[1]));
        let cd = _mm256_hadd_epi32(_mm256_hadd_epi32(c[0], c[1]), _mm256_hadd_epi32(d[0], d[1]));
        let (first, last) =
            (_mm256_permute2x128_si256::<0x20>(ab, cd), _mm256_permute2x128_si256::<0x31>(ab, cd));
        _mm256_add_epi32(first, last)
    }
}

/// The sums of the first and of the last four lanes of each register.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sums_of_four([a, b]: [Ints; 2]) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(b[0], b[1]));
        _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

impl ByteSimd for Avx2 {
    type Bytes = __m256i;
    type Quads = Quads;
    type Ints = Ints;

    const BIAS: u8 = 0;

    methods! {
        fn raise(self, bytes: __m256i, bits: u32, by: u8) -> __m256i {
            let raised = _mm256_and_si256(bytes256::spread_bits(bits), _mm256_set1_epi8(by as i8));
            _mm256_add_epi8(bytes, raised)
        }
        fn add_bytes(self, bytes: __m256i, term: u8) -> __m256i {
            _mm256_add_epi8(bytes, _mm256_set1_epi8(term as i8))
        }
        fn look_up(self, bytes: __m256i, table: &[i8; 16]) -> __m256i { bytes256::look_up(bytes, table) }
        fn bits(self, quads: Quads, from: [u32; 2], mask: u8, to: u32) -> Quads {
            [bytes256::bits(quads[0], from[0], mask, to), bytes256::bits(quads[1], from[1], mask, to)]
        }
        fn or(self, a: Quads, b: Quads) -> Quads { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        fn add_to_quads(self, quads: Quads, term: u8) -> Quads {
            let term = _mm256_set1_epi8(term as i8);
            [_mm256_add_epi8(quads[0], term), _mm256_add_epi8(quads[1], term)]
        }
        fn look_up_quads(self, quads: Quads, table: &[i8; 16]) -> Quads {
            [bytes256::look_up(quads[0], table), bytes256::look_up(quads[1], table)]
        }
        fn transpose_quads(self, rows: [Quads; LANES]) -> [Quads; LANES] {
            let rows = transmute::<[Quads; LANES], [V; LANES]>(rows);
            transmute::<[V; LANES], [Quads; LANES]>(avx2::transpose(rows))
        }
        fn dot_quads(self, sum: Ints, weights: Quads, inputs: Quads) -> Ints {
            [dot_quads(sum[0], weights[0], inputs[0]), dot_quads(sum[1], weights[1], inputs[1])]
        }
        fn splat_int(self, x: i32) -> Ints { [_mm256_set1_epi32(x); 2] }
        fn add_ints(self, a: Ints, b: Ints) -> Ints {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn sums_of_eight(self, ints: [Ints; 8]) -> Ints {
            let [a, b, c, d, e, f, g, h] = ints;
            [sums_of_eight([a, b, c, d]), sums_of_eight([e, f, g, h])]
        }
        fn sums_of_four(self, ints: [Ints; 4]) -> Ints {
            let [a, b, c, d] = ints;
            [sums_of_four([a, b]), sums_of_four([c, d])]
        }
    }

    #[inline(always)]
    fn quads(self, halves: [__m256i; 2]) -> Quads {
        halves
    }

    #[inline(always)]
    fn halves(self, quads: Quads) -> [__m256i; 2] {
        quads
    }

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> __m256i {
        // SAFETY: the instructions as above; 32 bytes, or n copied to an array of 32.
        unsafe {
            let all: [u8; 2 * LANES];
            let p = if n == 2 * LANES {
                p
            } else {
                all = avx2::read(p, n);
                all.as_ptr()
            };
            _mm256_loadu_si256(p.cast())
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
    unsafe fn load_quads(self, p: *const u8) -> Quads {
        // SAFETY: the instructions as above; the caller vouches for 64 bytes.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn store_quads(self, p: *mut u8, quads: Quads) {
        // SAFETY: the instructions as above; the caller vouches for 64 bytes.
        unsafe {
            _mm256_storeu_si256(p.cast(), quads[0]);
            _mm256_storeu_si256(p.add(32).cast(), quads[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat_quad(self, p: *const i8) -> Quads {
        // SAFETY: the instructions as above; the caller vouches for four bytes.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }

    #[inline(always)]
    unsafe fn load_ints(self, p: *const i32) -> Ints {
        // SAFETY: the instructions as above; the caller vouches for 16 integers.
        unsafe { self.load_quads(p.cast()) }
    }
}
