//! The launch of `take_tokens`: one thread per pair.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

const THREADS: usize = 128;

pub(super) fn take_tokens(
    gpu: &CudaDevice,
    ids: &mut ViewMut<'_>,
    drawn: View<'_>,
    pairs: View<'_>,
) -> Result<()> {
    let count = pairs.shape().dims()[0];
    let mut args = Args::new();
    args.write(ids).read(&drawn).read(&pairs).u32(count as u32);
    let blocks = [count.div_ceil(THREADS) as u32, 1, 1];
    gpu.launch("take_tokens_u32", Grid { blocks, threads: THREADS as u32, shared_bytes: 0 }, &args)
}
