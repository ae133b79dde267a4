//! `accumulate`: adds what a shared expert or a second network computed.

mod cuda;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, mul_sigmoid},
};

/// `out[t] = (out[t] + sigmoid(gate[t]) · x[t]) · scale`; without a gate, x is added as it is.
///
/// - `out`, `x`: f32 `[T, H]`
/// - `gate`: f32 `[T, 1]`
///
/// # Errors
/// When shapes or types do not fit.
pub fn accumulate(
    device: &Device,
    out: ViewMut<'_>,
    x: View<'_>,
    gate: Option<View<'_>>,
    scale: f32,
) -> Result<()> {
    let check = Check("accumulate");
    let [rows, hidden] = check.dims("x", &x)?;
    check.dtype("x", &x, DType::F32)?;
    check.is("out", &out, [rows, hidden], DType::F32)?;
    if let Some(gate) = gate {
        check.is("gate", &gate, [rows, 1], DType::F32)?;
    }
    match device {
        Device::Cpu(cpu) => cpu_accumulate(cpu, out, x, gate, scale),
        Device::Cuda(gpu) => cuda::accumulate(gpu, out, x, gate, scale),
    }
}

fn cpu_accumulate(
    cpu: &CpuDevice,
    out: ViewMut<'_>,
    x: View<'_>,
    gate: Option<View<'_>>,
    scale: f32,
) -> Result<()> {
    let (x, hidden) = (x.as_slice::<f32>()?, x.shape().row_elements());
    let gate = gate.map(|gate| gate.as_slice::<f32>()).transpose()?;
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(hidden), |first, out| {
        let gate = gate.map(|gate| &gate[first..]);
        cpu.isa.run(Rows { out, x: &x[first * hidden..], gate, hidden, scale });
    });
    Ok(())
}

struct Rows<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    gate: Option<&'a [f32]>,
    hidden: usize,
    scale: f32,
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.scale);
        let rows = self.out.chunks_exact_mut(self.hidden).zip(self.x.chunks_exact(self.hidden));
        for (row, (out, x)) in rows.enumerate() {
            let factor = match self.gate {
                Some(gate) => mul_sigmoid(s, s.splat(1.0), s.splat(gate[row])),
                None => s.splat(1.0),
            };
            for (out, x) in out.chunks_mut(LANES).zip(x.chunks(LANES)) {
                let sum = s.mul_add(factor, f32::load(s, x), f32::load(s, out));
                f32::store(s, out, s.mul(sum, scale));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    #[test]
    fn agrees_with_the_formula_and_does_not_depend_on_the_batch() {
        let (rows, hidden) = (100, 45);
        let mut random = Random::new(33);
        let (start, x) = (random.floats(rows * hidden, 2.0), random.floats(rows * hidden, 2.0));
        let gate = random.floats(rows, 5.0);
        for (gated, scale) in [(false, 1.0f32), (true, 1.0), (true, 0.7), (false, 0.5f32.sqrt())] {
            let expected: Vec<f64> = start
                .iter()
                .zip(&x)
                .enumerate()
                .map(|(i, (&out, &x))| {
                    let sigmoid = 1.0 / (1.0 + (-f64::from(gate[i / hidden])).exp());
                    let factor = if gated { sigmoid } else { 1.0 };
                    (f64::from(out) + factor * f64::from(x)) * f64::from(scale)
                })
                .collect();
            for device in every_device() {
                let run = |batch: usize| {
                    let mut out = upload(&device, [batch, hidden], &start[..batch * hidden]);
                    let x = upload(&device, [batch, hidden], &x[..batch * hidden]);
                    let gate = upload(&device, [batch, 1], &gate[..batch]);
                    let gate = gated.then(|| gate.view());
                    accumulate(&device, out.view_mut().unwrap(), x.view(), gate, scale).unwrap();
                    to_vec::<f32>(&device, &out)
                };
                let all = run(rows);
                assert_close(&all, &expected, 1e-6, "accumulate");
                for batch in [1, 2, 7, 32] {
                    assert_same_bits(&run(batch), &all[..batch * hidden], "batch");
                }
            }
        }
    }

    #[test]
    fn misfits_are_named() {
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let (x, gate) = (Tensor::zeros([2, 8], DType::F32).unwrap(), Tensor::zeros([2], DType::F32).unwrap());
        let error =
            accumulate(&devices()[0], out.view_mut().unwrap(), x.view(), Some(gate.view()), 1.0).unwrap_err();
        assert_eq!(error.to_string(), "accumulate: `gate` has shape [2], expected [2, 1]");
    }
}
