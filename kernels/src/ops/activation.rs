//! `activation`: the middle of a feed-forward network without a gate.

mod cuda;

use half::bf16;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, gelu_erf, gelu_tanh, silu},
};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x / 2 · (1 + erf(x / √2))`.
    GeluErf,
}

impl Activation {
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Activation::Silu => silu(s, x),
            Activation::GeluTanh => gelu_tanh(s, x),
            Activation::GeluErf => gelu_erf(s, x),
        }
    }
}

/// `out = act(x)`, element by element.
///
/// - `out`: f32 or bf16 `[T, I]`
/// - `x`: f32 `[T, I]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn activation(device: &Device, out: ViewMut<'_>, x: View<'_>, act: Activation) -> Result<()> {
    let check = Check("activation");
    let [rows, width] = check.dims("out", &out)?;
    check.activations("out", &out)?;
    check.is("x", &x, [rows, width], DType::F32)?;
    match (device, out.dtype()) {
        (Device::Cuda(gpu), _) => cuda::activation(gpu, out, x, act),
        (Device::Cpu(cpu), DType::F32) => cpu_activation::<f32>(cpu, out, x, act),
        (Device::Cpu(cpu), _) => cpu_activation::<bf16>(cpu, out, x, act),
    }
}

fn cpu_activation<T: Float>(cpu: &CpuDevice, out: ViewMut<'_>, x: View<'_>, act: Activation) -> Result<()> {
    let (x, width) = (x.as_slice::<f32>()?, x.shape().row_elements());
    cpu.pool.run_rows(out.into_mut_slice::<T>()?, width, rows_per_task(4 * width), |first, out| {
        cpu.isa.run(Elements { x: &x[first * width..][..out.len()], out, act });
    });
    Ok(())
}

struct Elements<'a, T> {
    out: &'a mut [T],
    x: &'a [f32],
    act: Activation,
}

impl<T: Float> Kernel for Elements<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, x) in self.out.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            T::store(s, out, self.act.apply(s, f32::load(s, x)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    #[test]
    fn agrees_with_the_formulas_and_does_not_depend_on_the_batch() {
        let (rows, width) = (100, 75);
        let x = Random::new(30).floats(rows * width, 9.0);
        for act in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
            let expected: Vec<f64> = x.iter().map(|&x| act.in_f64(f64::from(x))).collect();
            for device in every_device() {
                let run = |batch: usize, dtype| {
                    let input = upload(&device, [batch, width], &x[..batch * width]);
                    let mut out = empty(&device, [batch, width], dtype);
                    activation(&device, out.view_mut().unwrap(), input.view(), act).unwrap();
                    out
                };
                let all = to_vec::<f32>(&device, &run(rows, DType::F32));
                assert_close(&all, &expected, 5e-6, "activation");
                for batch in [1, 2, 7, 32] {
                    let part = to_vec::<f32>(&device, &run(batch, DType::F32));
                    assert_same_bits(&part, &all[..batch * width], "batch");
                    let narrow = to_vec::<bf16>(&device, &run(batch, DType::BF16));
                    assert_eq!(narrow, rounded::<bf16>(&part));
                }
            }
        }
    }

    #[test]
    fn misfits_are_named() {
        let mut out = Tensor::zeros([2, 8], DType::F16).unwrap();
        let x = Tensor::zeros([2, 8], DType::F32).unwrap();
        let error =
            activation(&devices()[0], out.view_mut().unwrap(), x.view(), Activation::Silu).unwrap_err();
        assert_eq!(error.to_string(), "activation: `out` is float16, expected bfloat16");
    }
}
