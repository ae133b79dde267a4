//! `norm` and `add_norm`.

mod cuda;

use half::bf16;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd},
};

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)` (Zhang and Sennrich 2019, arXiv 1910.07467).
    Rms,
    /// `(x - mean(x)) / sqrt(variance(x) + eps)` (Ba et al. 2016, arXiv 1607.06450).
    Layer,
}

/// A norm over rows of H elements, times `weight`, plus `bias`.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// What it divides by.
    pub kind: NormKind,
    /// Any float `[H]`. Where a checkpoint stores `w` and means `1 + w`, this is `1 + w`.
    pub weight: View<'a>,
    /// Any float `[H]`.
    pub bias: Option<View<'a>>,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// `out = norm(x)`, row by row.
///
/// - `out`: f32 or bf16 `[T, H]`
/// - `x`: f32 `[T, H]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn norm(device: &Device, out: ViewMut<'_>, x: View<'_>, norm: Norm<'_>) -> Result<()> {
    let check = Check("norm");
    let [rows, hidden] = check.dims("x", &x)?;
    check.dtype("x", &x, DType::F32)?;
    check.shape("out", &out, [rows, hidden])?;
    check.activations("out", &out)?;
    norm.check(check, "norm", hidden)?;
    match (device, out.dtype()) {
        (Device::Cuda(gpu), _) => cuda::norm(gpu, out, x, norm),
        (Device::Cpu(cpu), DType::F32) => cpu_norm::<f32>(cpu, out, x, norm),
        (Device::Cpu(cpu), _) => cpu_norm::<bf16>(cpu, out, x, norm),
    }
}

/// `residual += post(delta)`, then `out = norm(residual)`. Without `post`, delta is added as it is.
///
/// - `out`: f32 or bf16 `[T, H]`
/// - `residual`: f32 `[T, H]`
/// - `delta`: f32 `[T, H]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn add_norm(
    device: &Device,
    out: ViewMut<'_>,
    residual: ViewMut<'_>,
    delta: View<'_>,
    post: Option<Norm<'_>>,
    norm: Norm<'_>,
) -> Result<()> {
    let check = Check("add_norm");
    let [rows, hidden] = check.dims("delta", &delta)?;
    check.dtype("delta", &delta, DType::F32)?;
    check.shape("out", &out, [rows, hidden])?;
    check.activations("out", &out)?;
    check.is("residual", &residual, [rows, hidden], DType::F32)?;
    norm.check(check, "norm", hidden)?;
    if let Some(post) = post {
        post.check(check, "post", hidden)?;
    }
    match (device, out.dtype()) {
        (Device::Cuda(gpu), _) => cuda::add_norm(gpu, out, residual, delta, post, norm),
        (Device::Cpu(cpu), DType::F32) => cpu_add_norm::<f32>(cpu, out, residual, delta, post, norm),
        (Device::Cpu(cpu), _) => cpu_add_norm::<bf16>(cpu, out, residual, delta, post, norm),
    }
}

impl<'a> Norm<'a> {
    pub(super) fn check(&self, check: Check, arg: &'static str, hidden: usize) -> Result<()> {
        let views = [(arg, Some(self.weight)), ("bias", self.bias)];
        for (arg, view) in views.into_iter().filter_map(|(arg, view)| Some((arg, view?))) {
            check.shape(arg, &view, [hidden])?;
            check.float(arg, &view)?;
        }
        Ok(())
    }

    pub(super) fn row_norm(&self) -> Result<RowNorm<'a>> {
        let bias = self.bias.map(Floats::new).transpose()?;
        Ok(RowNorm { kind: self.kind, weight: Some(Floats::new(self.weight)?), bias, eps: self.eps })
    }
}

fn cpu_norm<T: Float>(cpu: &CpuDevice, out: ViewMut<'_>, x: View<'_>, norm: Norm<'_>) -> Result<()> {
    let (x, hidden, norm) = (x.as_slice::<f32>()?, x.shape().row_elements(), norm.row_norm()?);
    cpu.pool.run_rows(out.into_mut_slice::<T>()?, hidden, rows_per_task(hidden), |first, out| {
        cpu.isa.run(NormRows { norm, hidden, x: &x[first * hidden..], out });
    });
    Ok(())
}

fn cpu_add_norm<T: Float>(
    cpu: &CpuDevice,
    out: ViewMut<'_>,
    residual: ViewMut<'_>,
    delta: View<'_>,
    post: Option<Norm<'_>>,
    norm: Norm<'_>,
) -> Result<()> {
    let (delta, hidden) = (delta.as_slice::<f32>()?, delta.shape().row_elements());
    let (post, norm) = (post.map(|post| post.row_norm()).transpose()?, norm.row_norm()?);
    let residual = Parts::new(residual.into_mut_slice()?);
    cpu.pool.run_rows(out.into_mut_slice::<T>()?, hidden, rows_per_task(hidden), |first, out| {
        let start = first * hidden;
        // SAFETY: these are the rows of `out`, which is no other task's.
        let residual = unsafe { residual.get(start..start + out.len()) };
        cpu.isa.run(AddNormRows { post, norm, hidden, residual, delta: &delta[start..], out });
    });
    Ok(())
}

/// A norm of one row on the CPU, also of a head's row.
#[derive(Clone, Copy)]
pub(super) struct RowNorm<'a> {
    pub(super) kind: NormKind,
    pub(super) weight: Option<Floats<'a>>,
    pub(super) bias: Option<Floats<'a>>,
    pub(super) eps: f32,
}

/// What a row's elements are shifted and scaled by.
#[derive(Clone, Copy)]
pub(super) struct Statistics {
    mean: f32,
    scale: f32,
}

impl RowNorm<'_> {
    /// Of a row `x`.
    #[inline(always)]
    pub(super) fn statistics<S: Simd>(&self, s: S, x: &[f32]) -> Statistics {
        let n = x.len() as f32;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => {
                let mut sum = s.splat(0.0);
                for x in x.chunks(LANES) {
                    sum = s.add(sum, f32::load(s, x));
                }
                s.sum(sum) / n
            }
        };
        let mut squares = s.splat(0.0);
        for x in x.chunks(LANES) {
            let mut d = f32::load(s, x);
            if self.kind == NormKind::Layer {
                d = s.keep(s.sub(d, s.splat(mean)), 0..x.len(), 0.0);
            }
            squares = s.mul_add(d, d, squares);
        }
        Statistics { mean, scale: 1.0 / (s.sum(squares) / n + self.eps).sqrt() }
    }

    /// Elements `at..at + LANES`, which are `x`, or those up to `end`.
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, statistics: Statistics, x: S::V, at: usize, end: usize) -> S::V {
        let mut y = x;
        if self.kind == NormKind::Layer {
            y = s.sub(y, s.splat(statistics.mean));
        }
        y = s.mul(y, s.splat(statistics.scale));
        if let Some(weight) = self.weight {
            y = s.mul(y, weight.load(s, at, end));
        }
        match self.bias {
            Some(bias) => s.add(y, bias.load(s, at, end)),
            None => y,
        }
    }

    /// Elements `start..` of a longer row, whose statistics are given.
    #[inline(always)]
    pub(super) fn part<S: Simd, T: Float>(
        &self,
        s: S,
        statistics: Statistics,
        x: &[f32],
        start: usize,
        out: &mut [T],
    ) {
        let end = start + x.len();
        let chunks = x.chunks(LANES).zip(out.chunks_mut(LANES));
        for ((chunk, out), at) in chunks.zip((start..).step_by(LANES)) {
            T::store(s, out, self.apply(s, statistics, f32::load(s, chunk), at, end));
        }
    }

    /// `out = norm(x)`, of the same length.
    #[inline(always)]
    pub(super) fn row<S: Simd, T: Float>(&self, s: S, x: &[f32], out: &mut [T]) {
        self.part(s, self.statistics(s, x), x, 0, out);
    }

    /// `x = norm(x)`
    #[inline(always)]
    pub(super) fn in_place<S: Simd>(&self, s: S, x: &mut [f32]) {
        let (statistics, width) = (self.statistics(s, x), x.len());
        for (chunk, at) in x.chunks_mut(LANES).zip((0..).step_by(LANES)) {
            let normed = self.apply(s, statistics, f32::load(s, chunk), at, width);
            f32::store(s, chunk, normed);
        }
    }
}

struct NormRows<'a, T> {
    norm: RowNorm<'a>,
    hidden: usize,
    x: &'a [f32],
    out: &'a mut [T],
}

impl<T: Float> Kernel for NormRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.hidden;
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            self.norm.row(s, x, out);
        }
    }
}

struct AddNormRows<'a, T> {
    post: Option<RowNorm<'a>>,
    norm: RowNorm<'a>,
    hidden: usize,
    residual: &'a mut [f32],
    delta: &'a [f32],
    out: &'a mut [T],
}

impl<T: Float> Kernel for AddNormRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.hidden;
        let deltas = self.delta.chunks_exact(width);
        let residuals = self.residual.chunks_exact_mut(width);
        for ((residual, delta), out) in residuals.zip(deltas).zip(self.out.chunks_exact_mut(width)) {
            match self.post {
                None => add(s, residual, delta),
                Some(post) => add_normed(s, residual, delta, post),
            }
            self.norm.row(s, residual, out);
        }
    }
}

/// `residual += delta`
#[inline(always)]
fn add<S: Simd>(s: S, residual: &mut [f32], delta: &[f32]) {
    for (residual, delta) in residual.chunks_mut(LANES).zip(delta.chunks(LANES)) {
        f32::store(s, residual, s.add(f32::load(s, residual), f32::load(s, delta)));
    }
}

/// `residual += norm(delta)`
#[inline(always)]
fn add_normed<S: Simd>(s: S, residual: &mut [f32], delta: &[f32], norm: RowNorm<'_>) {
    let (statistics, width) = (norm.statistics(s, delta), delta.len());
    let chunks = residual.chunks_mut(LANES).zip(delta.chunks(LANES));
    for ((residual, delta), at) in chunks.zip((0..).step_by(LANES)) {
        let normed = norm.apply(s, statistics, f32::load(s, delta), at, width);
        f32::store(s, residual, s.add(f32::load(s, residual), normed));
    }
}

#[cfg(test)]
mod tests;
