//! The launch of `take_tokens`: one thread per pair.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

const THREADS: usize = 128;

pub(super) fn take_tokens(
    gpu: &CudaDevice,
    mut ids: ViewMut<'_>,
    drawn: View<'_>,
    pairs: &[[u32; 2]],
) -> Result<()> {
    let scratch = gpu.scratch(size_of_val(pairs))?;
    gpu.write(scratch, bytemuck::cast_slice(pairs))?;
    let mut args = Args::new();
    args.write(&mut ids).read(&drawn).pointer(scratch).u32(pairs.len() as u32);
    let blocks = [pairs.len().div_ceil(THREADS) as u32, 1, 1];
    gpu.launch("take_tokens_u32", Grid { blocks, threads: THREADS as u32, shared_bytes: 0 }, &args)
}
