use std::ops::Range;

use half::{bf16, f16};

use super::*;
use crate::{
    DType, Tensor,
    cpu::FloatWeight,
    ops::{Norm, NormKind, RopeLayout, RopeTable, absorb_w_uk, latent_cache, testing::*, up_project_w_uv},
};

const EPS: f32 = 1e-3;
const SCALE: f32 = 0.2;
const POSITIONS: usize = 540;

/// Sequences through all four ops of latent attention. Elements of a head without position, rotated, of a latent, and
/// of a value.
struct Case<W> {
    heads: usize,
    nope: usize,
    rope: usize,
    latent: usize,
    value: usize,
    block_size: usize,
    /// Per sequence: rows of the step, tokens in the cache.
    lengths: Vec<(usize, usize)>,
    /// Per sequence `[context, Hq·(nope + rope)]` and `[context, latent + rope]`.
    q: Vec<Vec<f32>>,
    kv: Vec<Vec<f32>>,
    norm: Vec<f32>,
    /// `[Hq, latent, nope]` and `[Hq, value, latent]`
    w_uk: Vec<W>,
    w_uv: Vec<W>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

const LENGTHS: [(usize, usize); 4] = [(1, 1), (5, 5), (40, 140), (1, 130)];

impl<W: Rounded + FloatWeight<Input: Rounded>> Case<W> {
    fn new(heads: usize, sizes: [usize; 4], block_size: usize, lengths: &[(usize, usize)]) -> Case<W> {
        let [nope, rope, latent, value] = sizes;
        let mut random = Random::new(20);
        let mut of_each = |width: usize| -> Vec<Vec<f32>> {
            lengths.iter().map(|&(_, context)| random.floats(context * width, 2.0)).collect()
        };
        let (q, kv) = (of_each(heads * (nope + rope)), of_each(latent + rope));
        let angles = random.floats(POSITIONS * rope / 2, 9.0);
        Case {
            heads,
            nope,
            rope,
            latent,
            value,
            block_size,
            lengths: lengths.to_vec(),
            q,
            kv,
            norm: random.floats(latent, 1.0),
            w_uk: rounded(&random.floats(heads * latent * nope, 0.5)),
            w_uv: rounded(&random.floats(heads * value * latent, 0.5)),
            cos: angles.iter().map(|x| x.cos()).collect(),
            sin: angles.iter().map(|x| x.sin()).collect(),
        }
    }

    fn rotated(&self, x: &[f64], position: usize) -> Vec<f64> {
        let half = self.rope / 2;
        let angle =
            |i: usize| (f64::from(self.cos[position * half + i]), f64::from(self.sin[position * half + i]));
        let pair = |i: usize| {
            let ((cos, sin), (a, b)) = (angle(i), (x[2 * i], x[2 * i + 1]));
            [a * cos - b * sin, b * cos + a * sin]
        };
        (0..half).flat_map(pair).collect()
    }

    /// A token's normed latent and rotated part.
    fn cached(&self, sequence: usize, position: usize) -> (Vec<f64>, Vec<f64>) {
        let width = self.latent + self.rope;
        let row = wide(&self.kv[sequence][position * width..(position + 1) * width]);
        let (latent, rope) = row.split_at(self.latent);
        let mean = latent.iter().map(|x| x * x).sum::<f64>() / latent.len() as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        let normed = latent.iter().zip(&self.norm).map(|(x, &w)| x * scale * f64::from(w)).collect();
        (normed, self.rotated(rope, position))
    }

    /// The output of a row by its definition: keys and values of every head, made of the latents.
    fn expected_row(&self, sequence: usize, position: usize, cached: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
        let (nope, rope, latent, value) = (self.nope, self.rope, self.latent, self.value);
        let mut out = vec![];
        for head in 0..self.heads {
            let start = (position * self.heads + head) * (nope + rope);
            let q = wide(&self.q[sequence][start..start + nope + rope]);
            let q_rope = self.rotated(&q[nope..], position);
            let w_uk = |l: usize, n: usize| f64::from(self.w_uk[(head * latent + l) * nope + n].widen());
            let w_uv = |v: usize, l: usize| f64::from(self.w_uv[(head * value + v) * latent + l].widen());
            let mut weights = vec![];
            for (normed, rotated) in &cached[..=position] {
                let key = (0..nope).map(|n| (0..latent).map(|l| normed[l] * w_uk(l, n)).sum::<f64>());
                let content: f64 = key.zip(&q).map(|(k, q)| k * q).sum();
                let place: f64 = rotated.iter().zip(&q_rope).map(|(k, q)| k * q).sum();
                weights.push((f64::from(SCALE) * (content + place)).exp());
            }
            let sum: f64 = weights.iter().sum();
            for v in 0..value {
                let of = |normed: &[f64]| (0..latent).map(|l| normed[l] * w_uv(v, l)).sum::<f64>();
                out.push(
                    weights.iter().zip(cached).map(|(weight, (normed, _))| weight / sum * of(normed)).sum(),
                );
            }
        }
        out
    }

    fn expected(&self) -> Vec<f64> {
        let mut out = vec![];
        for (i, &(rows, context)) in self.lengths.iter().enumerate() {
            let cached: Vec<_> = (0..context).map(|position| self.cached(i, position)).collect();
            for position in context - rows..context {
                out.extend(self.expected_row(i, position, &cached));
            }
        }
        out
    }

    /// The last `rows` rows of each of these sequences as one step, over caches that a step before filled.
    fn run(&self, device: &Device, sequences: &[(usize, usize)]) -> Vec<f32> {
        let (heads, width, bs) = (self.heads, self.latent + self.rope, self.block_size);
        let table_width = self.lengths.iter().map(|&(_, context)| context.div_ceil(bs)).max().unwrap() + 1;
        let blocks = sequences.len() * table_width;
        let block_of = |n: usize, position: usize| blocks - 1 - (position / bs * sequences.len() + n);
        let mut cache = empty(device, [blocks, bs, width], W::DTYPE.compute());
        let (mut tables, mut starts, mut contexts) = (vec![u32::MAX; blocks], vec![0], vec![]);
        let (mut q, mut positions) = (vec![], vec![]);
        for (n, &(i, rows)) in sequences.iter().enumerate() {
            let context = self.lengths[i].1;
            for position in 0..context {
                tables[n * table_width + position / bs] = block_of(n, position) as u32;
            }
            let slot = |position: usize| (block_of(n, position) * bs + position % bs) as u32;
            self.fill(device, &mut cache, i, 0..context, &(0..context).map(slot).collect::<Vec<_>>());
            let row = heads * (self.nope + self.rope);
            q.extend_from_slice(&self.q[i][(context - rows) * row..context * row]);
            positions.extend((context - rows..context).map(|position| position as u32));
            starts.push(starts[n] + rows as u32);
            contexts.push(context as u32);
        }
        let rows = positions.len();
        let compute = W::DTYPE.compute();
        let mut absorbed = empty(device, [rows, heads, width], compute);
        let mut summed = empty(device, [rows, heads, self.latent], compute);
        let mut out = empty(device, [rows, heads * self.value], compute);
        let (cos, sin) = self.tables(device);
        absorb_w_uk(
            device,
            absorbed.view_mut().unwrap(),
            upload(device, [rows, heads * (self.nope + self.rope)], &q).view(),
            upload(device, [heads, self.latent, self.nope], &self.w_uk).view(),
            table(&cos, &sin),
            upload(device, [rows], &positions).view(),
        )
        .unwrap();
        latent_attention(
            device,
            summed.view_mut().unwrap(),
            absorbed.view(),
            cache.view(),
            PagedSequences {
                cu_seqlens_q: upload(device, [starts.len()], &starts).view(),
                context_lens: upload(device, [contexts.len()], &contexts).view(),
                block_tables: upload(device, [sequences.len(), table_width], &tables).view(),
            },
            SCALE,
        )
        .unwrap();
        let w_uv = upload(device, [heads, self.value, self.latent], &self.w_uv);
        up_project_w_uv(device, out.view_mut().unwrap(), summed.view(), w_uv.view()).unwrap();
        widened(&to_vec::<W::Input>(device, &out))
    }

    fn tables(&self, device: &Device) -> (Tensor, Tensor) {
        let table = |values| upload(device, [POSITIONS, self.rope / 2], values);
        (table(&self.cos), table(&self.sin))
    }

    fn fill(&self, device: &Device, cache: &mut Tensor, sequence: usize, at: Range<usize>, slots: &[u32]) {
        let width = self.latent + self.rope;
        let positions: Vec<u32> = at.clone().map(|position| position as u32).collect();
        let (cos, sin) = self.tables(device);
        let norm = upload(device, [self.latent], &self.norm);
        latent_cache(
            device,
            cache.view_mut().unwrap(),
            upload(device, [at.len(), width], &self.kv[sequence][at.start * width..at.end * width]).view(),
            Norm { kind: NormKind::Rms, weight: norm.view(), bias: None, eps: EPS },
            table(&cos, &sin),
            upload(device, [at.len()], &positions).view(),
            upload(device, [at.len()], slots).view(),
        )
        .unwrap();
    }

    fn check(&self, tolerance: f64) {
        let all: Vec<(usize, usize)> = self.lengths.iter().map(|l| l.0).enumerate().collect();
        let expected = self.expected();
        let width = self.heads * self.value;
        let mut first: Option<(String, Vec<f32>)> = None;
        for device in every_device() {
            let found = self.run(&device, &all);
            assert_close(&found, &expected, tolerance, "latent attention");
            match &first {
                Some((seen, bits)) if *seen == kind(&device) => assert_same_bits(&found, bits, "threads"),
                _ => first = Some((kind(&device), found.clone())),
            }
            // The last rows alone, as the last chunk of a prefill or a decode.
            let mut end = 0;
            for (i, &(rows, _)) in self.lengths.iter().enumerate() {
                end += rows;
                for last in [1, 2, 7, 32].into_iter().filter(|&last| last <= rows) {
                    let part = self.run(&device, &[(i, last)]);
                    assert_same_bits(&part, &found[(end - last) * width..end * width], "chunk");
                }
            }
        }
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn table<'a>(cos: &'a Tensor, sin: &'a Tensor) -> RopeTable<'a> {
    RopeTable { cos: cos.view(), sin: sin.view(), layout: RopeLayout::Interleaved }
}

#[test]
fn the_four_ops_are_latent_attention_and_no_row_depends_on_another() {
    Case::<f32>::new(3, [12, 6, 20, 10], 16, &LENGTHS).check(1e-5);
    Case::<f16>::new(5, [16, 8, 40, 24], 32, &LENGTHS).check(1e-5);
    Case::<bf16>::new(4, [32, 16, 64, 32], 16, &LENGTHS).check(0.06);
}

#[test]
fn contexts_of_several_splits() {
    let lengths = [(70, 300), (3, 520)];
    Case::<f32>::new(2, [6, 4, 10, 6], 16, &lengths).check(1e-5);
    Case::<bf16>::new(3, [24, 8, 40, 16], 16, &lengths).check(0.06);
}

#[test]
fn the_sizes_of_published_models() {
    // Outputs are up to 16, whose neighbours in bf16 are 1/16 away.
    Case::<bf16>::new(1, [128, 64, 512, 128], 16, &[(2, 3), (7, 40)]).check(0.25);
}

/// On a GPU such rows do not go through the tensor cores.
#[test]
fn bf16_rows_that_are_no_whole_vectors() {
    Case::<bf16>::new(3, [12, 6, 20, 10], 16, &LENGTHS).check(0.06);
}

#[test]
fn misfits_are_named() {
    let device = &devices()[0];
    let zeros = |shape: [usize; 3]| Tensor::zeros(shape, DType::F32).unwrap();
    let matrix = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32).unwrap();
    let (cos, sin) = (matrix([9, 2]), matrix([9, 2]));
    let weight = Tensor::zeros([6], DType::F32).unwrap();
    let norm = Norm { kind: NormKind::Rms, weight: weight.view(), bias: None, eps: EPS };

    let cached = |width: usize, position: u32, slot: u32| {
        let (mut cache, kv) = (zeros([2, 16, width]), matrix([1, width]));
        let (position, slot) = (upload(device, [1], &[position]), upload(device, [1], &[slot]));
        let (position, slot) = (position.view(), slot.view());
        latent_cache(device, cache.view_mut().unwrap(), kv.view(), norm, table(&cos, &sin), position, slot)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(cached(10, 0, 32), "latent_cache: slots[0] is 32, expected less than 32");
    assert_eq!(cached(10, 9, 0), "latent_cache: positions[0] is 9, expected less than 9");
    assert_eq!(cached(12, 0, 0), "latent_cache: 6 elements to rotate, the tables rotate 4, the most is 512");

    let (mut absorbed, q, w_uk) = (zeros([1, 2, 10]), matrix([1, 13]), zeros([2, 6, 3]));
    let position = upload(device, [1], &[0u32]);
    let view = absorbed.view_mut().unwrap();
    let error = absorb_w_uk(device, view, q.view(), w_uk.view(), table(&cos, &sin), position.view());
    assert_eq!(error.unwrap_err().to_string(), "absorb_w_uk: `q` has shape [1, 13], expected [1, 14]");

    let (mut out, q, cache) = (zeros([1, 2, 11]), zeros([1, 2, 10]), zeros([2, 16, 10]));
    let (starts, lengths) = (upload(device, [2], &[0u32, 1]), upload(device, [1], &[5u32]));
    let tables = upload(device, [1, 1], &[0u32]);
    let sequences = PagedSequences {
        cu_seqlens_q: starts.view(),
        context_lens: lengths.view(),
        block_tables: tables.view(),
    };
    let error = latent_attention(device, out.view_mut().unwrap(), q.view(), cache.view(), sequences, 1.0);
    assert_eq!(
        error.unwrap_err().to_string(),
        "latent_attention: latents have 11 of 10 elements, expected 1 to 10"
    );

    let (mut out, x, w_uv) = (matrix([1, 8]), zeros([1, 2, 6]), zeros([2, 5, 6]));
    let error = up_project_w_uv(device, out.view_mut().unwrap(), x.view(), w_uv.view());
    assert_eq!(error.unwrap_err().to_string(), "up_project_w_uv: `out` has shape [1, 8], expected [1, 10]");
}
