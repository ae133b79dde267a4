//! 32 bytes in a register of AVX2, which AVX-512 has too.

use std::arch::x86_64::*;

/// The lower halves of 16 bytes, then the upper ones.
///
/// # Safety
/// The processor has AVX2, and 16 bytes can be read at `p`.
#[inline(always)]
pub(super) unsafe fn load_nibbles(p: *const u8) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let bytes = _mm_loadu_si128(p.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// All bits of byte i are set where bit i is.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn spread_bits(bits: u32) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        // Each byte of the word eight times, and of each copy another bit.
        let copies =
            _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), copies);
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own)
    }
}

/// Of each byte `(byte >> from & mask) << to`.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn bits(bytes: __m256i, from: u32, mask: u8, to: u32) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let down = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(from as i32));
        let kept = _mm256_and_si256(down, _mm256_set1_epi8(mask as i8));
        _mm256_sll_epi16(kept, _mm_cvtsi32_si128(to as i32))
    }
}

/// Of each byte, which is below 16, the entry of the table.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn look_up(bytes: __m256i, table: &[i8; 16]) -> __m256i {
    // SAFETY: as promised by the caller; the table has 16 bytes.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, bytes)
    }
}

/// The lower and the upper half of each of 16 bytes.
///
/// # Safety
/// The processor has AVX2, and 16 bytes can be read at `p`.
#[inline(always)]
pub(super) unsafe fn load_nibble_pairs(p: *const u8) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let bytes = _mm_loadu_si128(p.cast());
        let upper = _mm_srli_epi16::<4>(bytes);
        let both = _mm256_set_m128i(_mm_unpackhi_epi8(bytes, upper), _mm_unpacklo_epi8(bytes, upper));
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// The first 16 bytes, and the last.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn halves(bytes: __m256i) -> [__m128i; 2] {
    // SAFETY: as promised by the caller.
    unsafe { [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)] }
}

/// 16 bytes as numbers from 0 to 255.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn unsigned(bytes: __m128i) -> [__m256; 2] {
    // SAFETY: as promised by the caller.
    unsafe {
        let upper = _mm_srli_si128::<8>(bytes);
        [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(upper))]
    }
}

/// 16 bytes as numbers from -128 to 127.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn signed(bytes: __m128i) -> [__m256; 2] {
    // SAFETY: as promised by the caller.
    unsafe {
        let upper = _mm_srli_si128::<8>(bytes);
        [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper))]
    }
}
