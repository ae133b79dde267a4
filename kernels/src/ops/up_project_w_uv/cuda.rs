//! The launch of `up_project_w_uv`.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::Args,
    ops::{
        check::Check,
        head_product::{HeadProduct, Kernels},
    },
};

const KERNELS: Kernels = Kernels {
    few_rows: "up_project_w_uv_t8_bf16",
    many_rows: "up_project_w_uv_t64_bf16",
    simt: ["up_project_w_uv_simt_f32", "up_project_w_uv_simt_f16", "up_project_w_uv_simt_bf16"],
};

pub(super) fn up_project_w_uv(
    gpu: &CudaDevice,
    check: Check,
    mut out: ViewMut<'_>,
    x: View<'_>,
    w_uv: View<'_>,
) -> Result<()> {
    let [rows, _, _] = check.dims("x", &x)?;
    let [heads, head_dim, latent] = check.dims("w_uv", &w_uv)?;
    let product = HeadProduct {
        rows: rows as u32,
        heads: heads as u32,
        features: head_dim as u32,
        k: latent as u32,
        x_stride: latent as u32,
        out_stride: head_dim as u32,
    };
    let mut args = Args::new();
    args.write(&mut out).read(&x).read(&w_uv);
    product.launch(gpu, &KERNELS, w_uv.dtype(), &mut args)
}
