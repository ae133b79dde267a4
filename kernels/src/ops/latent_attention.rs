//! `latent_attention`: absorbed queries against the latents of their sequences.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

pub use cuda::latent_attention_scratch_bytes;

use super::{
    attention::{MAX_HEAD_DIM, PagedSequences},
    check::Check,
};
use crate::{Device, Result, View, ViewMut};

/// `out = softmax(scale · q·c) · c[..L]` over the cached rows `c` up to each row's position, head by head: all heads
/// share them, as keys whole and as values their first L elements.
///
/// - `out`: compute `[T, Hq, L]`
/// - `q`: compute `[T, Hq, R]`, of [`absorb_w_uk`](super::absorb_w_uk)
/// - `cache`: compute `[B, bs, R]`, of [`latent_cache`](super::latent_cache)
///
/// The order of sums is [`paged_attention`](super::paged_attention)'s.
///
/// # Errors
/// When shapes or types do not fit, L is over 512 or over R, or the sequences contradict themselves; on a CUDA device
/// when bs is not a power of two from 16 on.
pub fn latent_attention(
    device: &Device,
    out: ViewMut<'_>,
    q: View<'_>,
    cache: View<'_>,
    sequences: PagedSequences<'_>,
    scale: f32,
) -> Result<()> {
    let check = Check("latent_attention");
    let [rows, heads, width] = check.dims("q", &q)?;
    let [blocks, block_size, _] = check.dims("cache", &cache)?;
    let [_, _, latent] = check.dims("out", &out)?;
    check.activations("q", &q)?;
    check.is("cache", &cache, [blocks, block_size, width], q.dtype())?;
    check.is("out", &out, [rows, heads, latent], q.dtype())?;
    check.that(block_size > 0, || "KV blocks have no slots".into())?;
    check.that((1..=width.min(MAX_HEAD_DIM)).contains(&latent), || {
        format!("latents have {latent} of {width} elements, expected 1 to {}", width.min(MAX_HEAD_DIM))
    })?;
    sequences.check(check)?;
    match device {
        Device::Cpu(cpu) => cpu::latent_attention(cpu, check, out, q, cache, sequences, scale),
        Device::Cuda(gpu) => cuda::latent_attention(gpu, check, out, q, cache, sequences, scale),
    }
}
