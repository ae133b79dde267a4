//! The launch of `gather_token_ids`: one thread per pair.

use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

const THREADS: usize = 128;

pub(super) fn gather_token_ids(
    gpu: &CudaDevice,
    ids: &mut ViewMut<'_>,
    sampled: View<'_>,
    pairs: View<'_>,
) -> Result<()> {
    let count = pairs.shape().dims()[0];
    let mut args = Args::new();
    args.write(ids).read(&sampled).read(&pairs).u32(count as u32);
    let blocks = [count.div_ceil(THREADS) as u32, 1, 1];
    gpu.launch("gather_token_ids_u32", Grid { blocks, threads: THREADS as u32, shared_bytes: 0 }, &args)
}
