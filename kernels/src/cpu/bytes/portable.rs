//! Plain loops.

use super::ByteSimd;
use crate::cpu::{portable::Portable, simd::LANES};

type Bytes = [u8; 2 * LANES];
type Quads = [[u8; 4]; LANES];
type Ints = [i32; LANES];

impl ByteSimd for Portable {
    type Bytes = Bytes;
    type Quads = Quads;
    type Ints = Ints;

    const BIAS: u8 = 0;

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> Bytes {
        let mut bytes = [0; 2 * LANES];
        for (i, byte) in bytes.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller vouches for n bytes.
            *byte = unsafe { *p.add(i) };
        }
        bytes
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, p: *const u8) -> Bytes {
        // SAFETY: the caller vouches for 16 bytes.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read() };
        std::array::from_fn(|i| if i < LANES { bytes[i] & 15 } else { bytes[i - LANES] >> 4 })
    }

    #[inline(always)]
    unsafe fn load_nibble_pairs(self, p: *const u8) -> Bytes {
        // SAFETY: the caller vouches for 16 bytes.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read() };
        std::array::from_fn(|i| bytes[i / 2] >> (4 * (i % 2)) & 15)
    }

    #[inline(always)]
    fn raise(self, bytes: Bytes, bits: u32, by: u8) -> Bytes {
        std::array::from_fn(|i| bytes[i].wrapping_add(by * (bits >> i & 1) as u8))
    }

    #[inline(always)]
    fn add_bytes(self, bytes: Bytes, term: u8) -> Bytes {
        bytes.map(|byte| byte.wrapping_add(term))
    }

    #[inline(always)]
    fn look_up(self, bytes: Bytes, table: &[i8; 16]) -> Bytes {
        bytes.map(|byte| table[usize::from(byte & 15)] as u8)
    }

    #[inline(always)]
    fn quads(self, [first, last]: [Bytes; 2]) -> Quads {
        let byte = |i: usize| if i < 2 * LANES { first[i] } else { last[i - 2 * LANES] };
        std::array::from_fn(|i| std::array::from_fn(|j| byte(4 * i + j)))
    }

    #[inline(always)]
    fn halves(self, quads: Quads) -> [Bytes; 2] {
        [0, LANES / 2].map(|first| std::array::from_fn(|i| quads[first + i / 4][i % 4]))
    }

    #[inline(always)]
    unsafe fn load_quads(self, p: *const u8) -> Quads {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<Quads>().read() }
    }

    #[inline(always)]
    unsafe fn store_quads(self, p: *mut u8, quads: Quads) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<Quads>().write(quads) }
    }

    #[inline(always)]
    unsafe fn splat_quad(self, p: *const i8) -> Quads {
        // SAFETY: the caller vouches for four bytes.
        [unsafe { p.cast::<[u8; 4]>().read() }; LANES]
    }

    #[inline(always)]
    fn bits(self, quads: Quads, from: [u32; 2], mask: u8, to: u32) -> Quads {
        std::array::from_fn(|i| quads[i].map(|byte| (byte >> from[i / (LANES / 2)] & mask) << to))
    }

    #[inline(always)]
    fn or(self, a: Quads, b: Quads) -> Quads {
        std::array::from_fn(|i| std::array::from_fn(|j| a[i][j] | b[i][j]))
    }

    #[inline(always)]
    fn add_to_quads(self, quads: Quads, term: u8) -> Quads {
        quads.map(|quad| quad.map(|byte| byte.wrapping_add(term)))
    }

    #[inline(always)]
    fn look_up_quads(self, quads: Quads, table: &[i8; 16]) -> Quads {
        quads.map(|quad| quad.map(|byte| table[usize::from(byte & 15)] as u8))
    }

    #[inline(always)]
    fn transpose_quads(self, rows: [Quads; LANES]) -> [Quads; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }

    #[inline(always)]
    fn dot_quads(self, mut sum: Ints, weights: Quads, inputs: Quads) -> Ints {
        for i in 0..LANES {
            for j in 0..4 {
                sum[i] += i32::from(weights[i][j] as i8) * i32::from(inputs[i][j] as i8);
            }
        }
        sum
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_ints(self, p: *const i32) -> Ints {
        // SAFETY: the caller vouches for 16 integers.
        unsafe { p.cast::<Ints>().read() }
    }

    #[inline(always)]
    fn add_ints(self, a: Ints, b: Ints) -> Ints {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sums_of_eight(self, ints: [Ints; 8]) -> Ints {
        std::array::from_fn(|i| ints[i / 2][i % 2 * 8..][..8].iter().sum())
    }

    #[inline(always)]
    fn sums_of_four(self, ints: [Ints; 4]) -> Ints {
        std::array::from_fn(|i| ints[i / 4][i % 4 * 4..][..4].iter().sum())
    }
}
