//! Rotary position embedding.

use super::{attention::MAX_HEAD_DIM, check::Check};
use crate::{
    DType, Result, View,
    cpu::{Float, LANES, Simd},
};

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Elements `i` and `i + rotary / 2` of the first `rotary` of a head.
    HalfSplit,
    /// Elements `2i` and `2i + 1` of the first `rotary` of a head.
    Interleaved,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) as a table of angles by position.
#[derive(Clone, Copy)]
pub struct RopeTable<'a> {
    /// f32 `[P, rotary / 2]`
    pub cos: View<'a>,
    /// f32 `[P, rotary / 2]`
    pub sin: View<'a>,
    /// Which elements pair up.
    pub layout: RopeLayout,
}

impl RopeTable<'_> {
    /// The tables fit each other and heads of `head_dim` elements.
    pub(super) fn check(&self, check: Check, head_dim: usize) -> Result<()> {
        let [positions, half] = check.dims("rope.cos", &self.cos)?;
        check.is("rope.cos", &self.cos, [positions, half], DType::F32)?;
        check.is("rope.sin", &self.sin, [positions, half], DType::F32)?;
        check.that(2 * half <= head_dim, || {
            format!("cannot rotate {} of a head's {head_dim} elements", 2 * half)
        })
    }

    /// The tables rotate all of `width` elements.
    pub(super) fn check_whole(&self, check: Check, width: usize) -> Result<()> {
        self.check(check, width)?;
        let rotary = 2 * self.cos.shape().row_elements();
        check.that(rotary == width && width <= MAX_HEAD_DIM, || {
            format!("{width} elements to rotate, the tables rotate {rotary}, the most is {MAX_HEAD_DIM}")
        })
    }

    /// P, the positions that have angles.
    pub(super) fn positions(&self) -> usize {
        self.cos.shape().dims()[0]
    }
}

/// A rotation, on the CPU.
pub(super) struct Rope<'a> {
    /// `[P, half]` each
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    layout: RopeLayout,
}

impl<'a> Rope<'a> {
    pub(super) fn new(table: RopeTable<'a>) -> Result<Rope<'a>> {
        let RopeTable { cos, sin, layout } = table;
        Ok(Rope { cos: cos.as_slice()?, sin: sin.as_slice()?, half: cos.shape().row_elements(), layout })
    }

    /// Rotates the first `2 half` elements of a head.
    #[inline(always)]
    pub(super) fn rotate<S: Simd>(&self, s: S, position: usize, head: &mut [f32]) {
        let start = position * self.half;
        let (cos, sin) = (&self.cos[start..start + self.half], &self.sin[start..start + self.half]);
        let head = &mut head[..2 * self.half];
        match self.layout {
            RopeLayout::HalfSplit => rotate_halves(s, head, cos, sin),
            RopeLayout::Interleaved => rotate_neighbours(head, cos, sin),
        }
    }
}

#[inline(always)]
fn rotate_halves<S: Simd>(s: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    let pairs = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
    for ((first, second), (cos, sin)) in pairs.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
        let (a, b) = (f32::load(s, first), f32::load(s, second));
        let (cos, sin) = (f32::load(s, cos), f32::load(s, sin));
        f32::store(s, first, s.sub(s.mul(a, cos), s.mul(b, sin)));
        f32::store(s, second, s.add(s.mul(b, cos), s.mul(a, sin)));
    }
}

/// The compiler makes vectors of it.
#[inline(always)]
fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = b * cos + a * sin;
    }
}
