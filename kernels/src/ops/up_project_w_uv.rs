//! `up_project_w_uv`: from latents that attention has summed to each head's values.

mod cuda;

use std::ops::Range;

use super::{
    attention::{MAX_HEAD_DIM, TILE},
    check::Check,
};
use crate::{
    CpuDevice, Device, Result, View, ViewMut,
    cpu::{Block, FloatWeight, Kernel, Parts, Product, Rows, Simd, convert, for_weight},
};

/// `out[t, h] = w_uv[h] · x[t, h]`: what each head's sum of values would be, had they been made of the latents before.
///
/// - `out`: compute `[T, Hq·D]`
/// - `x`: compute `[T, Hq, L]`
/// - `w_uv`: any float `[Hq, D, L]`
///
/// # Errors
/// When shapes or types do not fit, or D is over 512.
pub fn up_project_w_uv(device: &Device, out: ViewMut<'_>, x: View<'_>, w_uv: View<'_>) -> Result<()> {
    let check = Check("up_project_w_uv");
    let [heads, head_dim, latent] = check.dims("w_uv", &w_uv)?;
    let [rows, _, _] = check.dims("x", &x)?;
    check.float("w_uv", &w_uv)?;
    check.is("x", &x, [rows, heads, latent], w_uv.dtype().compute())?;
    check.is("out", &out, [rows, heads * head_dim], w_uv.dtype().compute())?;
    check.that(head_dim <= MAX_HEAD_DIM, || {
        format!("heads have {head_dim} elements, expected at most {MAX_HEAD_DIM}")
    })?;
    match device {
        Device::Cpu(cpu) => {
            for_weight!(w_uv.dtype(), "up_project_w_uv", "w_uv", W => cpu_expand::<W>(cpu, out, x, w_uv))
        }
        Device::Cuda(gpu) => cuda::up_project_w_uv(gpu, check, out, x, w_uv),
    }
}

/// One task per head and tile of rows.
fn cpu_expand<W: FloatWeight>(cpu: &CpuDevice, out: ViewMut<'_>, x: View<'_>, w_uv: View<'_>) -> Result<()> {
    let [heads, head_dim, latent] = [0, 1, 2].map(|i| w_uv.shape().dims()[i]);
    let (rows, x, w_uv) = (x.shape().dims()[0], x.as_slice::<W::Input>()?, w_uv.as_slice::<W>()?);
    let out = Parts::new(out.into_mut_slice::<W::Input>()?);
    let tiles = rows.div_ceil(TILE);
    cpu.pool.run(heads * tiles, |task| {
        let (head, first) = (task / tiles, task % tiles * TILE);
        let weight = &w_uv[head * head_dim * latent..(head + 1) * head_dim * latent];
        let rows = first..rows.min(first + TILE);
        cpu.isa.run(Tile { heads, head, head_dim, latent, x, weight, out: &out, rows });
    });
    Ok(())
}

struct Tile<'a, W: FloatWeight> {
    heads: usize,
    head: usize,
    head_dim: usize,
    latent: usize,
    /// `[T, Hq, L]`
    x: &'a [W::Input],
    /// `[D, L]`, of the head.
    weight: &'a [W],
    out: &'a Parts<'a, W::Input>,
    rows: Range<usize>,
}

impl<W: FloatWeight> Kernel for Tile<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut values = [0.0; TILE * MAX_HEAD_DIM];
        // This head's rows among all heads' of `x`.
        let mut select = [0; TILE];
        for (select, row) in select.iter_mut().zip(self.rows.clone()) {
            *select = (row * self.heads + self.head) as u32;
        }
        let block = Block {
            input: Rows { select: Some(&select), ..Rows::new(self.x, self.latent) },
            bias: None,
            out: &Parts::new(&mut values),
            out_width: self.head_dim,
            out_column: 0,
            rows: 0..self.rows.len(),
            columns: 0..self.head_dim,
        };
        let product = Product::<W> { weight: self.weight, block };
        product.run(s);
        for (row, values) in self.rows.zip(values.chunks_exact(self.head_dim)) {
            let start = (row * self.heads + self.head) * self.head_dim;
            // SAFETY: this head of these rows is no other task's.
            convert(s, unsafe { self.out.get(start..start + self.head_dim) }, values);
        }
    }
}
