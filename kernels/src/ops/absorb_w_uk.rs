//! `absorb_w_uk`: queries of latent attention, brought to the width of what the cache keeps.

mod cuda;

use std::ops::Range;

use bytemuck::Zeroable;

use super::{
    attention::{MAX_HEAD_DIM, TILE},
    check::Check,
    rope::{Rope, RopeTable},
};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Block, FloatWeight, Kernel, Parts, Product, Rows, Simd, convert, for_weight},
};

/// `out[t, h] = [w_uk[h] · q_nope, rotated q_rope]`: instead of keys made of each token's latent by `w_uk`ᵀ, queries that
/// meet the latent itself (DeepSeek-V2, arXiv 2405.04434, section 2.1.2). Always so, in prefill and decode, since the two
/// ways round differently.
///
/// - `out`: compute `[T, Hq, R]`, R = L plus the rotated elements
/// - `q`: f32 `[T, Hq·(N + R - L)]`, each head N elements without position, then those to rotate
/// - `w_uk`: any float `[Hq, L, N]`
/// - `rope`: f32 `[P, (R - L) / 2]`
/// - `positions`: u32 `[T]`, rows of the tables
///
/// # Errors
/// When shapes or types do not fit, L or N is over 512, or a position is out of range.
pub fn absorb_w_uk(
    device: &Device,
    out: ViewMut<'_>,
    q: View<'_>,
    w_uk: View<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
) -> Result<()> {
    let check = Check("absorb_w_uk");
    let [rows, _, width] = check.dims("out", &out)?;
    let [heads, latent, nope] = check.dims("w_uk", &w_uk)?;
    check.float("w_uk", &w_uk)?;
    check.is("out", &out, [rows, heads, width], w_uk.dtype().compute())?;
    let rotated = width.saturating_sub(latent);
    check.is("q", &q, [rows, heads * (nope + rotated)], DType::F32)?;
    rope.check_whole(check, rotated)?;
    check.is("positions", &positions, [rows], DType::U32)?;
    check.that(latent.max(nope) <= MAX_HEAD_DIM, || {
        format!("heads of {nope} elements and latents of {latent}, expected at most {MAX_HEAD_DIM}")
    })?;
    match device {
        Device::Cpu(cpu) => for_weight!(w_uk.dtype(), "absorb_w_uk", "w_uk", W => {
            cpu_absorb::<W>(cpu, check, out, q, w_uk, rope, positions)
        }),
        Device::Cuda(gpu) => cuda::absorb_w_uk(gpu, check, out, q, w_uk, rope, positions),
    }
}

/// One task per head and tile of rows.
fn cpu_absorb<W: FloatWeight>(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    q: View<'_>,
    w_uk: View<'_>,
    rope: RopeTable<'_>,
    positions: View<'_>,
) -> Result<()> {
    let positions = positions.as_slice::<u32>()?;
    check.indices("positions", positions, rope.positions())?;
    let [heads, latent, nope] = [0, 1, 2].map(|i| w_uk.shape().dims()[i]);
    let shape = Sizes { heads, latent, nope, rotated: out.shape().dims()[2] - latent };
    let (q, w_uk, rope) = (q.as_slice::<f32>()?, w_uk.as_slice::<W>()?, Rope::new(rope)?);
    let out = Parts::new(out.into_mut_slice::<W::Input>()?);
    let tiles = positions.len().div_ceil(TILE);
    cpu.pool.run(heads * tiles, |task| {
        let (head, first) = (task / tiles, task % tiles * TILE);
        let weight = &w_uk[head * latent * nope..(head + 1) * latent * nope];
        let rows = first..positions.len().min(first + TILE);
        cpu.isa.run(Tile { shape, q, weight, rope: &rope, positions, out: &out, head, rows });
    });
    Ok(())
}

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    latent: usize,
    nope: usize,
    rotated: usize,
}

struct Tile<'a, W: FloatWeight> {
    shape: Sizes,
    q: &'a [f32],
    /// `[L, N]`, of the head.
    weight: &'a [W],
    rope: &'a Rope<'a>,
    positions: &'a [u32],
    out: &'a Parts<'a, W::Input>,
    head: usize,
    rows: Range<usize>,
}

impl<W: FloatWeight> Kernel for Tile<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { heads, latent, nope, rotated } = self.shape;
        let mut input = [W::Input::zeroed(); TILE * MAX_HEAD_DIM];
        let mut absorbed = [0.0; TILE * MAX_HEAD_DIM];
        let mut rope = [0.0; MAX_HEAD_DIM];
        let rope = &mut rope[..rotated];
        let query = |row: usize| {
            let start = (row * heads + self.head) * (nope + rotated);
            self.q[start..start + nope + rotated].split_at(nope)
        };
        for (row, input) in self.rows.clone().zip(input.chunks_exact_mut(nope)) {
            convert(s, input, query(row).0);
        }
        let block = Block {
            input: Rows::new(&input, nope),
            bias: None,
            out: &Parts::new(&mut absorbed),
            out_width: latent,
            out_column: 0,
            rows: 0..self.rows.len(),
            columns: 0..latent,
        };
        let product = Product::<W> { weight: self.weight, block };
        product.run(s);
        for (row, absorbed) in self.rows.clone().zip(absorbed.chunks_exact(latent)) {
            let start = (row * heads + self.head) * (latent + rotated);
            // SAFETY: this head of these rows is no other task's.
            let out = unsafe { self.out.get(start..start + latent + rotated) };
            let (first, second) = out.split_at_mut(latent);
            convert(s, first, absorbed);
            rope.copy_from_slice(query(row).1);
            self.rope.rotate(s, self.positions[row] as usize, rope);
            convert(s, second, rope);
        }
    }
}
