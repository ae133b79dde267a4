use half::bf16;

use super::*;
use crate::{
    Tensor,
    ops::{RopeLayout, attention::CacheElement, testing::*},
};

/// Rows of q, k and v, and what is to happen to them.
#[derive(Clone)]
struct Case {
    rows: usize,
    heads: [usize; 2],
    head_dim: usize,
    qkv: Vec<f32>,
    /// Queries apart from keys and values.
    split: bool,
    norm: Option<Norms>,
    rope: Option<Rope>,
    positions: Vec<u32>,
    slots: Vec<u32>,
}

#[derive(Clone)]
struct Norms {
    weights: Option<[Vec<f32>; 2]>,
    span: NormSpan,
    order: NormOrder,
}

#[derive(Clone)]
struct Rope {
    half: usize,
    layout: RopeLayout,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

const BLOCKS: usize = 9;
const POSITIONS: usize = 50;
const EPS: f32 = 1e-3;

impl Case {
    /// Heads that stay as they are.
    fn new(rows: usize, heads: [usize; 2], head_dim: usize) -> Case {
        let mut random = Random::new(8);
        let mut slots: Vec<u32> = (0..(BLOCKS * 16) as u32).collect();
        for i in (1..slots.len()).rev() {
            slots.swap(i, random.below(i + 1));
        }
        slots.truncate(rows);
        Case {
            rows,
            heads,
            head_dim,
            qkv: random.floats(rows * (heads[0] + 2 * heads[1]) * head_dim, 2.0),
            split: false,
            norm: None,
            rope: None,
            positions: (0..rows).map(|_| random.below(POSITIONS) as u32).collect(),
            slots,
        }
    }

    fn split(self) -> Case {
        Case { split: true, ..self }
    }

    fn normed(self, weighted: bool, span: NormSpan, order: NormOrder) -> Case {
        let mut random = Random::new(9);
        let heads = if span == NormSpan::Head { [1, 1] } else { self.heads };
        let weights = weighted.then(|| heads.map(|heads| random.floats(heads * self.head_dim, 1.0)));
        Case { norm: Some(Norms { weights, span, order }), ..self }
    }

    /// Angles whose cos and sin are not of one circle, as YaRN's.
    fn rotated(self, half: usize, layout: RopeLayout) -> Case {
        let angles = Random::new(10).floats(POSITIONS * half, 9.0);
        let cos = angles.iter().map(|x| x.cos() * 1.2).collect();
        let sin = angles.iter().map(|x| x.sin() * 1.2).collect();
        Case { rope: Some(Rope { half, layout, cos, sin }), ..self }
    }

    /// Heads `range` of row `row` of `qkv` as they should be, in f64; `which` is 0 for q, 1 for k.
    fn expected(&self, row: usize, which: usize) -> Vec<f64> {
        let [heads, kv_heads] = self.heads;
        let d = self.head_dim;
        let range = if which == 0 { 0..heads } else { heads..heads + kv_heads };
        let row_start = row * (heads + 2 * kv_heads) * d;
        let all = &self.qkv[row_start + range.start * d..row_start + range.end * d];
        let mut all: Vec<f64> = all.iter().map(|&x| f64::from(x)).collect();
        let span = |norm: &Norms| if norm.span == NormSpan::Head { d } else { range.len() * d };
        let apply = |norm: &Norms, all: &mut Vec<f64>| {
            let weights = norm.weights.as_ref().map(|weights| &weights[which]);
            for part in all.chunks_mut(span(norm)) {
                let mean = part.iter().map(|x| x * x).sum::<f64>() / part.len() as f64;
                let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
                for (i, x) in part.iter_mut().enumerate() {
                    *x *= scale * weights.map_or(1.0, |w| f64::from(w[i]));
                }
            }
        };
        if let Some(norm) = self.norm.as_ref().filter(|norm| norm.order == NormOrder::BeforeRope) {
            apply(norm, &mut all);
        }
        let position = self.positions[row] as usize;
        if let Some(Rope { half, layout, cos, sin }) = &self.rope {
            for head in all.chunks_mut(d) {
                for i in 0..*half {
                    let at = position * half + i;
                    let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                    let (i, j) =
                        if *layout == RopeLayout::HalfSplit { (i, i + half) } else { (2 * i, 2 * i + 1) };
                    (head[i], head[j]) = (head[i] * cos - head[j] * sin, head[j] * cos + head[i] * sin);
                }
            }
        }
        if let Some(norm) = self.norm.as_ref().filter(|norm| norm.order == NormOrder::AfterRope) {
            apply(norm, &mut all);
        }
        all
    }

    /// The first `rows` rows: q, then the keys and values found at their slots, as f32.
    fn run<T: CacheElement + Rounded>(&self, device: &Device, rows: usize) -> [Vec<f32>; 3] {
        self.try_run::<T>(device, rows).unwrap()
    }

    fn try_run<T: CacheElement + Rounded>(&self, device: &Device, rows: usize) -> Result<[Vec<f32>; 3]> {
        let ([heads, kv_heads], d) = (self.heads, self.head_dim);
        let zeros = |shape: [usize; 4]| upload(device, shape, &vec![T::zeroed(); shape.iter().product()]);
        let mut q = empty(device, [rows, heads, d], T::DTYPE);
        let (mut k, mut v) = (zeros([BLOCKS, kv_heads, 16, d]), zeros([BLOCKS, kv_heads, 16, d]));
        let width = (heads + 2 * kv_heads) * d;
        let rows_of = |range: std::ops::Range<usize>| {
            let values: Vec<f32> =
                self.qkv[..rows * width].chunks(width).flat_map(|row| row[range.clone()].to_vec()).collect();
            upload(device, [rows, range.len()], &values)
        };
        let (fused, split) = (rows_of(0..width), [rows_of(0..heads * d), rows_of(heads * d..width)]);
        let weights = self.norm.as_ref().and_then(|norm| norm.weights.as_ref());
        let weights = weights.map(|weights| weights.each_ref().map(|w| upload(device, [w.len()], w)));
        let rope = self.rope.as_ref().map(|rope| {
            let table = |values: &Vec<f32>| upload(device, [POSITIONS, rope.half], values);
            (table(&rope.cos), table(&rope.sin), rope.layout)
        });
        let transform = HeadTransform {
            qk_norm: self.norm.as_ref().map(|norm| QkNorm {
                weights: weights.as_ref().map(|weights| weights.each_ref().map(Tensor::view)),
                span: norm.span,
                order: norm.order,
                eps: EPS,
            }),
            rope: rope.as_ref().map(|(cos, sin, layout)| RopeTable {
                cos: cos.view(),
                sin: sin.view(),
                layout: *layout,
            }),
        };
        let qkv = match self.split {
            false => Qkv::Fused(fused.view()),
            true => Qkv::Split { q: split[0].view(), kv: split[1].view() },
        };
        qkv_rope_cache(
            device,
            q.view_mut()?,
            KvCacheMut { k: k.view_mut()?, v: v.view_mut()? },
            qkv,
            transform,
            upload(device, [rows], &self.positions[..rows]).view(),
            upload(device, [rows], &self.slots[..rows]).view(),
        )?;
        let (k, v) = (to_vec::<T>(device, &k), to_vec::<T>(device, &v));
        let mut found = [widened(&to_vec::<T>(device, &q)), vec![], vec![]];
        for &slot in &self.slots[..rows] {
            let (block, offset) = (slot as usize / 16, slot as usize % 16);
            for head in 0..kv_heads {
                let start = (block * kv_heads + head) * 16 * d;
                for i in 0..d {
                    found[1].push(k[start + key_index::<T>(device, i, offset, 16, d)].widen());
                    found[2].push(v[start + offset * d + i].widen());
                }
            }
        }
        Ok(found)
    }

    fn check(&self) {
        let [heads, kv_heads] = self.heads;
        let all = |which| -> Vec<f64> { (0..self.rows).flat_map(|row| self.expected(row, which)).collect() };
        let values: Vec<f32> = self
            .qkv
            .chunks((heads + 2 * kv_heads) * self.head_dim)
            .flat_map(|row| row[(heads + kv_heads) * self.head_dim..].to_vec())
            .collect();
        for device in every_device() {
            let [q, k, v] = self.run::<f32>(&device, self.rows);
            assert_close(&q, &all(0), 2e-5, "q");
            assert_close(&k, &all(1), 2e-5, "k");
            assert_same_bits(&v, &values, "v");
            let narrow = self.run::<bf16>(&device, self.rows);
            for (narrow, wide) in narrow.iter().zip([&q, &k, &v]) {
                assert_same_bits(narrow, &widened(&rounded::<bf16>(wide)), "bf16");
            }
            for rows in [1, 2, 7, 32] {
                for (part, all) in self.run::<f32>(&device, rows).iter().zip([&q, &k, &v]) {
                    assert_same_bits(part, &all[..part.len()], "batch");
                }
            }
        }
    }
}

#[test]
fn agrees_with_the_formulas_and_does_not_depend_on_the_batch() {
    let (head, before) = (NormSpan::Head, NormOrder::BeforeRope);
    Case::new(100, [4, 2], 64).normed(true, head, before).rotated(32, RopeLayout::HalfSplit).check();
    Case::new(40, [3, 3], 20).rotated(10, RopeLayout::HalfSplit).check();
    Case::new(40, [6, 1], 128).normed(true, head, before).rotated(20, RopeLayout::HalfSplit).check();
}

#[test]
fn rotations_of_neighbours_and_none() {
    Case::new(40, [4, 2], 64).rotated(32, RopeLayout::Interleaved).check();
    Case::new(40, [4, 2], 36).rotated(7, RopeLayout::Interleaved).check();
    Case::new(40, [4, 2], 36).check();
}

#[test]
fn every_norm() {
    let rope = RopeLayout::HalfSplit;
    for weighted in [false, true] {
        for order in [NormOrder::BeforeRope, NormOrder::AfterRope] {
            Case::new(40, [4, 2], 20).normed(weighted, NormSpan::Head, order).rotated(10, rope).check();
            Case::new(40, [4, 2], 20).normed(weighted, NormSpan::Head, order).check();
        }
        let all = Case::new(40, [6, 3], 20).normed(weighted, NormSpan::AllHeads, NormOrder::BeforeRope);
        all.rotated(6, rope).check();
    }
}

#[test]
fn queries_apart_from_keys_and_values() {
    let case = Case::new(40, [4, 2], 20);
    case.clone().split().check();
    case.normed(true, NormSpan::AllHeads, NormOrder::BeforeRope)
        .rotated(10, RopeLayout::Interleaved)
        .split()
        .check();
}

#[test]
fn misfits_are_named() {
    let device = &devices()[0];
    let message = |case: &Case| case.try_run::<f32>(device, case.rows).unwrap_err().to_string();
    let case = || Case::new(3, [2, 1], 8).rotated(4, RopeLayout::HalfSplit);
    let mut bad = case();
    bad.slots[1] = (BLOCKS * 16) as u32;
    assert_eq!(message(&bad), "qkv_rope_cache: slots[1] is 144, expected less than 144");
    let mut bad = case();
    bad.positions[2] = POSITIONS as u32;
    assert_eq!(message(&bad), "qkv_rope_cache: positions[2] is 50, expected less than 50");
    assert_eq!(
        message(&Case::new(3, [2, 1], 8).rotated(5, RopeLayout::Interleaved)),
        "qkv_rope_cache: cannot rotate 10 of a head's 8 elements"
    );
    assert_eq!(
        message(&case().normed(true, NormSpan::AllHeads, NormOrder::AfterRope)),
        "qkv_rope_cache: a norm over all heads cannot come after the rotation"
    );
    let mut bad = case().normed(true, NormSpan::AllHeads, NormOrder::BeforeRope);
    bad.norm.as_mut().unwrap().span = NormSpan::Head;
    assert_eq!(message(&bad), "qkv_rope_cache: `qk_norm.q` has shape [16], expected [8]");
    assert_eq!(
        message(&Case::new(3, [3, 2], 8)),
        "qkv_rope_cache: 3 query heads cannot share 2 key/value heads"
    );
    assert_eq!(
        message(&Case::new(3, [2, 1], 7)),
        "qkv_rope_cache: heads have 7 elements, expected an even number from 2 to 512"
    );
}
