//! `latent_cache`: what latent attention keeps of a token.

mod cuda;

use half::bf16;

use super::{
    attention::MAX_HEAD_DIM,
    check::Check,
    norm::{Norm, RowNorm},
    rope::{Rope, RopeTable},
};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, Simd, convert},
};

/// Norms a token's latent, rotates the part that carries its position, and writes both to its slot. L latent elements
/// and the rotated ones make R: one row for keys and values of all heads (DeepSeek-V2, arXiv 2405.04434).
///
/// - `cache`: compute `[B, bs, R]`
/// - `kv`: f32 `[T, R]`, each row the latent, then the part to rotate
/// - `norm`: of the latent, `[L]`
/// - `rope`: f32 `[P, (R - L) / 2]`
/// - `positions`: u32 `[T]`, rows of the tables
/// - `slots`: u32 `[T]`, `KV block · bs + offset`; of two rows with the same slot the later wins
///
/// # Errors
/// When shapes or types do not fit, or a position or slot is out of range.
pub fn latent_cache(
    device: &Device,
    cache: ViewMut<'_>,
    kv: View<'_>,
    norm: Norm<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let check = Check("latent_cache");
    let [_, _, width] = check.dims("cache", &cache)?;
    let [rows] = check.dims("slots", &slots)?;
    check.activations("cache", &cache)?;
    check.is("kv", &kv, [rows, width], DType::F32)?;
    let [latent] = check.dims("norm", &norm.weight)?;
    norm.check(check, "norm", latent)?;
    rope.check_whole(check, width.saturating_sub(latent))?;
    check.is("positions", &positions, [rows], DType::U32)?;
    check.dtype("slots", &slots, DType::U32)?;
    match (device, cache.dtype()) {
        (Device::Cuda(gpu), _) => cuda::latent_cache(gpu, cache, kv, norm, rope, positions, slots),
        (Device::Cpu(cpu), DType::F32) => {
            cpu_latent_cache::<f32>(cpu, check, cache, kv, norm, rope, positions, slots)
        }
        (Device::Cpu(cpu), _) => {
            cpu_latent_cache::<bf16>(cpu, check, cache, kv, norm, rope, positions, slots)
        }
    }
}

#[allow(clippy::too_many_arguments)] // Those of the op.
fn cpu_latent_cache<T: Float>(
    cpu: &CpuDevice,
    check: Check,
    cache: ViewMut<'_>,
    kv: View<'_>,
    norm: Norm<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let (positions, slots) = (positions.as_slice::<u32>()?, slots.as_slice::<u32>()?);
    check.indices("positions", positions, rope.positions())?;
    check.indices("slots", slots, cache.shape().dims()[..2].iter().product())?;
    let (width, latent) = (kv.shape().row_elements(), norm.weight.shape().elements());
    let (norm, rope) = (norm.row_norm()?, Rope::new(rope)?);
    let (cache, kv) = (cache.into_mut_slice::<T>()?, kv.as_slice()?);
    // One task: rows with the same slot keep their order.
    cpu.isa.run(Rows { cache, kv, width, latent, norm, rope, positions, slots });
    Ok(())
}

struct Rows<'a, T> {
    cache: &'a mut [T],
    kv: &'a [f32],
    width: usize,
    latent: usize,
    norm: RowNorm<'a>,
    rope: Rope<'a>,
    positions: &'a [u32],
    slots: &'a [u32],
}

impl<T: Float> Kernel for Rows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut scratch = [0.0; MAX_HEAD_DIM];
        let tokens = self.positions.iter().zip(self.slots);
        for (kv, (&position, &slot)) in self.kv.chunks_exact(self.width).zip(tokens) {
            let row = &mut self.cache[slot as usize * self.width..][..self.width];
            let (kv_c, k_pe) = row.split_at_mut(self.latent);
            self.norm.row(s, &kv[..self.latent], kv_c);
            let scratch = &mut scratch[..k_pe.len()];
            scratch.copy_from_slice(&kv[self.latent..]);
            self.rope.rotate(s, position as usize, scratch);
            convert(s, k_pe, scratch);
        }
    }
}
