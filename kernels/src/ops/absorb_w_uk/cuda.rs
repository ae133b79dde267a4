//! The launch of `absorb_w_uk`.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::Args,
    ops::{
        RopeLayout, RopeTable,
        check::Check,
        head_product::{HeadProduct, Kernels},
    },
};

const KERNELS: Kernels = Kernels {
    few_rows: "absorb_w_uk_t8_bf16",
    many_rows: "absorb_w_uk_t64_bf16",
    simt: ["absorb_w_uk_simt_f32", "absorb_w_uk_simt_f16", "absorb_w_uk_simt_bf16"],
};

pub(super) fn absorb_w_uk(
    gpu: &CudaDevice,
    check: Check,
    mut out: ViewMut<'_>,
    q: View<'_>,
    w_uk: View<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
) -> Result<()> {
    let [rows, _, width] = check.dims("out", &out)?;
    let [heads, latent, nope] = check.dims("w_uk", &w_uk)?;
    let half = rope.cos.shape().row_elements();
    let product = HeadProduct {
        rows: rows as u32,
        heads: heads as u32,
        features: latent as u32,
        k: nope as u32,
        x_stride: (nope + 2 * half) as u32,
        out_stride: width as u32,
    };
    let mut args = Args::new();
    args.write(&mut out).read(&q).read(&w_uk).read(&rope.cos).read(&rope.sin).read(&positions);
    args.u32(half as u32).u32(u32::from(rope.layout == RopeLayout::Interleaved));
    product.launch(gpu, &KERNELS, w_uk.dtype(), &mut args)
}
