//! The launch of `gated_activation`.

use super::{Activation, Glu};
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid},
};

pub(super) fn gated_activation(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    gate_up: View<'_>,
    glu: Glu,
) -> Result<()> {
    let kernel = match out.dtype() {
        DType::BF16 => "gated_activation_bf16",
        _ => "gated_activation_f32",
    };
    let (rows, width) = (out.shape().dims()[0], out.shape().row_elements());
    let mut args = Args::new();
    args.write(&mut out).read(&gate_up).u32(width as u32);
    glu.push(&mut args);
    gpu.launch(kernel, Grid::of_rows(rows, width), &args)
}

impl Glu {
    /// As kernels take it (`cuh/activation.cuh`): kind, activation, alpha and limit.
    pub(in crate::ops) fn push(self, args: &mut Args) {
        let (kind, act, alpha, limit) = match self {
            Glu::Plain(act) => (0, act, 0.0, 0.0),
            Glu::SwigluOai { alpha, limit } => (1, Activation::Silu, alpha, limit),
            Glu::Clamped { act, limit } => (2, act, 0.0, limit),
        };
        args.i32(kind).i32(act as i32).f32(alpha).f32(limit);
    }
}
