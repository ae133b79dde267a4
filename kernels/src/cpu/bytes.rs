//! Vectors of bytes and of the integers that their products make: the half of [`Simd`](super::Simd) that packed weights need.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Elements of a vector, on every instruction set. So the order of a sum depends on its length alone.
pub(crate) const LANES: usize = 16;

/// Bytes and integers of an instruction set.
pub(crate) trait ByteSimd: Copy + Send + Sync {
    /// 32 bytes.
    type Bytes: Copy;
    /// 64 bytes: 16 quads.
    type Quads: Copy;
    /// 16 integers of 32 bits.
    type Ints: Copy;

    /// What signed bytes of weights are raised by for [`ByteSimd::dot_quads`].
    const BIAS: u8;

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
    /// `byte + by` wherever `bits` has a bit.
    fn raise(self, bytes: Self::Bytes, bits: u32, by: u8) -> Self::Bytes;
    /// `byte + term`, wrapping.
    fn add_bytes(self, bytes: Self::Bytes, term: u8) -> Self::Bytes;
    /// Of each byte, which is below 16, the entry of the table.
    fn look_up(self, bytes: Self::Bytes, table: &[i8; 16]) -> Self::Bytes;

    /// Both together.
    fn quads(self, halves: [Self::Bytes; 2]) -> Self::Quads;
    /// The opposite of [`ByteSimd::quads`].
    fn halves(self, quads: Self::Quads) -> [Self::Bytes; 2];
    /// # Safety
    /// 64 bytes can be read at `p`.
    unsafe fn load_quads(self, p: *const u8) -> Self::Quads;
    /// # Safety
    /// 64 bytes can be written at `p`.
    unsafe fn store_quads(self, p: *mut u8, quads: Self::Quads);
    /// The four bytes at `p`, 16 times.
    ///
    /// # Safety
    /// Four bytes can be read at `p`.
    unsafe fn splat_quad(self, p: *const i8) -> Self::Quads;
    /// 32 bytes, twice.
    ///
    /// # Safety
    /// 32 bytes can be read at `p`.
    #[inline(always)]
    unsafe fn load_twice(self, p: *const u8) -> Self::Quads {
        // SAFETY: as promised by the caller.
        self.quads([unsafe { self.load_bytes(p, 2 * LANES) }; 2])
    }
    /// The lower halves of 16 bytes, then the upper ones; then of 16 others.
    ///
    /// # Safety
    /// 16 bytes can be read at each.
    #[inline(always)]
    unsafe fn load_nibbles_twice(self, p: [*const u8; 2]) -> Self::Quads {
        // SAFETY: as promised by the caller.
        self.quads(unsafe { [self.load_nibbles(p[0]), self.load_nibbles(p[1])] })
    }
    /// The lower and the upper half of each of 32 bytes.
    ///
    /// # Safety
    /// 32 bytes can be read at `p`.
    #[inline(always)]
    unsafe fn load_nibble_pairs_twice(self, p: *const u8) -> Self::Quads {
        // SAFETY: as promised by the caller.
        self.quads(unsafe { [self.load_nibble_pairs(p), self.load_nibble_pairs(p.add(LANES))] })
    }
    /// Of each byte of a half `(byte >> from & mask) << to`, which fits a byte; `mask` no wider than what is left of it.
    fn bits(self, quads: Self::Quads, from: [u32; 2], mask: u8, to: u32) -> Self::Quads;
    /// Both.
    fn or(self, a: Self::Quads, b: Self::Quads) -> Self::Quads;
    /// `byte + term`, wrapping.
    fn add_to_quads(self, quads: Self::Quads, term: u8) -> Self::Quads;
    /// Of each byte, which is below 16, the entry of the table.
    fn look_up_quads(self, quads: Self::Quads, table: &[i8; 16]) -> Self::Quads;
    /// Quad j of vector i becomes quad i of vector j.
    fn transpose_quads(self, rows: [Self::Quads; LANES]) -> [Self::Quads; LANES];

    /// Adds to each lane of `sum` the products of its quad: weights from 0 to 127, or signed ones raised by
    /// [`ByteSimd::BIAS`], and signed inputs from -127.
    fn dot_quads(self, sum: Self::Ints, weights: Self::Quads, inputs: Self::Quads) -> Self::Ints;
    fn splat_int(self, x: i32) -> Self::Ints;
    /// # Safety
    /// 16 integers can be read at `p`.
    unsafe fn load_ints(self, p: *const i32) -> Self::Ints;
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The sums of the first and of the last eight lanes of each vector, in order.
    fn sums_of_eight(self, ints: [Self::Ints; 8]) -> Self::Ints;
    /// The sums of each four lanes of each vector, in order.
    fn sums_of_four(self, ints: [Self::Ints; 4]) -> Self::Ints;
}
