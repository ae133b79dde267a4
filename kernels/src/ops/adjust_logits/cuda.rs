//! The launch of `adjust_logits`: four logits per thread.

use crate::{
    CudaDevice, Result, ViewMut,
    cuda::{Args, Grid},
};

pub(super) fn adjust_logits(
    gpu: &CudaDevice,
    mut logits: ViewMut<'_>,
    scale: f32,
    softcap: Option<f32>,
) -> Result<()> {
    let n = logits.shape().elements();
    let mut args = Args::new();
    // A softcap is positive: 0 stands for none.
    args.write(&mut logits).u64(n as u64).f32(scale).f32(softcap.unwrap_or(0.0));
    gpu.launch("adjust_logits_f32", Grid::of_elements(n.div_ceil(4)), &args)
}
