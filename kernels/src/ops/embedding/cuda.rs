//! The launches of `embedding` and `add_embedding`: one thread block per row.

use crate::{
    CudaDevice, DType, Result, View, ViewMut,
    cuda::{Args, Grid},
};

const THREADS: u32 = 256;

pub(super) fn embedding(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    table: View<'_>,
    ids: View<'_>,
    scale: f32,
) -> Result<()> {
    let kernel = match table.dtype() {
        DType::BF16 => "embedding_bf16",
        DType::F16 => "embedding_f16",
        _ => "embedding_f32",
    };
    let mut args = Args::new();
    args.write(&mut out).read(&table).read(&ids).u32(table.shape().row_elements() as u32).f32(scale);
    gpu.launch(kernel, rows(&ids), &args)
}

pub(super) fn add_embedding(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    table: View<'_>,
    ids: View<'_>,
) -> Result<()> {
    let kernel = match table.dtype() {
        DType::BF16 => "add_embedding_bf16",
        DType::F16 => "add_embedding_f16",
        _ => "add_embedding_f32",
    };
    let mut args = Args::new();
    args.write(&mut out).read(&table).read(&ids).u32(table.shape().row_elements() as u32);
    gpu.launch(kernel, rows(&ids), &args)
}

fn rows(ids: &View<'_>) -> Grid {
    Grid { blocks: [ids.shape().elements() as u32, 1, 1], threads: THREADS, shared_bytes: 0 }
}
