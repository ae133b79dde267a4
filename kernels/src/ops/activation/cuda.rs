//! The launch of `activation`: four elements per thread.

use super::Activation;
use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid},
};

pub(super) fn activation(gpu: &CudaDevice, mut out: ViewMut<'_>, x: View<'_>, act: Activation) -> Result<()> {
    let kernel = match out.dtype() {
        DType::BF16 => "activation_bf16",
        _ => "activation_f32",
    };
    let n = x.shape().elements();
    let mut args = Args::new();
    args.write(&mut out).read(&x).u64(n as u64).i32(act as i32);
    gpu.launch(kernel, Grid::of_elements(n.div_ceil(4)), &args)
}
