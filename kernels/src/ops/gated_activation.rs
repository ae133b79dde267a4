//! `gated_activation`: the middle of a gated feed-forward network.

use half::bf16;

use super::check::{Check, rows_per_task};
use crate::{
    DType, Device, KernelError, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Simd, silu},
};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
}

impl Activation {
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Activation::Silu => silu(s, x),
        }
    }
}

/// `out = act(gate) · up`, element by element.
///
/// - `out`: f32 or bf16 `[T, I]`
/// - `gate_up`: f32 `[T, 2I]`, each row gate, then up
///
/// # Errors
/// When shapes or types do not fit.
pub fn gated_activation(device: &Device, out: ViewMut<'_>, gate_up: View<'_>, act: Activation) -> Result<()> {
    let check = Check("gated_activation");
    let [rows, width] = check.dims("out", &out)?;
    check.is("gate_up", &gate_up, [rows, 2 * width], DType::F32)?;
    let gate_up = gate_up.as_slice::<f32>()?;
    let cpu = device.as_cpu("gated_activation")?;
    let per_task = rows_per_task(4 * width);
    match out.dtype() {
        DType::F32 => cpu.pool.run_rows(out.into_mut_slice::<f32>()?, width, per_task, |first, out| {
            cpu.isa.run(GatedRows { out, gate_up: &gate_up[2 * first * width..], width, act });
        }),
        DType::BF16 => cpu.pool.run_rows(out.into_mut_slice::<bf16>()?, width, per_task, |first, out| {
            cpu.isa.run(GatedRows { out, gate_up: &gate_up[2 * first * width..], width, act });
        }),
        found => return Err(KernelError::DType { op: check.0, arg: "out", found, expected: DType::BF16 }),
    }
    Ok(())
}

struct GatedRows<'a, T> {
    out: &'a mut [T],
    gate_up: &'a [f32],
    width: usize,
    act: Activation,
}

impl<T: Float> Kernel for GatedRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.out.chunks_exact_mut(self.width).zip(self.gate_up.chunks_exact(2 * self.width));
        for (out, gate_up) in rows {
            let (gate, up) = gate_up.split_at(self.width);
            gated_row(s, out, gate, up, self.act);
        }
    }
}

/// One row, or a part of one; all of the same length.
#[inline(always)]
pub(super) fn gated_row<S: Simd, T: Float>(s: S, out: &mut [T], gate: &[f32], up: &[f32], act: Activation) {
    for ((out, gate), up) in out.chunks_mut(LANES).zip(gate.chunks(LANES)).zip(up.chunks(LANES)) {
        T::store(s, out, s.mul(act.apply(s, f32::load(s, gate)), f32::load(s, up)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn agrees_with_the_formula_and_does_not_depend_on_the_batch() {
        let (rows, width) = (100, 75);
        let gate_up = Random::new(5).floats(rows * 2 * width, 9.0);
        let expected: Vec<f64> = gate_up
            .chunks(2 * width)
            .flat_map(|row| (0..width).map(|i| (f64::from(row[i]), f64::from(row[width + i]))))
            .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            .collect();
        for device in devices() {
            let mut all = vec![f32::NAN; rows * width];
            for batch in [100, 32, 7, 2, 1] {
                let mut out = vec![f32::NAN; batch * width];
                let input = View::from_slice([batch, 2 * width], &gate_up[..batch * 2 * width]).unwrap();
                let view = ViewMut::from_slice([batch, width], &mut out).unwrap();
                gated_activation(&device, view, input, Activation::Silu).unwrap();
                all[..out.len()].copy_from_slice(&out);
                let mut narrow = vec![bf16::ZERO; batch * width];
                let view = ViewMut::from_slice([batch, width], &mut narrow).unwrap();
                gated_activation(&device, view, input, Activation::Silu).unwrap();
                assert_eq!(narrow, rounded::<bf16>(&out));
            }
            assert_close(&all, &expected, 2e-5, "gated_activation");
        }
    }

    #[test]
    fn large_gates_saturate() {
        let gate_up = [1000.0f32, -1000.0, 0.0, 2.0, 2.0, 2.0];
        for device in devices() {
            let mut out = [f32::NAN; 3];
            let view = ViewMut::from_slice([1, 3], &mut out).unwrap();
            let input = View::from_slice([1, 6], &gate_up).unwrap();
            gated_activation(&device, view, input, Activation::Silu).unwrap();
            assert_eq!(out, [2000.0, 0.0, 0.0]);
        }
    }
}
