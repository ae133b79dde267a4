//! The CUDA launches of a matrix product per head, `out[t, h] = weight[h] · x[t, h]`, which
//! [`absorb_w_uk`](super::absorb_w_uk) and [`up_project_w_uv`](super::up_project_w_uv) share.

use crate::{
    CudaDevice, DType, Result,
    cuda::{Args, Grid},
};

/// Sizes of the product, as in `cuh/head_product.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct HeadProduct {
    pub(super) rows: u32,
    pub(super) heads: u32,
    pub(super) features: u32,
    pub(super) k: u32,
    /// Elements from head to head.
    pub(super) x_stride: u32,
    pub(super) out_stride: u32,
}

/// An op's kernels.
pub(super) struct Kernels {
    /// On the tensor cores, with tiles of few rows and of many.
    pub(super) few_rows: &'static str,
    pub(super) many_rows: &'static str,
    /// Without, for weights of f32, f16 and bf16.
    pub(super) simt: [&'static str; 3],
}

/// A kernel and its tile.
struct Variant {
    kernel: &'static str,
    features: u32,
    tokens: u32,
    threads: u32,
    /// Stages of 64 elements of K, in shared memory; 0: static.
    stages: u32,
}

impl HeadProduct {
    /// The launch; `args` are those of the kernel but for the sizes, which come last.
    pub(super) fn launch(
        self,
        gpu: &CudaDevice,
        kernels: &Kernels,
        weight: DType,
        args: &mut Args,
    ) -> Result<()> {
        let Variant { kernel, features, tokens, threads, stages } = self.variant(kernels, weight);
        args.bytes(bytemuck::bytes_of(&self));
        let blocks = [self.features.div_ceil(features), self.heads, self.rows.div_ceil(tokens)];
        let shared_bytes = stages * (features + tokens) * 64 * DType::BF16.size() as u32;
        gpu.launch(kernel, Grid { blocks, threads, shared_bytes }, args)
    }

    /// The tensor cores want rows of whole 16-byte vectors. The tile does not show in any bit.
    fn variant(self, kernels: &Kernels, weight: DType) -> Variant {
        let [f32, f16, bf16] = kernels.simt;
        let vectors = self.k.is_multiple_of(8) && self.x_stride.is_multiple_of(8);
        let kernel = match weight {
            DType::BF16 if vectors && self.rows <= 8 => {
                let kernel = kernels.few_rows;
                return Variant { kernel, features: 32, tokens: 8, threads: 64, stages: 8 };
            }
            DType::BF16 if vectors => {
                let kernel = kernels.many_rows;
                return Variant { kernel, features: 128, tokens: 64, threads: 256, stages: 3 };
            }
            DType::BF16 => bf16,
            DType::F16 => f16,
            DType::F32 | DType::U32 | DType::U8 => f32,
        };
        Variant { kernel, features: 32, tokens: 16, threads: 128, stages: 0 }
    }
}
