//! `gate_heads`: a gate on each head's output of attention.

mod cuda;

use half::bf16;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, mul_sigmoid},
};

/// `x[t, h] *= sigmoid(gate[t, h])`, head by head.
///
/// - `x`: f32 or bf16 `[T, Hq·D]`
/// - `gate`: f32 `[T, Hq]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn gate_heads(device: &Device, x: ViewMut<'_>, gate: View<'_>) -> Result<()> {
    let check = Check("gate_heads");
    let [rows, width] = check.dims("x", &x)?;
    let [_, heads] = check.dims("gate", &gate)?;
    check.activations("x", &x)?;
    check.is("gate", &gate, [rows, heads], DType::F32)?;
    check.that(heads > 0 && width.is_multiple_of(heads), || {
        format!("rows of {width} elements do not divide into {heads} heads")
    })?;
    match (device, x.dtype()) {
        (Device::Cuda(gpu), _) => cuda::gate_heads(gpu, x, gate),
        (Device::Cpu(cpu), DType::F32) => cpu_gate_heads::<f32>(cpu, x, gate),
        (Device::Cpu(cpu), _) => cpu_gate_heads::<bf16>(cpu, x, gate),
    }
}

fn cpu_gate_heads<T: Float>(cpu: &CpuDevice, x: ViewMut<'_>, gate: View<'_>) -> Result<()> {
    let (width, heads) = (x.shape().row_elements(), gate.shape().row_elements());
    let (gate, head_dim) = (gate.as_slice::<f32>()?, width / heads);
    cpu.pool.run_rows(x.into_mut_slice::<T>()?, width, rows_per_task(width), |first, x| {
        cpu.isa.run(Gate { x, gate: &gate[first * heads..], head_dim });
    });
    Ok(())
}

struct Gate<'a, T> {
    x: &'a mut [T],
    gate: &'a [f32],
    head_dim: usize,
}

impl<T: Float> Kernel for Gate<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (head, &gate) in self.x.chunks_exact_mut(self.head_dim).zip(self.gate) {
            let factor = mul_sigmoid(s, s.splat(1.0), s.splat(gate));
            for x in head.chunks_mut(LANES) {
                let gated = s.mul(T::load(s, x), factor);
                T::store(s, x, gated);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    fn check<T: Rounded>(tolerance: f64) {
        let (rows, heads, head_dim) = (100, 5, 21);
        let width = heads * head_dim;
        let x: Vec<T> = rounded(&Random::new(31).floats(rows * width, 2.0));
        let gate = Random::new(32).floats(rows * heads, 6.0);
        let expected: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, x)| f64::from(x.widen()) / (1.0 + (-f64::from(gate[i / head_dim])).exp()))
            .collect();
        for device in every_device() {
            let run = |batch: usize| {
                let mut out = upload(&device, [batch, width], &x[..batch * width]);
                let gate = upload(&device, [batch, heads], &gate[..batch * heads]);
                gate_heads(&device, out.view_mut().unwrap(), gate.view()).unwrap();
                widened(&to_vec::<T>(&device, &out))
            };
            let all = run(rows);
            assert_close(&all, &expected, tolerance, "gate_heads");
            for batch in [1, 2, 7, 32] {
                assert_same_bits(&run(batch), &all[..batch * width], "batch");
            }
        }
    }

    #[test]
    fn agrees_with_the_formula_and_does_not_depend_on_the_batch() {
        check::<f32>(1e-6);
        check::<bf16>(0.008);
    }

    #[test]
    fn misfits_are_named() {
        let mut x = Tensor::zeros([2, 10], DType::F32).unwrap();
        let gate = Tensor::zeros([2, 3], DType::F32).unwrap();
        let error = gate_heads(&devices()[0], x.view_mut().unwrap(), gate.view()).unwrap_err();
        assert_eq!(error.to_string(), "gate_heads: rows of 10 elements do not divide into 3 heads");
    }
}
