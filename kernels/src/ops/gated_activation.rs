//! `gated_activation`: the middle of a gated feed-forward network (Shazeer 2020, arXiv 2002.05202).

mod cuda;

use half::bf16;

use super::{
    activation::Activation,
    check::{Check, rows_per_task},
};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, clamp, mul_sigmoid},
};

/// How gate and up become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Glu {
    /// `act(gate) · up`.
    Plain(Activation),
    /// `(u + 1) · g · sigmoid(alpha · g)` with `g = min(gate, limit)` and `u` = up within ±limit (gpt-oss).
    SwigluOai {
        /// Steepness of the gate.
        alpha: f32,
        /// Upper bound of the gate, and bound of up on both sides.
        limit: f32,
    },
    /// `min(act(gate), limit) · u` with `u` = up within ±limit (Step-3.5).
    Clamped {
        /// Activation of the gate.
        act: Activation,
        /// Upper bound of the activated gate, and bound of up on both sides.
        limit: f32,
    },
}

impl Glu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, gate: S::V, up: S::V) -> S::V {
        match self {
            Glu::Plain(act) => s.mul(act.apply(s, gate), up),
            Glu::SwigluOai { alpha, limit } => {
                // The bound comes first in `min`, which then keeps a NaN.
                let (gate, up) = (s.min(s.splat(limit), gate), clamp(s, up, -limit, limit));
                let gated = mul_sigmoid(s, gate, s.mul(s.splat(alpha), gate));
                s.mul(s.add(up, s.splat(1.0)), gated)
            }
            Glu::Clamped { act, limit } => {
                s.mul(s.min(s.splat(limit), act.apply(s, gate)), clamp(s, up, -limit, limit))
            }
        }
    }
}

/// `out = glu(gate, up)`, element by element.
///
/// - `out`: f32 or bf16 `[T, I]`
/// - `gate_up`: f32 `[T, 2I]`, each row gate, then up
///
/// # Errors
/// When shapes or types do not fit.
pub fn gated_activation(device: &Device, out: ViewMut<'_>, gate_up: View<'_>, glu: Glu) -> Result<()> {
    let check = Check("gated_activation");
    let [rows, width] = check.dims("out", &out)?;
    check.activations("out", &out)?;
    check.is("gate_up", &gate_up, [rows, 2 * width], DType::F32)?;
    match (device, out.dtype()) {
        (Device::Cuda(gpu), _) => cuda::gated_activation(gpu, out, gate_up, glu),
        (Device::Cpu(cpu), DType::F32) => cpu_gated::<f32>(cpu, out, gate_up, glu),
        (Device::Cpu(cpu), _) => cpu_gated::<bf16>(cpu, out, gate_up, glu),
    }
}

fn cpu_gated<T: Float>(cpu: &CpuDevice, out: ViewMut<'_>, gate_up: View<'_>, glu: Glu) -> Result<()> {
    let (gate_up, width) = (gate_up.as_slice::<f32>()?, out.shape().row_elements());
    cpu.pool.run_rows(out.into_mut_slice::<T>()?, width, rows_per_task(4 * width), |first, out| {
        cpu.isa.run(GatedRows { out, gate_up: &gate_up[2 * first * width..], width, glu });
    });
    Ok(())
}

struct GatedRows<'a, T> {
    out: &'a mut [T],
    gate_up: &'a [f32],
    width: usize,
    glu: Glu,
}

impl<T: Float> Kernel for GatedRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.out.chunks_exact_mut(self.width).zip(self.gate_up.chunks_exact(2 * self.width));
        for (out, gate_up) in rows {
            let (gate, up) = gate_up.split_at(self.width);
            gated_row(s, out, gate, up, self.glu);
        }
    }
}

/// One row, or a part of one; all of the same length.
#[inline(always)]
pub(super) fn gated_row<S: Simd, T: Float>(s: S, out: &mut [T], gate: &[f32], up: &[f32], glu: Glu) {
    for ((out, gate), up) in out.chunks_mut(LANES).zip(gate.chunks(LANES)).zip(up.chunks(LANES)) {
        T::store(s, out, glu.apply(s, f32::load(s, gate), f32::load(s, up)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    /// Every kind, with limits that inputs within ±9 reach.
    const KINDS: [Glu; 6] = [
        Glu::Plain(Activation::Silu),
        Glu::Plain(Activation::GeluTanh),
        Glu::Plain(Activation::GeluErf),
        Glu::SwigluOai { alpha: 1.702, limit: 2.5 },
        Glu::Clamped { act: Activation::Silu, limit: 1.5 },
        Glu::Clamped { act: Activation::GeluTanh, limit: 3.0 },
    ];

    #[test]
    fn agrees_with_the_formulas_and_does_not_depend_on_the_batch() {
        let (rows, width) = (100, 75);
        let gate_up = Random::new(5).floats(rows * 2 * width, 9.0);
        for glu in KINDS {
            let expected: Vec<f64> = gate_up
                .chunks(2 * width)
                .flat_map(|row| (0..width).map(|i| glu.in_f64(f64::from(row[i]), f64::from(row[width + i]))))
                .collect();
            for device in every_device() {
                let run = |batch: usize, dtype| {
                    let input = upload(&device, [batch, 2 * width], &gate_up[..batch * 2 * width]);
                    let mut out = empty(&device, [batch, width], dtype);
                    gated_activation(&device, out.view_mut().unwrap(), input.view(), glu).unwrap();
                    out
                };
                let all = to_vec::<f32>(&device, &run(rows, DType::F32));
                assert_close(&all, &expected, 4e-5, "gated_activation");
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
    fn large_gates_saturate() {
        let gate_up = [1000.0f32, -1000.0, 0.0, 2.0, 2.0, 2.0];
        for device in every_device() {
            let input = upload(&device, [1, 6], &gate_up);
            let mut out = empty(&device, [1, 3], DType::F32);
            let plain = Glu::Plain(Activation::Silu);
            gated_activation(&device, out.view_mut().unwrap(), input.view(), plain).unwrap();
            assert_eq!(to_vec::<f32>(&device, &out), [2000.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn nan_is_not_clamped_away() {
        let gate_up = [f32::NAN, 1.0, 1.0, f32::NAN];
        for device in every_device() {
            let input = upload(&device, [1, 4], &gate_up);
            let mut out = empty(&device, [1, 2], DType::F32);
            for glu in KINDS {
                gated_activation(&device, out.view_mut().unwrap(), input.view(), glu).unwrap();
                assert!(to_vec::<f32>(&device, &out).iter().all(|x| x.is_nan()), "{glu:?}");
            }
        }
    }

    #[test]
    fn misfits_are_named() {
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let gate_up = Tensor::zeros([2, 8], DType::F32).unwrap();
        let plain = Glu::Plain(Activation::Silu);
        let error =
            gated_activation(&devices()[0], out.view_mut().unwrap(), gate_up.view(), plain).unwrap_err();
        assert_eq!(error.to_string(), "gated_activation: `gate_up` has shape [2, 8], expected [2, 16]");
    }
}
