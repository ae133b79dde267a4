//! AVX2 with FMA and F16C: two registers make a vector.

use std::{arch::x86_64::*, mem::transmute, ops::Range, ptr::copy_nonoverlapping};

use half::{bf16, f16};

use super::{
    bytes256,
    simd::{LANES, Simd, methods},
};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has these instructions.
    pub(crate) unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

pub(super) type V = [__m256; 2];
type Pairs = [__m256i; 2];

/// `N` elements, of which `n` are read and the others are zero.
///
/// # Safety
/// `n <= N` elements can be read at `p`.
#[inline(always)]
pub(super) unsafe fn read<T: bytemuck::Pod, const N: usize>(p: *const T, n: usize) -> [T; N] {
    let mut all = [T::zeroed(); N];
    // SAFETY: as promised by the caller; `all` has N elements.
    unsafe { copy_nonoverlapping(p, all.as_mut_ptr(), n) };
    all
}

/// bf16 to f32: the bits move to the upper half.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn widen(x: __m128i) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))) }
}

/// f32 to bf16 in the lower half of each lane, to nearest even, NaN staying NaN.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn narrow(x: __m256) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

/// The first and the second of each pair, as f32.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn split(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: as promised by the caller.
    unsafe {
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(second)]
    }
}

/// `sum` plus the products of each pair.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[inline(always)]
unsafe fn dot(sum: __m256, a: __m256i, b: __m256i) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe {
        let ([a0, a1], [b0, b1]) = (split(a), split(b));
        _mm256_fmadd_ps(a1, b1, _mm256_fmadd_ps(a0, b0, sum))
    }
}

/// Eight E4M3 values: as floats of 16 bits their exponents are 8 too low.
///
/// # Safety
/// The processor has AVX2 and F16C.
#[inline(always)]
unsafe fn e4m3(bytes: __m128i) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe {
        let words = _mm_slli_epi16::<8>(_mm_cvtepu8_epi16(bytes));
        let rest = _mm_and_si128(words, _mm_set1_epi16(0x7f00));
        let sign = _mm_andnot_si128(_mm_set1_epi16(0x7f00), words);
        let nan = _mm_cmpeq_epi16(rest, _mm_set1_epi16(0x7f00));
        let half = _mm_or_si128(sign, _mm_srli_epi16::<1>(rest));
        let half = _mm_blendv_epi8(half, _mm_set1_epi16(0x7e00), nan);
        _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0))
    }
}

/// 16 floats as bf16, in order.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pack(v: V) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        // Packing interleaves the registers' halves; the permutation puts them in order.
        let packed = _mm256_packus_epi32(narrow(v[0]), narrow(v[1]));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
    }
}

/// `a` where `start <= lane < end`, `fill` elsewhere.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn keep(a: __m256, lanes: __m256i, range: Range<usize>, fill: f32) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe {
        let (start, end) = (_mm256_set1_epi32(range.start as i32), _mm256_set1_epi32(range.end as i32));
        let inside = _mm256_andnot_si256(_mm256_cmpgt_epi32(start, lanes), _mm256_cmpgt_epi32(end, lanes));
        _mm256_blendv_ps(_mm256_set1_ps(fill), a, _mm256_castsi256_ps(inside))
    }
}

/// Eight rows of eight.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn transpose_eight(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut out = rows;
        for i in [0, 2, 4, 6] {
            out[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            out[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let pairs = out;
        for i in [0, 4] {
            out[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            out[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
            out[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            out[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
        }
        let fours = out;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
        out
    }
}

/// 16 rows of 16.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [V; LANES]) -> [V; LANES] {
    let mut out = rows;
    for (upper, left) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut block = [rows[0][0]; 8];
        for i in 0..8 {
            block[i] = rows[8 * upper + i][left];
        }
        // SAFETY: as promised by the caller.
        let block = unsafe { transpose_eight(block) };
        for i in 0..8 {
            out[8 * left + i][upper] = block[i];
        }
    }
    out
}

impl Simd for Avx2 {
    type V = V;
    type Pairs = Pairs;

    const REGISTERS: usize = 8;

    methods! {
        fn splat(self, x: f32) -> V { [_mm256_set1_ps(x); 2] }
        fn add(self, a: V, b: V) -> V { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn sub(self, a: V, b: V) -> V { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn mul(self, a: V, b: V) -> V { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn div(self, a: V, b: V) -> V { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        fn mul_add(self, a: V, b: V, c: V) -> V {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn max(self, a: V, b: V) -> V { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        fn min(self, a: V, b: V) -> V { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        fn round(self, a: V) -> V { [_mm256_round_ps::<0x08>(a[0]), _mm256_round_ps::<0x08>(a[1])] }
        fn pow2(self, n: V) -> V {
            let bias = _mm256_set1_epi32(127);
            let exponents = [
                _mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias),
                _mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias),
            ];
            transmute([_mm256_slli_epi32::<23>(exponents[0]), _mm256_slli_epi32::<23>(exponents[1])])
        }
        fn keep(self, a: V, range: Range<usize>, fill: f32) -> V {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            [keep(a[0], lanes, range.clone(), fill), keep(a[1], _mm256_add_epi32(lanes, _mm256_set1_epi32(8)), range, fill)]
        }
        fn sums(self, v: [V; 4]) -> [f32; 4] {
            // Halves, then neighbours twice, then halves again.
            let [a, b, c, d] = v;
            let ab = _mm256_hadd_ps(_mm256_add_ps(a[0], a[1]), _mm256_add_ps(b[0], b[1]));
            let cd = _mm256_hadd_ps(_mm256_add_ps(c[0], c[1]), _mm256_add_ps(d[0], d[1]));
            let pairs = _mm256_hadd_ps(ab, cd);
            transmute(_mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs)))
        }
        fn prefetch(self, p: *const u8) -> () {
            _mm_prefetch::<_MM_HINT_T0>(p.cast())
        }
        fn unsigned(self, bytes: __m256i) -> [V; 2] {
            let [first, last] = bytes256::halves(bytes);
            [bytes256::unsigned(first), bytes256::unsigned(last)]
        }
        fn signed(self, bytes: __m256i) -> [V; 2] {
            let [first, last] = bytes256::halves(bytes);
            [bytes256::signed(first), bytes256::signed(last)]
        }
        fn e4m3(self, bytes: __m256i) -> [V; 2] {
            let [first, last] = bytes256::halves(bytes);
            [
                [e4m3(first), e4m3(_mm_srli_si128::<8>(first))],
                [e4m3(last), e4m3(_mm_srli_si128::<8>(last))],
            ]
        }
        fn pack(self, halves: [V; 2]) -> Pairs { [pack(halves[0]), pack(halves[1])] }
        fn first(self, v: V) -> f32 { _mm256_cvtss_f32(v[0]) }
        fn max_lane(self, v: V) -> f32 {
            let lanes: [f32; 8] = transmute(_mm256_max_ps(v[0], v[1]));
            lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
        }
        fn split(self, pairs: Pairs) -> [V; 2] {
            let ([a0, a1], [b0, b1]) = (split(pairs[0]), split(pairs[1]));
            [[a0, b0], [a1, b1]]
        }
        fn join(self, halves: [V; 2]) -> Pairs {
            let [first, second] = halves;
            [
                _mm256_or_si256(narrow(first[0]), _mm256_slli_epi32::<16>(narrow(second[0]))),
                _mm256_or_si256(narrow(first[1]), _mm256_slli_epi32::<16>(narrow(second[1]))),
            ]
        }
        fn dot_pairs(self, sum: V, a: Pairs, b: Pairs) -> V {
            [dot(sum[0], a[0], b[0]), dot(sum[1], a[1], b[1])]
        }
        fn to_floats(self, ints: [__m256i; 2]) -> V { [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])] }
        fn transpose(self, rows: [V; LANES]) -> [V; LANES] { transpose(rows) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut i8, v: V) {
        // SAFETY: the instructions as above; the caller vouches for 16 bytes.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let [first, last] = bytes256::halves(words);
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(first, last));
        }
    }

    #[inline(always)]
    unsafe fn load_f32(self, p: *const f32, n: usize) -> V {
        // SAFETY: the instructions as above; 16 elements, or n copied to an array of 16.
        unsafe {
            let all: [f32; LANES];
            let p = if n == LANES {
                p
            } else {
                all = read(p, n);
                all.as_ptr()
            };
            [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))]
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16, n: usize) -> V {
        // SAFETY: the instructions as above; 16 elements, or n copied to an array of 16.
        unsafe {
            let all: [bf16; LANES];
            let p = if n == LANES {
                p
            } else {
                all = read(p, n);
                all.as_ptr()
            };
            [widen(_mm_loadu_si128(p.cast())), widen(_mm_loadu_si128(p.add(8).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16, n: usize) -> V {
        // SAFETY: the instructions as above; 16 elements, or n copied to an array of 16.
        unsafe {
            let all: [f16; LANES];
            let p = if n == LANES {
                p
            } else {
                all = read(p, n);
                all.as_ptr()
            };
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut f32, n: usize, v: V) {
        // SAFETY: the instructions as above; 16 elements, or n copied from an array of 16.
        unsafe {
            if n < LANES {
                let all: [f32; LANES] = transmute(v);
                return copy_nonoverlapping(all.as_ptr(), p, n);
            }
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, n: usize, v: V) {
        // SAFETY: the instructions as above; 16 elements, or n copied from an array of 16.
        unsafe {
            let v = pack(v);
            if n < LANES {
                let all: [bf16; LANES] = transmute(v);
                return copy_nonoverlapping(all.as_ptr(), p, n);
            }
            _mm256_storeu_si256(p.cast(), v);
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16, n: usize) -> Pairs {
        // SAFETY: the instructions as above; 32 elements, or n copied to an array of 32.
        unsafe {
            let all: [bf16; 2 * LANES];
            let p = if n == 2 * LANES {
                p
            } else {
                all = read(p, n);
                all.as_ptr()
            };
            [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(LANES).cast())]
        }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut bf16, n: usize, pairs: Pairs) {
        // SAFETY: the instructions as above; 32 elements, or n copied from an array of 32.
        unsafe {
            if n < 2 * LANES {
                let all: [bf16; 2 * LANES] = transmute(pairs);
                return copy_nonoverlapping(all.as_ptr(), p, n);
            }
            _mm256_storeu_si256(p.cast(), pairs[0]);
            _mm256_storeu_si256(p.add(LANES).cast(), pairs[1]);
        }
    }

    #[inline(always)]
    unsafe fn splat_pair(self, p: *const bf16) -> Pairs {
        // SAFETY: the instructions as above; the caller vouches for two elements.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }
}
