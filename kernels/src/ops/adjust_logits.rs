//! `adjust_logits`: what some families do between the output projection and sampling.

mod cuda;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, tanh},
};

/// `l = scale · logits`, then, with a softcap c, `c · tanh(l / c)`, in place.
///
/// - `logits`: f32 `[R, V]`
///
/// # Errors
/// When shapes or types do not fit, or the softcap is not a positive number.
pub fn adjust_logits(device: &Device, logits: ViewMut<'_>, scale: f32, softcap: Option<f32>) -> Result<()> {
    let check = Check("adjust_logits");
    let [_, _] = check.dims("logits", &logits)?;
    check.dtype("logits", &logits, DType::F32)?;
    check.softcap(softcap)?;
    match device {
        Device::Cpu(cpu) => cpu_adjust_logits(cpu, logits, scale, softcap),
        Device::Cuda(gpu) => cuda::adjust_logits(gpu, logits, scale, softcap),
    }
}

fn cpu_adjust_logits(cpu: &CpuDevice, logits: ViewMut<'_>, scale: f32, softcap: Option<f32>) -> Result<()> {
    cpu.pool.run_rows(logits.into_mut_slice()?, 1, rows_per_task(4), |_, logits| {
        cpu.isa.run(Adjust { logits, scale, softcap });
    });
    Ok(())
}

struct Adjust<'a> {
    logits: &'a mut [f32],
    scale: f32,
    softcap: Option<f32>,
}

impl Kernel for Adjust<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for logits in self.logits.chunks_mut(LANES) {
            let mut x = s.mul(f32::load(s, logits), s.splat(self.scale));
            if let Some(cap) = self.softcap {
                x = softcapped(s, x, cap);
            }
            f32::store(s, logits, x);
        }
    }
}

/// `cap · tanh(x / cap)`
#[inline(always)]
pub(super) fn softcapped<S: Simd>(s: S, x: S::V, cap: f32) -> S::V {
    s.mul(tanh(s, s.div(x, s.splat(cap))), s.splat(cap))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    #[test]
    fn agrees_with_the_formula_and_does_not_depend_on_the_batch() {
        let (rows, vocab) = (40, 333);
        let logits = Random::new(34).floats(rows * vocab, 60.0);
        for (scale, softcap) in [(0.577, None), (1.0, Some(30.0)), (2.0, Some(7.5))] {
            let expected: Vec<f64> = logits
                .iter()
                .map(|&x| f64::from(x) * f64::from(scale))
                .map(|x| softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh()))
                .collect();
            for device in every_device() {
                let run = |batch: usize| {
                    let mut out = upload(&device, [batch, vocab], &logits[..batch * vocab]);
                    adjust_logits(&device, out.view_mut().unwrap(), scale, softcap).unwrap();
                    to_vec::<f32>(&device, &out)
                };
                let all = run(rows);
                assert_close(&all, &expected, 2e-5, "adjust_logits");
                for batch in [1, 2, 7, 32] {
                    assert_same_bits(&run(batch), &all[..batch * vocab], "batch");
                }
            }
        }
    }

    #[test]
    fn an_impossible_softcap_is_named() {
        let mut logits = Tensor::zeros([2, 8], DType::F32).unwrap();
        let device = &devices()[0];
        for (cap, text) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let error = adjust_logits(device, logits.view_mut().unwrap(), 1.0, Some(cap)).unwrap_err();
            let expected = format!("adjust_logits: the softcap is {text}, expected a positive number");
            assert_eq!(error.to_string(), expected);
        }
    }
}
