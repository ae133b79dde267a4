//! Conversions at load, from what checkpoints publish to what the ops read: packed weights to bf16 or f32, and
//! the two halves of latent attention's up-projection. In host memory, on all cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
};

use half::{bf16, f16};

use crate::{
    DType, Element, Isa, KernelError, Matrix, Result, Tensor, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, PackedWeight, Simd, WithPacked},
};

#[cfg(test)]
mod tests;

/// Matrices one after another as floats: see [`Matrix::decoded`].
///
/// - `out`: f32 or bf16, as many elements as the matrices have, which lie in host memory
///
/// # Errors
/// When sizes or types do not fit.
pub(crate) fn decode(out: ViewMut<'_>, matrices: &[&Matrix]) -> Result<()> {
    let (found, elements) = (out.shape(), matrices.iter().map(|matrix| matrix.shape().elements()).sum());
    if found.elements() != elements {
        let reason = format!("{elements} elements do not make up {found}");
        return Err(KernelError::Argument { op: "convert::decode", reason });
    }
    match out.dtype() {
        DType::F32 => decode_as::<f32>(out.into_mut_slice()?, matrices),
        DType::BF16 => decode_as::<bf16>(out.into_mut_slice()?, matrices),
        found => Err(wrong_type("convert::decode", found)),
    }
}

/// The halves of `kv_b_proj` as [`absorb_w_uk`](crate::ops::absorb_w_uk) and
/// [`up_project_w_uv`](crate::ops::up_project_w_uv) read them: `w_uk [Hq, L, N]` and `w_uv [Hq, D, L]`.
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
        found @ (DType::U32 | DType::U8) => Err(wrong_type("convert::split_kv_b", found)),
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

fn decode_as<T: Float>(mut out: &mut [T], matrices: &[&Matrix]) -> Result<()> {
    for matrix in matrices {
        let (own, rest) = out.split_at_mut(matrix.shape().elements());
        out = rest;
        match matrix.packed()? {
            None => floats(own, Floats::new(matrix.floats()?)?),
            Some(packed) => packed.run(Decode { out: own, columns: matrix.columns() }),
        }
    }
    Ok(())
}

fn floats<T: Float>(out: &mut [T], from: Floats<'_>) {
    let isa = Isa::detect();
    share_out(out, LANES, |first, out| isa.run(Copy { out, from, first }));
}

struct Copy<'a, T> {
    out: &'a mut [T],
    from: Floats<'a>,
    first: usize,
}

impl<T: Float> Kernel for Copy<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let end = self.first + self.out.len();
        for (at, out) in (self.first..).step_by(LANES).zip(self.out.chunks_mut(LANES)) {
            T::store(s, out, self.from.load(s, at, end));
        }
    }
}

struct Decode<'a, T> {
    out: &'a mut [T],
    columns: usize,
}

impl<T: Float> WithPacked for Decode<'_, T> {
    fn run<W: PackedWeight>(self, rows: W::Rows<'_>) {
        let (isa, columns) = (Isa::detect(), self.columns);
        share_out(self.out, columns, |first, out| {
            isa.run(DecodeRows::<W, T> { out, rows, columns, first: first / columns });
        });
    }
}

struct DecodeRows<'a, 'w, W: PackedWeight, T> {
    out: &'a mut [T],
    rows: W::Rows<'w>,
    columns: usize,
    /// The row that `out` begins with.
    first: usize,
}

impl<W: PackedWeight, T: Float> Kernel for DecodeRows<'_, '_, W, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const STEP: usize = 2 * LANES;
        for (row, out) in (self.first..).zip(self.out.chunks_exact_mut(self.columns)) {
            let row = W::row(self.rows, row, self.columns);
            for (block, out) in (0..).step_by(W::BLOCK).zip(out.chunks_mut(W::BLOCK)) {
                // SAFETY: the row has this block.
                let scales = unsafe { W::scales(s, row, block) };
                for (at, out) in (block..).step_by(STEP).zip(out.chunks_mut(STEP)) {
                    // SAFETY: the row has as many elements as `out`.
                    let halves = unsafe { W::halves(s, row, &scales, at, out.len()) };
                    for (out, half) in out.chunks_mut(LANES).zip(halves) {
                        T::store(s, out, half);
                    }
                }
            }
        }
    }
}
