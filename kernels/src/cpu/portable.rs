//! The instruction set of last resort: plain loops over arrays, which the compiler vectorises as it can.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Array = [f32; LANES];

#[inline(always)]
fn zip(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// Reads `n` elements, each through `f`.
///
/// # Safety
/// `n <= 16` elements can be read at `p`.
#[inline(always)]
unsafe fn read<T: Copy>(p: *const T, n: usize, f: impl Fn(T) -> f32) -> Array {
    let mut out = [0.0; LANES];
    for (i, out) in out.iter_mut().enumerate().take(n) {
        // SAFETY: i < n, and the caller vouches for n elements.
        *out = f(unsafe { *p.add(i) });
    }
    out
}

/// Writes `n` elements, each through `f`.
///
/// # Safety
/// `n <= 16` elements can be written at `p`.
#[inline(always)]
unsafe fn write<T>(p: *mut T, n: usize, v: Array, f: impl Fn(f32) -> T) {
    for (i, &v) in v.iter().enumerate().take(n) {
        // SAFETY: i < n, and the caller vouches for n elements.
        unsafe { p.add(i).write(f(v)) };
    }
}

fn first(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

fn second(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

/// The first 16 and the last, each through `f`.
#[inline(always)]
fn halves(bytes: [u8; 2 * LANES], f: impl Fn(u8) -> f32) -> [Array; 2] {
    [0, LANES].map(|first| std::array::from_fn(|i| f(bytes[first + i])))
}

/// A sign, four bits of exponent, three of mantissa. They stand where a float's do, 120 exponents too low.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let (sign, rest) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f) << 20);
    let value = f32::from_bits(sign | rest) * f32::from_bits((120 + 127) << 23);
    if code & 0x7f == 0x7f { f32::NAN } else { value }
}

impl Simd for Portable {
    type V = Array;
    type Pairs = [u32; LANES];

    const REGISTERS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Array {
        [x; LANES]
    }

    #[inline(always)]
    fn add(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Array, b: Array, c: Array) -> Array {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Array, b: Array) -> Array {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, a: Array) -> Array {
        // Adding 1.5 * 2^23 leaves no bits for a fraction. Good for |a| < 2^22.
        const SHIFT: f32 = 12_582_912.0;
        zip(a, a, |a, _| (a + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn pow2(self, n: Array) -> Array {
        zip(n, n, |n, _| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn keep(self, mut a: Array, range: std::ops::Range<usize>, fill: f32) -> Array {
        for (i, a) in a.iter_mut().enumerate() {
            *a = if range.contains(&i) { *a } else { fill };
        }
        a
    }

    #[inline(always)]
    fn sums(self, v: [Array; 4]) -> [f32; 4] {
        v.map(|mut v| {
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    v[i] += v[i + half];
                }
            }
            v[0]
        })
    }

    #[inline(always)]
    fn first(self, v: Array) -> f32 {
        v[0]
    }

    #[inline(always)]
    fn max_lane(self, v: Array) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    unsafe fn load_f32(self, p: *const f32, n: usize) -> Array {
        // SAFETY: as promised by the caller.
        unsafe { read(p, n, |x| x) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16, n: usize) -> Array {
        // SAFETY: as promised by the caller.
        unsafe { read(p, n, bf16::to_f32) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16, n: usize) -> Array {
        // SAFETY: as promised by the caller.
        unsafe { read(p, n, f16::to_f32) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, p: *mut f32, n: usize, v: Array) {
        // SAFETY: as promised by the caller.
        unsafe { write(p, n, v, |x| x) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, n: usize, v: Array) {
        // SAFETY: as promised by the caller.
        unsafe { write(p, n, v, bf16::from_f32) }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16, n: usize) -> [u32; LANES] {
        let mut elements = [bf16::ZERO; 2 * LANES];
        for (i, element) in elements.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller vouches for n elements.
            *element = unsafe { *p.add(i) };
        }
        std::array::from_fn(|i| pair(elements[2 * i], elements[2 * i + 1]))
    }

    #[inline(always)]
    unsafe fn store_pairs(self, p: *mut bf16, n: usize, pairs: [u32; LANES]) {
        for i in 0..n {
            let bits = (pairs[i / 2] >> (16 * (i % 2))) as u16;
            // SAFETY: i < n, and the caller vouches for n elements.
            unsafe { p.add(i).write(bf16::from_bits(bits)) };
        }
    }

    #[inline(always)]
    fn split(self, pairs: [u32; LANES]) -> [Array; 2] {
        [pairs.map(first), pairs.map(second)]
    }

    #[inline(always)]
    fn join(self, [first, second]: [Array; 2]) -> [u32; LANES] {
        std::array::from_fn(|i| pair(bf16::from_f32(first[i]), bf16::from_f32(second[i])))
    }

    #[inline(always)]
    fn unsigned(self, bytes: [u8; 2 * LANES]) -> [Array; 2] {
        halves(bytes, f32::from)
    }

    #[inline(always)]
    fn signed(self, bytes: [u8; 2 * LANES]) -> [Array; 2] {
        halves(bytes, |byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn e4m3(self, bytes: [u8; 2 * LANES]) -> [Array; 2] {
        halves(bytes, e4m3)
    }

    #[inline(always)]
    fn pack(self, [first, last]: [Array; 2]) -> [u32; LANES] {
        let at = |i: usize| bf16::from_f32(if i < LANES { first[i] } else { last[i - LANES] });
        std::array::from_fn(|i| pair(at(2 * i), at(2 * i + 1)))
    }

    #[inline(always)]
    unsafe fn splat_pair(self, p: *const bf16) -> [u32; LANES] {
        // SAFETY: the caller vouches for two elements.
        [unsafe { pair(*p, *p.add(1)) }; LANES]
    }

    #[inline(always)]
    fn dot_pairs(self, mut sum: Array, a: [u32; LANES], b: [u32; LANES]) -> Array {
        for i in 0..LANES {
            sum[i] += first(a[i]) * first(b[i]);
            sum[i] += second(a[i]) * second(b[i]);
        }
        sum
    }

    #[inline(always)]
    fn to_floats(self, ints: [i32; LANES]) -> Array {
        ints.map(|x| x as f32)
    }

    #[inline(always)]
    fn transpose(self, rows: [Array; LANES]) -> [Array; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut i8, v: Array) {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { write(p, LANES, self.round(v), |x| x as i8) }
    }
}
