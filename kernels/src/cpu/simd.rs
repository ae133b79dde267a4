//! Vectors of 16 floats: the one abstraction over instruction sets.

use half::{bf16, f16};

/// Elements of a vector, on every instruction set. So the order of a sum depends on its length alone.
pub(crate) const LANES: usize = 16;

/// An instruction set. A value of such a type exists only where the processor has the instructions, which
/// is why its methods are safe; loads and stores take pointers and are not.
///
/// Vectors have [`LANES`] floats, whatever the registers. `load_*` reads `n <= LANES` elements and fills up
/// with zeros; `store_*` writes the first `n`.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 16 floats.
    type V: Copy;
    /// 16 pairs of bf16.
    type Pairs: Copy;
    /// 32 bytes.
    type Bytes: Copy;

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
    /// 32 bytes, of which `n` are read and the others are 0.
    ///
    /// # Safety
    /// `n <= 32` bytes can be read at `p`.
    unsafe fn load_bytes(self, p: *const u8, n: usize) -> Self::Bytes;
    /// The lower halves of 16 bytes, then the upper ones.
    ///
    /// # Safety
    /// 16 bytes can be read at `p`.
    unsafe fn load_nibbles(self, p: *const u8) -> Self::Bytes;
    /// The lower and the upper half of each of 16 bytes.
    ///
    /// # Safety
    /// 16 bytes can be read at `p`.
    unsafe fn load_nibble_pairs(self, p: *const u8) -> Self::Bytes;
    /// Byte i is 1 where bit i is.
    fn spread_bits(self, bits: u32) -> Self::Bytes;
    /// Of each byte `(byte >> from & mask) << to`, which fits a byte; `mask` no wider than what is left of it.
    fn bits(self, bytes: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes;
    /// Both.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Of each byte, which is below 16, the entry of the table.
    fn look_up(self, bytes: Self::Bytes, table: &[i8; 16]) -> Self::Bytes;
    /// The bytes as numbers from 0 to 255: the first 16, and the last.
    fn unsigned(self, bytes: Self::Bytes) -> [Self::V; 2];
    /// The bytes as numbers from -128 to 127: the first 16, and the last.
    fn signed(self, bytes: Self::Bytes) -> [Self::V; 2];
    /// Whether [`Simd::look_up_pairs`] is faster than arithmetic.
    const LOOKS_UP: bool;
    /// Of each byte, which is below 32, the entry of a table of 32, rounded to nearest, ties to even.
    fn look_up_pairs(self, bytes: Self::Bytes, table: [Self::V; 2]) -> Self::Pairs;
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
}
