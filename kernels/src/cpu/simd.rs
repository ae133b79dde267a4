//! Vectors of 16 floats: the one abstraction over instruction sets.

use half::{bf16, f16};

use super::bytes::ByteSimd;
pub(crate) use super::bytes::LANES;

/// An instruction set. A value of such a type exists only where the processor has the instructions, which
/// is why its methods are safe; loads and stores take pointers and are not.
///
/// Vectors have [`LANES`] floats, whatever the registers. `load_*` reads `n <= LANES` elements and fills up
/// with zeros; `store_*` writes the first `n`.
pub(crate) trait Simd: ByteSimd {
    /// 16 floats.
    type V: Copy;
    /// 16 pairs of bf16.
    type Pairs: Copy;

    /// Registers that hold a vector: limits the tiles of matrix products.
    const REGISTERS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the instruction set fuses.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Per lane `if a > b { a } else { b }`: b when one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Per lane `if a < b { a } else { b }`: b when one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for integral n in -127..=128; 0 at -127, infinity at 128.
    fn pow2(self, n: Self::V) -> Self::V;
    /// `a` in lanes `range`, `fill` elsewhere.
    fn keep(self, a: Self::V, range: std::ops::Range<usize>, fill: f32) -> Self::V;
    /// The sum of each of four vectors' lanes, always by the same tree.
    fn sums(self, v: [Self::V; 4]) -> [f32; 4];
    /// Lane 0.
    fn first(self, v: Self::V) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;

    /// The sum of the lanes, by the same tree as [`Simd::sums`].
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.sums([v; 4])[0]
    }

    /// Asks for a cache line; a hint that does nothing for a wrong address.
    fn prefetch(self, p: *const u8);

    /// # Safety
    /// `n <= 16` elements can be read at `p`.
    unsafe fn load_f32(self, p: *const f32, n: usize) -> Self::V;
    /// # Safety
    /// `n <= 16` elements can be read at `p`.
    unsafe fn load_bf16(self, p: *const bf16, n: usize) -> Self::V;
    /// # Safety
    /// `n <= 16` elements can be read at `p`.
    unsafe fn load_f16(self, p: *const f16, n: usize) -> Self::V;
    /// # Safety
    /// `n <= 16` elements can be written at `p`.
    unsafe fn store_f32(self, p: *mut f32, n: usize, v: Self::V);
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// `n <= 16` elements can be written at `p`.
    unsafe fn store_bf16(self, p: *mut bf16, n: usize, v: Self::V);

    /// 32 elements, of which `n` are read.
    ///
    /// # Safety
    /// `n <= 32` elements can be read at `p`.
    unsafe fn load_pairs(self, p: *const bf16, n: usize) -> Self::Pairs;
    /// Writes the first `n` of 32 elements.
    ///
    /// # Safety
    /// `n <= 32` elements can be written at `p`.
    unsafe fn store_pairs(self, p: *mut bf16, n: usize, pairs: Self::Pairs);
    /// The bytes as numbers from 0 to 255: the first 16, and the last.
    fn unsigned(self, bytes: Self::Bytes) -> [Self::V; 2];
    /// The bytes as numbers from -128 to 127: the first 16, and the last.
    fn signed(self, bytes: Self::Bytes) -> [Self::V; 2];
    /// The bytes as E4M3 values: the first 16, and the last.
    fn e4m3(self, bytes: Self::Bytes) -> [Self::V; 2];
    /// 32 elements, the first 16 and the last; rounds to nearest, ties to even.
    fn pack(self, halves: [Self::V; 2]) -> Self::Pairs;
    /// The two elements at `p`, 16 times.
    ///
    /// # Safety
    /// Two elements can be read at `p`.
    unsafe fn splat_pair(self, p: *const bf16) -> Self::Pairs;
    /// The first and the second of each pair.
    fn split(self, pairs: Self::Pairs) -> [Self::V; 2];
    /// The opposite of [`Simd::split`]; rounds to nearest, ties to even.
    fn join(self, halves: [Self::V; 2]) -> Self::Pairs;
    /// Adds to each lane of `sum` the products of its pair.
    fn dot_pairs(self, sum: Self::V, a: Self::Pairs, b: Self::Pairs) -> Self::V;
    fn to_floats(self, ints: Self::Ints) -> Self::V;
    /// Lane j of vector i becomes lane i of vector j.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];
    /// To the nearest integers, ties to even, which are bytes.
    ///
    /// # Safety
    /// 16 bytes can be written at `p`.
    unsafe fn store_bytes(self, p: *mut i8, v: Self::V);
}

/// Safe methods over intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! methods {
    ($(fn $name:ident(self $(, $arg:ident: $type:ty)*) -> $out:ty $body:block)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: $type)*) -> $out {
            // SAFETY: a value of this type exists only where the processor has the instructions.
            unsafe { $body }
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
pub(super) use methods;
