//! The launch of `gate_heads`: one element per thread.

use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid},
};

pub(super) fn gate_heads(gpu: &CudaDevice, mut x: ViewMut<'_>, gate: View<'_>) -> Result<()> {
    let kernel = match x.dtype() {
        DType::BF16 => "gate_heads_bf16",
        _ => "gate_heads_f32",
    };
    let (rows, width) = (x.shape().dims()[0], x.shape().row_elements());
    let heads = gate.shape().row_elements();
    let mut args = Args::new();
    args.write(&mut x).read(&gate).u32(heads as u32).u32((width / heads) as u32);
    gpu.launch(kernel, Grid::of_rows(rows, width), &args)
}
