//! The launch of `accumulate`.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

pub(super) fn accumulate(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    x: View<'_>,
    gate: Option<View<'_>>,
    scale: f32,
) -> Result<()> {
    let (rows, hidden) = (x.shape().dims()[0], x.shape().row_elements());
    let mut args = Args::new();
    args.write(&mut out).read(&x).read_opt(gate.as_ref()).u32(hidden as u32).f32(scale);
    gpu.launch("accumulate_f32", Grid::of_rows(rows, hidden), &args)
}
