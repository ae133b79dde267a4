//! Conversions at load, from what checkpoints publish to what the ops read: block-scaled weights to bf16 or f32, and
//! the two halves of latent attention's up-projection. In host memory, on all cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use half::{bf16, f16};

use crate::{
    DType, Element, Isa, KernelError, Result, Tensor, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Simd},
};

#[cfg(test)]
mod tests;

/// Elements that share a scale in MXFP4.
pub const MXFP4_BLOCK: usize = 32;

/// MXFP4 (Open Compute Project, Microscaling Formats 1.0): blocks of 32 E2M1 values that share a power of two. Exact in
/// bf16 and f32, but for what is beyond their largest, which becomes infinite, and below 2^-126, which may become 0 in
/// bf16; a scale of 255 is NaN.
///
/// - `out`: f32 or bf16, its last dimension a multiple of 32
/// - `values`: half a byte per element, the lower half first
/// - `scales`: E8M0, one per 32 elements: `2^(scale - 127)`
///
/// # Errors
/// When lengths or types do not fit.
pub fn mxfp4(out: ViewMut<'_>, values: &[u8], scales: &[u8]) -> Result<()> {
    let (shape, n) = (out.shape(), out.shape().elements());
    let whole = shape.dims().last().is_some_and(|last| last.is_multiple_of(MXFP4_BLOCK));
    if !whole || values.len() != n / 2 || scales.len() != n / MXFP4_BLOCK {
        let (values, scales) = (values.len(), scales.len());
        let reason = format!("{values} bytes of values and {scales} scales do not make up {shape}");
        return Err(KernelError::Argument { op: "convert::mxfp4", reason });
    }
    match out.dtype() {
        DType::F32 => cpu_mxfp4(out.into_mut_slice::<f32>()?, values, scales),
        DType::BF16 => cpu_mxfp4(out.into_mut_slice::<bf16>()?, values, scales),
        found => return Err(wrong_type("convert::mxfp4", found)),
    }
    Ok(())
}

/// FP8 with a scale per block of a matrix, as DeepSeek-V3 is published: E4M3 (without infinities; the codes 0x7f and
/// 0xff are NaN). Each product is rounded to f32, for bf16 then to the nearest bf16, ties to even.
///
/// - `out`: f32 or bf16 `[N, K]`
/// - `values`: one byte per element
/// - `scales`: any float `[⌈N / rows⌉, ⌈K / columns⌉]`
/// - `block`: rows and columns that share a scale: 128 and 128 in DeepSeek-V3
///
/// # Errors
/// When shapes, lengths or types do not fit, or a block is empty.
pub fn fp8_e4m3(out: ViewMut<'_>, values: &[u8], scales: View<'_>, block: [usize; 2]) -> Result<()> {
    let argument = |reason| KernelError::Argument { op: "convert::fp8_e4m3", reason };
    let shape = out.shape();
    let (&[rows, columns], true) = (shape.dims(), block.iter().all(|&n| n > 0)) else {
        return Err(argument(format!("blocks of {block:?} in {shape}, expected blocks of a matrix")));
    };
    let expected = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
    if scales.shape().dims() != expected || values.len() != rows * columns {
        let (found, n) = (scales.shape(), values.len());
        return Err(argument(format!(
            "{n} values with scales {found} do not make up {shape} in blocks of {block:?}"
        )));
    }
    let scales = Floats::new(scales)?;
    match out.dtype() {
        DType::F32 => cpu_fp8(out.into_mut_slice::<f32>()?, values, scales, columns, block),
        DType::BF16 => cpu_fp8(out.into_mut_slice::<bf16>()?, values, scales, columns, block),
        found => return Err(wrong_type("convert::fp8_e4m3", found)),
    }
    Ok(())
}

/// The halves of `kv_b_proj` as [`absorb_queries`](crate::ops::absorb_queries) and
/// [`expand_values`](crate::ops::expand_values) read them: `w_uk [Hq, L, N]` and `w_uv [Hq, D, L]`.
///
/// - `kv_b`: any float `[Hq·(N + D), L]`, of each head N rows of keys, then D rows of values
/// - `nope`: N
///
/// # Errors
/// When the shape does not divide so, or memory is short.
pub fn split_kv_b(kv_b: View<'_>, heads: usize, nope: usize) -> Result<[Tensor; 2]> {
    let shape = kv_b.shape();
    let value = match *shape.dims() {
        [rows, _] if heads > 0 && rows.is_multiple_of(heads) && rows / heads > nope => rows / heads - nope,
        _ => {
            let reason = format!("{shape} is not made of {heads} heads with {nope} rows of keys each");
            return Err(KernelError::Argument { op: "convert::split_kv_b", reason });
        }
    };
    match kv_b.dtype() {
        DType::F32 => split::<f32>(kv_b, [heads, nope, value]),
        DType::F16 => split::<f16>(kv_b, [heads, nope, value]),
        DType::BF16 => split::<bf16>(kv_b, [heads, nope, value]),
        found @ DType::U32 => Err(wrong_type("convert::split_kv_b", found)),
    }
}

fn wrong_type(op: &'static str, found: DType) -> KernelError {
    KernelError::DType { op, arg: "out", found, expected: DType::BF16 }
}

fn split<T: Element>(kv_b: View<'_>, [heads, nope, value]: [usize; 3]) -> Result<[Tensor; 2]> {
    let (from, latent) = (kv_b.as_slice::<T>()?, kv_b.shape().row_elements());
    let mut w_uk = Tensor::zeros([heads, latent, nope], T::DTYPE)?;
    let mut w_uv = Tensor::zeros([heads, value, latent], T::DTYPE)?;
    let (keys, values) = (w_uk.as_mut_slice::<T>()?, w_uv.as_mut_slice::<T>()?);
    for (head, rows) in from.chunks_exact((nope + value) * latent).enumerate() {
        let (of_keys, of_values) = rows.split_at(nope * latent);
        values[head * value * latent..][..value * latent].copy_from_slice(of_values);
        let to = &mut keys[head * latent * nope..][..latent * nope];
        for (n, row) in of_keys.chunks_exact(latent).enumerate() {
            for (l, &x) in row.iter().enumerate() {
                to[l * nope + n] = x;
            }
        }
    }
    Ok([w_uk, w_uv])
}

/// Elements that are worth a thread.
const THREAD_ELEMENTS: usize = 1 << 20;

/// Calls `convert` with the index of the first element and the elements, for stretches of whole `unit`s of `out`.
fn share_out<T: Send>(out: &mut [T], unit: usize, convert: impl Fn(usize, &mut [T]) + Sync) {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(out.len() / THREAD_ELEMENTS).max(1);
    let stretch = out.len().div_ceil(threads).next_multiple_of(unit.max(1)).max(1);
    let stretches = Mutex::new(out.chunks_mut(stretch).enumerate());
    let work = || {
        loop {
            let next = stretches.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((i, out)) = next else { return };
            convert(i * stretch, out);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be had leaves its work to the others.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

fn cpu_mxfp4<T: Float>(out: &mut [T], values: &[u8], scales: &[u8]) {
    let isa = Isa::detect();
    share_out(out, MXFP4_BLOCK, |first, out| {
        isa.run(Mxfp4 { out, values: &values[first / 2..], scales: &scales[first / MXFP4_BLOCK..] });
    });
}

struct Mxfp4<'a, T> {
    out: &'a mut [T],
    values: &'a [u8],
    scales: &'a [u8],
}

impl<T: Float> Kernel for Mxfp4<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.values.chunks_exact(LANES / 2).zip(self.out.chunks_mut(LANES));
        for (i, (values, out)) in blocks.enumerate() {
            let scale = s.splat(e8m0(self.scales[i * LANES / MXFP4_BLOCK]));
            let mut codes = [0.0; LANES];
            for (pair, &byte) in codes.chunks_exact_mut(2).zip(values) {
                (pair[0], pair[1]) = (e2m1(byte & 15), e2m1(byte >> 4));
            }
            T::store(s, out, s.mul(f32::load(s, &codes), scale));
        }
    }
}

/// 2^(code - 127); 255 is NaN.
#[inline(always)]
fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// A sign, two bits of exponent, one of mantissa. They stand where a float's do, 126 exponents too low.
#[inline(always)]
fn e2m1(code: u8) -> f32 {
    let (sign, rest) = (u32::from(code & 8) << 28, u32::from(code & 7) << 22);
    f32::from_bits(sign | rest) * f32::from_bits((126 + 127) << 23)
}

/// A sign, four bits of exponent, three of mantissa. They stand where a float's do, 120 exponents too low.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let (sign, rest) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f) << 20);
    let value = f32::from_bits(sign | rest) * f32::from_bits((120 + 127) << 23);
    if code & 0x7f == 0x7f { f32::NAN } else { value }
}

fn cpu_fp8<T: Float>(out: &mut [T], values: &[u8], scales: Floats<'_>, columns: usize, block: [usize; 2]) {
    let isa = Isa::detect();
    share_out(out, columns, |first, out| {
        let (values, first_row) = (&values[first..first + out.len()], first / columns);
        isa.run(Fp8 { out, values, scales, columns, block, first_row });
    });
}

struct Fp8<'a, T> {
    out: &'a mut [T],
    values: &'a [u8],
    scales: Floats<'a>,
    columns: usize,
    block: [usize; 2],
    first_row: usize,
}

impl<T: Float> Kernel for Fp8<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let per_row = self.columns.div_ceil(self.block[1]);
        let rows = self.out.chunks_exact_mut(self.columns).zip(self.values.chunks_exact(self.columns));
        for (row, (out, values)) in (self.first_row..).zip(rows) {
            let start = row / self.block[0] * per_row;
            let blocks = out.chunks_mut(self.block[1]).zip(values.chunks(self.block[1]));
            for (i, (out, values)) in blocks.enumerate() {
                scaled(s, out, values, self.scales.get(start + i));
            }
        }
    }
}

/// `out = scale · values`
#[inline(always)]
fn scaled<S: Simd, T: Float>(s: S, out: &mut [T], values: &[u8], scale: f32) {
    for (out, values) in out.chunks_mut(LANES).zip(values.chunks(LANES)) {
        let mut codes = [0.0; LANES];
        for (wide, &code) in codes.iter_mut().zip(values) {
            *wide = e4m3(code);
        }
        T::store(s, out, s.mul(f32::load(s, &codes), s.splat(scale)));
    }
}
