//! `rms_norm` and `add_rms_norm`.

use half::bf16;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, KernelError, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd, norm_row},
};

/// `out = x / sqrt(mean(x²) + eps) · weight`, row by row (Zhang and Sennrich 2019, arXiv 1910.07467).
///
/// - `out`: f32 or bf16 `[T, H]`
/// - `x`: f32 `[T, H]`
/// - `weight`: any float `[H]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn rms_norm(device: &Device, out: ViewMut<'_>, x: View<'_>, weight: View<'_>, eps: f32) -> Result<()> {
    let check = Check("rms_norm");
    let [rows, hidden] = check.dims("x", &x)?;
    check.shape("out", &out, [rows, hidden])?;
    check.shape("weight", &weight, [hidden])?;
    let x = x.as_slice::<f32>()?;
    let weight = Norm { weight: check.floats("weight", weight)?, hidden, eps };
    let cpu = device.as_cpu("rms_norm")?;
    let per_task = rows_per_task(hidden);
    match out.dtype() {
        DType::F32 => cpu.pool.run_rows(out.into_mut_slice::<f32>()?, hidden, per_task, |first, out| {
            cpu.isa.run(NormRows { norm: weight, x: &x[first * hidden..], out });
        }),
        DType::BF16 => cpu.pool.run_rows(out.into_mut_slice::<bf16>()?, hidden, per_task, |first, out| {
            cpu.isa.run(NormRows { norm: weight, x: &x[first * hidden..], out });
        }),
        found => return Err(KernelError::DType { op: check.0, arg: "out", found, expected: DType::BF16 }),
    }
    Ok(())
}

/// `residual += delta`, then `out = rms_norm(residual)`.
///
/// - `out`: f32 or bf16 `[T, H]`
/// - `residual`: f32 `[T, H]`
/// - `delta`: f32 `[T, H]`
/// - `weight`: any float `[H]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn add_rms_norm(
    device: &Device,
    out: ViewMut<'_>,
    residual: ViewMut<'_>,
    delta: View<'_>,
    weight: View<'_>,
    eps: f32,
) -> Result<()> {
    let check = Check("add_rms_norm");
    let [rows, hidden] = check.dims("delta", &delta)?;
    check.shape("out", &out, [rows, hidden])?;
    check.is("residual", &residual, [rows, hidden], DType::F32)?;
    check.shape("weight", &weight, [hidden])?;
    let delta = delta.as_slice::<f32>()?;
    let norm = Norm { weight: check.floats("weight", weight)?, hidden, eps };
    let residual = residual.into_mut_slice()?;
    let cpu = device.as_cpu("rms_norm")?;
    match out.dtype() {
        DType::F32 => add_rows(cpu, out.into_mut_slice::<f32>()?, residual, delta, norm),
        DType::BF16 => add_rows(cpu, out.into_mut_slice::<bf16>()?, residual, delta, norm),
        found => return Err(KernelError::DType { op: check.0, arg: "out", found, expected: DType::BF16 }),
    }
    Ok(())
}

fn add_rows<T: Float>(cpu: &CpuDevice, out: &mut [T], residual: &mut [f32], delta: &[f32], norm: Norm<'_>) {
    let residual = Parts::new(residual);
    cpu.pool.run_rows(out, norm.hidden, rows_per_task(norm.hidden), |first, out| {
        let start = first * norm.hidden;
        // SAFETY: these are the rows of `out`, which is no other task's.
        let residual = unsafe { residual.get(start..start + out.len()) };
        cpu.isa.run(AddNormRows { norm, residual, delta: &delta[start..], out });
    });
}

/// What is the same for all rows.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: Floats<'a>,
    hidden: usize,
    eps: f32,
}

struct NormRows<'a, T> {
    norm: Norm<'a>,
    x: &'a [f32],
    out: &'a mut [T],
}

impl<T: Float> Kernel for NormRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.norm.hidden;
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            norm_row(s, x, self.norm.weight, self.norm.eps, out);
        }
    }
}

struct AddNormRows<'a, T> {
    norm: Norm<'a>,
    residual: &'a mut [f32],
    delta: &'a [f32],
    out: &'a mut [T],
}

impl<T: Float> Kernel for AddNormRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.norm.hidden;
        let deltas = self.delta.chunks_exact(width);
        let residuals = self.residual.chunks_exact_mut(width);
        for ((residual, delta), out) in residuals.zip(deltas).zip(self.out.chunks_exact_mut(width)) {
            for (residual, delta) in residual.chunks_mut(LANES).zip(delta.chunks(LANES)) {
                let sum = s.add(f32::load(s, residual), f32::load(s, delta));
                f32::store(s, residual, sum);
            }
            norm_row(s, residual, self.norm.weight, self.norm.eps, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    fn reference(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)).collect()
    }

    #[test]
    fn both_agree_with_the_formula_and_do_not_depend_on_the_batch() {
        let mut random = Random::new(2);
        let (rows, hidden, eps) = (100, 200, 1e-5);
        let weight = random.floats(hidden, 2.0);
        let residual = random.floats(rows * hidden, 3.0);
        let delta = random.floats(rows * hidden, 1.0);
        let sum: Vec<f32> = residual.iter().zip(&delta).map(|(a, b)| a + b).collect();
        let expected: Vec<f64> = sum.chunks(hidden).flat_map(|x| reference(x, &weight, eps)).collect();
        let weight_view = View::from_slice([hidden], &weight).unwrap();
        for device in devices() {
            let mut out = vec![f32::NAN; rows * hidden];
            let mut updated = residual.clone();
            add_rms_norm(
                &device,
                ViewMut::from_slice([rows, hidden], &mut out).unwrap(),
                ViewMut::from_slice([rows, hidden], &mut updated).unwrap(),
                View::from_slice([rows, hidden], &delta).unwrap(),
                weight_view,
                eps,
            )
            .unwrap();
            assert_same_bits(&updated, &sum, "residual");
            assert_close(&out, &expected, 1e-5, "add_rms_norm");
            for batch in [1, 2, 7, 32, 100] {
                let mut part = vec![f32::NAN; batch * hidden];
                let x = View::from_slice([batch, hidden], &sum[..batch * hidden]).unwrap();
                let view = ViewMut::from_slice([batch, hidden], &mut part).unwrap();
                rms_norm(&device, view, x, weight_view, eps).unwrap();
                assert_same_bits(&part, &out[..batch * hidden], "rms_norm");
            }
        }
    }

    #[test]
    fn bf16_output_is_the_f32_output_rounded() {
        let x = Random::new(3).floats(40, 1.0);
        let weight = Tensor::from_slice([40], &rounded::<bf16>(&Random::new(4).floats(40, 1.0))).unwrap();
        for device in devices() {
            let mut wide = vec![0.0f32; 40];
            let mut narrow = vec![bf16::ZERO; 40];
            let x = View::from_slice([1, 40], &x).unwrap();
            rms_norm(&device, ViewMut::from_slice([1, 40], &mut wide).unwrap(), x, weight.view(), 1e-6)
                .unwrap();
            rms_norm(&device, ViewMut::from_slice([1, 40], &mut narrow).unwrap(), x, weight.view(), 1e-6)
                .unwrap();
            assert_eq!(rounded::<bf16>(&wide), narrow);
        }
    }

    #[test]
    fn misfits_are_named() {
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let x = Tensor::zeros([2, 8], DType::F32).unwrap();
        let weight = Tensor::zeros([9], DType::F32).unwrap();
        let device = &devices()[0];
        let error = rms_norm(device, out.view_mut().unwrap(), x.view(), weight.view(), 1e-6).unwrap_err();
        assert_eq!(error.to_string(), "rms_norm: `weight` has shape [9], expected [8]");
    }
}
