//! Rows of floats of any type, read and written as vectors.

use half::{bf16, f16};

use super::simd::{LANES, Simd};
use crate::{DType, Element, Result, View};

/// A float type that vectors are loaded from.
pub(crate) trait Float: Element {
    /// The first `LANES` elements of `x`, or all of them and zeros.
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V;
    /// Writes the first `out.len()` lanes, at most `LANES`.
    fn store<S: Simd>(s: S, out: &mut [Self], v: S::V);
}

impl Float for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
        // SAFETY: no more elements than the slice has.
        unsafe { s.load_f32(x.as_ptr(), x.len().min(LANES)) }
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, out: &mut [f32], v: S::V) {
        // SAFETY: no more elements than the slice has.
        unsafe { s.store_f32(out.as_mut_ptr(), out.len().min(LANES), v) }
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[bf16]) -> S::V {
        // SAFETY: no more elements than the slice has.
        unsafe { s.load_bf16(x.as_ptr(), x.len().min(LANES)) }
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, out: &mut [bf16], v: S::V) {
        // SAFETY: no more elements than the slice has.
        unsafe { s.store_bf16(out.as_mut_ptr(), out.len().min(LANES), v) }
    }
}

/// Writes floats as `T`; of the same length.
#[inline(always)]
pub(crate) fn convert<S: Simd, T: Float>(s: S, out: &mut [T], x: &[f32]) {
    for (out, x) in out.chunks_mut(LANES).zip(x.chunks(LANES)) {
        T::store(s, out, f32::load(s, x));
    }
}

/// A row of floats whose type is known at run time: norm weights, biases, embeddings.
#[derive(Clone, Copy)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl<'a> Floats<'a> {
    /// The elements of a float tensor.
    ///
    /// # Errors
    /// When they are integers.
    pub(crate) fn new(view: View<'a>) -> Result<Floats<'a>> {
        match view.dtype() {
            DType::F32 | DType::U32 | DType::U8 => Ok(Floats::F32(view.as_slice()?)),
            DType::F16 => Ok(Floats::F16(view.as_slice()?)),
            DType::BF16 => Ok(Floats::BF16(view.as_slice()?)),
        }
    }

    /// Elements `start..`.
    pub(crate) fn from(self, start: usize) -> Floats<'a> {
        match self {
            Floats::F32(x) => Floats::F32(&x[start..]),
            Floats::F16(x) => Floats::F16(&x[start..]),
            Floats::BF16(x) => Floats::BF16(&x[start..]),
        }
    }

    /// Elements `start..start + LANES`, or those up to `end` and zeros.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(self, s: S, start: usize, end: usize) -> S::V {
        match self {
            Floats::F32(x) => f32::load(s, &x[start..end]),
            Floats::BF16(x) => bf16::load(s, &x[start..end]),
            Floats::F16(x) => {
                let x = &x[start..end];
                // SAFETY: no more elements than the slice has.
                unsafe { s.load_f16(x.as_ptr(), x.len().min(LANES)) }
            }
        }
    }

    /// One element.
    #[inline(always)]
    pub(crate) fn get(self, i: usize) -> f32 {
        match self {
            Floats::F32(x) => x[i],
            Floats::F16(x) => x[i].to_f32(),
            Floats::BF16(x) => x[i].to_f32(),
        }
    }
}
