//! AVX-512 with and without its bf16 dot product.

use std::{arch::x86_64::*, mem::transmute, ops::Range};

use half::{bf16, f16};

use super::{
    bytes256,
    simd::{LANES, Simd, methods},
};

/// AVX-512 F, BW, DQ and VL; with `BF16` also AVX-512 VNNI and BF16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The processor has these instructions.
    pub(crate) unsafe fn new() -> Avx512<BF16> {
        Avx512(())
    }
}

/// The first `n` of 16 lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// bf16 to f32: the bits move to the upper half.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn widen(x: __m256i) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))) }
}

/// f32 to bf16, to nearest even, NaN staying NaN.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn narrow(x: __m512) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet)))
    }
}

/// f32 to bf16, to nearest even.
///
/// # Safety
/// The processor has AVX-512 F; with `BF16` also AVX-512 BF16.
#[inline(always)]
unsafe fn round_to_bf16<const BF16: bool>(x: __m512) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe { if BF16 { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) } else { narrow(x) } }
}

/// The first and the second of each pair, as f32.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn split(pairs: __m512i) -> [__m512; 2] {
    // SAFETY: as promised by the caller.
    unsafe {
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
    }
}

/// 32 floats as bf16, in order.
///
/// # Safety
/// The processor has AVX-512 F; with `BF16` also AVX-512 BF16.
#[inline(always)]
unsafe fn pack<const BF16: bool>(halves: [__m512; 2]) -> __m512i {
    // SAFETY: as promised by the caller.
    unsafe {
        if BF16 {
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(halves[1], halves[0]))
        } else {
            let (first, last) = (narrow(halves[0]), narrow(halves[1]));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), last)
        }
    }
}

/// 16 E4M3 values: as floats of 16 bits their exponents are 8 too low.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL.
#[inline(always)]
unsafe fn e4m3(bytes: __m128i) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe {
        let words = _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(bytes));
        let rest = _mm256_and_si256(words, _mm256_set1_epi16(0x7f00));
        let sign = _mm256_andnot_si256(_mm256_set1_epi16(0x7f00), words);
        let nan = _mm256_cmpeq_epi16_mask(rest, _mm256_set1_epi16(0x7f00));
        let half = _mm256_or_si256(sign, _mm256_srli_epi16::<1>(rest));
        let half = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7e00));
        _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0))
    }
}

/// The sum of the halves.
///
/// # Safety
/// The processor has AVX-512 F and DQ.
#[inline(always)]
unsafe fn fold(v: __m512) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}

/// Pairs within quarters, then fours, then the quarters themselves, twice.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut out = rows;
        for i in [0, 2, 4, 6, 8, 10, 12, 14] {
            out[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            out[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let pairs = out;
        for i in [0, 4, 8, 12] {
            out[i] = _mm512_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            out[i + 1] = _mm512_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
            out[i + 2] = _mm512_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            out[i + 3] = _mm512_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
        }
        let fours = out;
        for i in 0..4 {
            let (a, b, c, d) = (fours[i], fours[i + 4], fours[i + 8], fours[i + 12]);
            let (first, last) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
            out[i] = _mm512_shuffle_f32x4::<0x88>(first, last);
            out[i + 4] = _mm512_shuffle_f32x4::<0xdd>(first, last);
            let (first, last) = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
            out[i + 8] = _mm512_shuffle_f32x4::<0x88>(first, last);
            out[i + 12] = _mm512_shuffle_f32x4::<0xdd>(first, last);
        }
        out
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    type Pairs = __m512i;

    const REGISTERS: usize = 32;

    methods! {
        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn round(self, a: __m512) -> __m512 { _mm512_roundscale_ps::<0x08>(a) }
        fn pow2(self, n: __m512) -> __m512 {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
        fn keep(self, a: __m512, range: Range<usize>, fill: f32) -> __m512 {
            let lanes = first_lanes(range.end) & !first_lanes(range.start);
            _mm512_mask_mov_ps(_mm512_set1_ps(fill), lanes, a)
        }
        fn sums(self, v: [__m512; 4]) -> [f32; 4] {
            // Halves, then neighbours twice, then halves again.
            let [a, b, c, d] = v;
            let (ab, cd) = (_mm256_hadd_ps(fold(a), fold(b)), _mm256_hadd_ps(fold(c), fold(d)));
            let pairs = _mm256_hadd_ps(ab, cd);
            transmute(_mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs)))
        }
        fn prefetch(self, p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T1>(p.cast())
        }
        fn unsigned(self, bytes: __m256i) -> [__m512; 2] {
            let [first, last] = bytes256::halves(bytes);
            [_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(first)), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(last))]
        }
        fn signed(self, bytes: __m256i) -> [__m512; 2] {
            let [first, last] = bytes256::halves(bytes);
            [_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first)), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(last))]
        }
        fn e4m3(self, bytes: __m256i) -> [__m512; 2] {
            let [first, last] = bytes256::halves(bytes);
            [e4m3(first), e4m3(last)]
        }
        fn pack(self, halves: [__m512; 2]) -> __m512i { pack::<BF16>(halves) }
        fn first(self, v: __m512) -> f32 { _mm512_cvtss_f32(v) }
        fn max_lane(self, v: __m512) -> f32 { _mm512_reduce_max_ps(v) }
        fn split(self, pairs: __m512i) -> [__m512; 2] { split(pairs) }
        fn join(self, halves: [__m512; 2]) -> __m512i {
            let first = _mm512_cvtepu16_epi32(round_to_bf16::<BF16>(halves[0]));
            let second = _mm512_cvtepu16_epi32(round_to_bf16::<BF16>(halves[1]));
            _mm512_or_si512(first, _mm512_slli_epi32::<16>(second))
        }
        fn dot_pairs(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            if BF16 {
                _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b))
            } else {
                let ([a0, a1], [b0, b1]) = (split(a), split(b));
                _mm512_fmadd_ps(a1, b1, _mm512_fmadd_ps(a0, b0, sum))
            }
        }
        fn to_floats(self, ints: __m512i) -> __m512 { _mm512_cvtepi32_ps(ints) }
        fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] { transpose(rows) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut i8, v: __m512) {
        // SAFETY: the instructions as above; the caller vouches for 16 bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the instructions as above; masked lanes are not read.
        unsafe { if n == LANES { _mm512_loadu_ps(p) } else { _mm512_maskz_loadu_ps(first_lanes(n), p) } }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16, n: usize) -> __m512 {
        // SAFETY: the instructions as above; masked lanes are not read.
        unsafe {
            widen(if n == LANES {
                _mm256_loadu_si256(p.cast())
            } else {
                _mm256_maskz_loadu_epi16(first_lanes(n), p.cast())
            })
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16, n: usize) -> __m512 {
        // SAFETY: the instructions as above; masked lanes are not read.
        unsafe {
            _mm512_cvtph_ps(if n == LANES {
                _mm256_loadu_si256(p.cast())
            } else {
                _mm256_maskz_loadu_epi16(first_lanes(n), p.cast())
            })
        }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: the instructions as above; masked lanes are not written.
        unsafe {
            if n == LANES { _mm512_storeu_ps(p, v) } else { _mm512_mask_storeu_ps(p, first_lanes(n), v) }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, n: usize, v: __m512) {
        // SAFETY: the instructions as above; masked lanes are not written.
        unsafe {
            let v = round_to_bf16::<BF16>(v);
            if n == LANES {
                _mm256_storeu_si256(p.cast(), v);
            } else {
                _mm256_mask_storeu_epi16(p.cast(), first_lanes(n), v);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16, n: usize) -> __m512i {
        // SAFETY: the instructions as above; masked lanes are not read.
        unsafe {
            if n == 2 * LANES {
                _mm512_loadu_si512(p.cast())
            } else {
                _mm512_maskz_loadu_epi16((1u32 << n) - 1, p.cast())
            }
        }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut bf16, n: usize, pairs: __m512i) {
        // SAFETY: the instructions as above; masked lanes are not written.
        unsafe {
            if n == 2 * LANES {
                _mm512_storeu_si512(p.cast(), pairs);
            } else {
                _mm512_mask_storeu_epi16(p.cast(), (1u32 << n) - 1, pairs);
            }
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(self, p: *const bf16) -> __m512i {
        // SAFETY: the instructions as above; the caller vouches for two elements.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
}
