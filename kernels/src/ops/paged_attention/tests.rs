use std::ops::Range;

use half::bf16;

use super::*;
use crate::{
    Tensor,
    ops::{attention::CacheElement, testing::*},
};

/// Sequences with keys and values in scattered KV blocks; every slot that no row sees holds NaN.
struct Case<T> {
    heads: [usize; 2],
    head_dim: usize,
    block_size: usize,
    mask: AttentionMask,
    softcap: Option<f32>,
    temperature: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    slopes: Option<Vec<f32>>,
    /// Per sequence: rows of the step, tokens in the cache.
    lengths: Vec<(usize, usize)>,
    q: Vec<T>,
    /// Per sequence `[context, Hkv, D]`.
    keys: Vec<Vec<T>>,
    values: Vec<Vec<T>>,
}

const SCALE: f32 = 0.3;
const LENGTHS: [(usize, usize); 5] = [(1, 1), (5, 5), (40, 140), (1, 200), (64, 64)];

impl<T: CacheElement + Rounded> Case<T> {
    fn new(heads: [usize; 2], head_dim: usize, block_size: usize, lengths: &[(usize, usize)]) -> Case<T> {
        let mut random = Random::new(9);
        let mut values = |n: usize| -> Vec<T> { rounded(&random.floats(n, 2.0)) };
        let rows: usize = lengths.iter().map(|&(rows, _)| rows).sum();
        let mut cached =
            || lengths.iter().map(|&(_, context)| values(context * heads[1] * head_dim)).collect();
        let (keys, vs) = (cached(), cached());
        let q = values(rows * heads[0] * head_dim);
        let mask = AttentionMask::Full;
        let (softcap, temperature, sinks, slopes) = (None, None, None, None);
        let lengths = lengths.to_vec();
        Case {
            heads,
            head_dim,
            block_size,
            mask,
            softcap,
            temperature,
            sinks,
            slopes,
            lengths,
            q,
            keys,
            values: vs,
        }
    }

    fn masked(self, mask: AttentionMask) -> Case<T> {
        Case { mask, ..self }
    }

    fn capped(self, cap: f32) -> Case<T> {
        Case { softcap: Some(cap), ..self }
    }

    fn with_temperature(self) -> Case<T> {
        let longest = self.lengths.iter().map(|&(_, context)| context).max().unwrap();
        Case { temperature: Some(Random::new(11).floats(longest, 2.0)), ..self }
    }

    fn with_sinks(self) -> Case<T> {
        let mut sinks = Random::new(12).floats(self.heads[0], 4.0);
        sinks[0] = f32::NEG_INFINITY;
        Case { sinks: Some(sinks), ..self }
    }

    fn with_slopes(self) -> Case<T> {
        let slopes = Random::new(13).floats(self.heads[0], 0.2);
        Case { slopes: Some(slopes), ..self }
    }

    /// First and last row of a sequence.
    fn rows(&self, sequence: usize) -> Range<usize> {
        let start = self.lengths[..sequence].iter().map(|&(rows, _)| rows).sum();
        start..start + self.lengths[sequence].0
    }

    /// The first position that a query sees.
    fn first(&self, position: usize) -> usize {
        let sees = |key: &usize| match self.mask {
            AttentionMask::Full => true,
            AttentionMask::Sliding { window } => position - key < window,
            AttentionMask::Chunked { chunk } => key / chunk == position / chunk,
        };
        (0..=position).find(sees).unwrap()
    }

    fn expected(&self) -> Vec<f64> {
        let (d, [heads, kv_heads]) = (self.head_dim, self.heads);
        let mut out = vec![];
        for (i, &(rows, context)) in self.lengths.iter().enumerate() {
            for (row, position) in self.rows(i).zip(context - rows..) {
                for head in 0..heads {
                    let kv_head = head * kv_heads / heads;
                    let wide = |x: &[T]| -> Vec<f64> { x.iter().map(|&x| f64::from(x.widen())).collect() };
                    let of = |all: &[T], at: usize| wide(&all[(at * kv_heads + kv_head) * d..][..d]);
                    let q = wide(&self.q[(row * heads + head) * d..][..d]);
                    let first = self.first(position);
                    let score = |at: usize| {
                        let dot: f64 = of(&self.keys[i], at).iter().zip(&q).map(|(k, q)| k * q).sum();
                        let score = dot * f64::from(SCALE);
                        let capped = match self.softcap.map(f64::from) {
                            Some(cap) => cap * (score / cap).tanh(),
                            None => score,
                        };
                        let temperature = self.temperature.as_ref().map_or(1.0, |t| f64::from(t[position]));
                        let slope = self.slopes.as_ref().map_or(0.0, |slopes| f64::from(slopes[head]));
                        capped * temperature + slope * (at as f64 - position as f64)
                    };
                    let weights: Vec<f64> = (first..=position).map(|at| score(at).exp()).collect();
                    let sink = self.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
                    let sum: f64 = weights.iter().sum::<f64>() + sink;
                    let mut row = vec![0.0; d];
                    for (at, weight) in (first..).zip(weights) {
                        for (out, v) in row.iter_mut().zip(of(&self.values[i], at)) {
                            *out += weight / sum * v;
                        }
                    }
                    out.extend(row);
                }
            }
        }
        out
    }

    /// The last `rows` rows of each of these sequences, as one step.
    fn run(&self, device: &Device, sequences: &[(usize, usize)]) -> Vec<f32> {
        let (d, [heads, kv_heads], bs) = (self.head_dim, self.heads, self.block_size);
        let width = self.lengths.iter().map(|&(_, context)| context.div_ceil(bs)).max().unwrap() + 1;
        let blocks = sequences.len() * width;
        let nan = T::from_bits_of_nan();
        let mut k = vec![nan; blocks * kv_heads * bs * d];
        let mut v = k.clone();
        let mut tables = vec![u32::MAX; sequences.len() * width];
        let (mut q, mut starts, mut contexts) = (vec![], vec![0], vec![]);
        for (n, &(i, rows)) in sequences.iter().enumerate() {
            let context = self.lengths[i].1;
            for position in self.first(context - rows)..context {
                // Blocks of different sequences interleave, in reverse.
                let block = blocks - 1 - (position / bs * sequences.len() + n);
                tables[n * width + position / bs] = block as u32;
                for head in 0..kv_heads {
                    let start = (block * kv_heads + head) * bs * d;
                    let from = (position * kv_heads + head) * d;
                    for at in 0..d {
                        let key = key_index::<T>(device, at, position % bs, bs, d);
                        k[start + key] = self.keys[i][from + at];
                        v[start + position % bs * d + at] = self.values[i][from + at];
                    }
                }
            }
            let end = self.rows(i).end;
            q.extend_from_slice(&self.q[(end - rows) * heads * d..end * heads * d]);
            starts.push(starts[n] + rows as u32);
            contexts.push(context as u32);
        }
        let rows = q.len() / (heads * d);
        let mut out = empty(device, [rows, heads * d], T::DTYPE);
        let cache = [blocks, kv_heads, bs, d];
        let vector = |x: &Option<Vec<f32>>| x.as_ref().map(|x| upload(device, [x.len()], x));
        let (sinks, slopes) = (vector(&self.sinks), vector(&self.slopes));
        let temperature = vector(&self.temperature);
        paged_attention(
            device,
            out.view_mut().unwrap(),
            upload(device, [rows, heads, d], &q).view(),
            KvCache { k: upload(device, cache, &k).view(), v: upload(device, cache, &v).view() },
            PagedSequences {
                cu_seqlens_q: upload(device, [starts.len()], &starts).view(),
                context_lens: upload(device, [contexts.len()], &contexts).view(),
                block_tables: upload(device, [sequences.len(), width], &tables).view(),
            },
            AttentionParams {
                scale: SCALE,
                mask: self.mask,
                softcap: self.softcap,
                temperature: temperature.as_ref().map(Tensor::view),
                sinks: sinks.as_ref().map(Tensor::view),
                alibi_slopes: slopes.as_ref().map(Tensor::view),
            },
        )
        .unwrap();
        widened(&to_vec::<T>(device, &out))
    }

    fn check(&self, tolerance: f64) {
        let all: Vec<(usize, usize)> = self.lengths.iter().map(|l| l.0).enumerate().collect();
        let expected = self.expected();
        let width = self.heads[0] * self.head_dim;
        let mut first: Option<(String, Vec<f32>)> = None;
        for device in every_device() {
            let found = self.run(&device, &all);
            assert_close(&found, &expected, tolerance, "paged_attention");
            match &first {
                Some((seen, bits)) if *seen == kind(&device) => assert_same_bits(&found, bits, "threads"),
                _ => first = Some((kind(&device), found.clone())),
            }
            // The last rows alone, as the last chunk of a prefill or a decode.
            for (i, &(rows, _)) in self.lengths.iter().enumerate() {
                for last in [1, 2, 7, 32].into_iter().filter(|&last| last <= rows) {
                    let end = self.rows(i).end;
                    let part = self.run(&device, &[(i, last)]);
                    assert_same_bits(&part, &found[(end - last) * width..end * width], "chunk");
                }
            }
            // All sequences decoding at once.
            let decode: Vec<(usize, usize)> = (0..all.len()).map(|i| (i, 1)).collect();
            let found_decode = self.run(&device, &decode);
            for (i, row) in found_decode.chunks(width).enumerate() {
                let end = self.rows(i).end;
                assert_same_bits(row, &found[(end - 1) * width..end * width], "decode");
            }
        }
    }
}

/// A NaN of each element type.
trait Nan {
    fn from_bits_of_nan() -> Self;
}
impl<T: CacheElement> Nan for T {
    fn from_bits_of_nan() -> T {
        bytemuck::cast_slice(&[u32::MAX])[0]
    }
}

#[test]
fn full_attention_agrees_with_f64_and_no_row_depends_on_another() {
    Case::<f32>::new([4, 2], 32, 16, &LENGTHS).check(2e-6);
    Case::<f32>::new([7, 1], 20, 32, &LENGTHS).check(2e-6);
    Case::<bf16>::new([4, 2], 64, 16, &LENGTHS).check(0.01);
    Case::<bf16>::new([3, 3], 18, 16, &LENGTHS).check(0.01);
    Case::<f32>::new([40, 2], 8, 16, &[(3, 90)]).check(2e-6);
}

#[test]
fn sliding_windows_see_only_their_keys() {
    for window in [1, 3, 16, 70, 1000] {
        let mask = AttentionMask::Sliding { window };
        Case::<f32>::new([4, 2], 16, 16, &LENGTHS).masked(mask).check(2e-6);
        Case::<bf16>::new([4, 2], 16, 16, &LENGTHS).masked(mask).check(0.01);
    }
}

#[test]
fn chunks_see_only_their_keys() {
    for chunk in [1, 3, 16, 70, 1000] {
        let mask = AttentionMask::Chunked { chunk };
        Case::<f32>::new([4, 2], 16, 16, &LENGTHS).masked(mask).check(2e-6);
    }
}

#[test]
fn softcaps_temperatures_sinks_and_alibi() {
    let case = || Case::<f32>::new([4, 2], 16, 16, &LENGTHS);
    case().capped(1.5).check(2e-6);
    case().with_sinks().check(2e-6);
    case().with_slopes().check(4e-6);
    case().with_temperature().check(4e-6);
    let sliding = AttentionMask::Sliding { window: 7 };
    case().masked(sliding).with_sinks().check(2e-6);
    case().masked(sliding).capped(2.0).with_temperature().with_slopes().with_sinks().check(4e-6);
    Case::<bf16>::new([6, 2], 16, 16, &LENGTHS).capped(2.0).with_slopes().with_sinks().check(0.01);
}

#[test]
fn contradictions_are_named() {
    let zeros = |shape: [usize; 4]| Tensor::zeros(shape, DType::F32).unwrap();
    let (k, v) = (zeros([4, 1, 16, 8]), zeros([4, 1, 16, 8]));
    let q = Tensor::zeros([2, 1, 8], DType::F32).unwrap();
    let slopes = Tensor::zeros([3], DType::F32).unwrap();
    let plain = AttentionParams::new(1.0, AttentionMask::Full);
    let message_of = |params, starts: &[u32], contexts: &[u32], table: &[u32]| {
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let sequences = PagedSequences {
            cu_seqlens_q: View::from_slice([starts.len()], starts).unwrap(),
            context_lens: View::from_slice([contexts.len()], contexts).unwrap(),
            block_tables: View::from_slice([1, table.len()], table).unwrap(),
        };
        let cache = KvCache { k: k.view(), v: v.view() };
        paged_attention(&devices()[0], out.view_mut().unwrap(), q.view(), cache, sequences, params)
            .map_or_else(|error| error.to_string(), |()| "paged_attention: fine".into())
    };
    let message = |starts: &[u32], contexts: &[u32], table: &[u32]| {
        let message = message_of(plain, starts, contexts, table);
        message.strip_prefix("paged_attention: ").unwrap().to_string()
    };
    assert_eq!(message(&[0, 2], &[20], &[3, 0]), "fine");
    assert_eq!(message(&[0, 2], &[20], &[3, 4]), "block_tables[1] is 4, expected less than 4");
    assert_eq!(message(&[0, 2], &[33], &[3, 0]), "sequence 0 has 33 tokens, its block table holds 32");
    assert_eq!(message(&[0, 2], &[1], &[3, 0]), "sequence 0 has rows 0..2 and 1 tokens in the cache");
    assert_eq!(message(&[0, 1], &[20], &[3, 0]), "cu_seqlens_q runs from 0 to 1, expected 0 to 2");
    let sinks = Some(slopes.view());
    for (params, expected) in [
        (AttentionParams { mask: AttentionMask::Sliding { window: 0 }, ..plain }, "the window is empty"),
        (AttentionParams { mask: AttentionMask::Chunked { chunk: 0 }, ..plain }, "the chunks are empty"),
        (AttentionParams { softcap: Some(-2.0), ..plain }, "the softcap is -2, expected a positive number"),
        (AttentionParams { temperature: sinks, ..plain }, "sequence 0 has 20 tokens, temperatures end at 3"),
        (AttentionParams { sinks, ..plain }, "`sinks` has shape [3], expected [1]"),
        (AttentionParams { alibi_slopes: sinks, ..plain }, "`alibi_slopes` has shape [3], expected [1]"),
    ] {
        let found = message_of(params, &[0, 2], &[20], &[3, 0]);
        assert_eq!(found, format!("paged_attention: {expected}"));
    }
}

/// Contexts of several splits, which a CUDA device shares out to thread blocks or not, as there are many or few.
#[test]
fn long_contexts_do_not_depend_on_the_batch() {
    let lengths = [(1, 700), (20, 530), (3, 256), (1, 257)];
    Case::<f32>::new([2, 1], 16, 16, &lengths).check(2e-6);
    Case::<f32>::new([3, 1], 18, 32, &lengths).with_sinks().check(2e-6);
    Case::<bf16>::new([4, 1], 32, 16, &lengths).check(0.01);
    let mask = AttentionMask::Sliding { window: 300 };
    Case::<bf16>::new([2, 2], 24, 32, &lengths).masked(mask).with_sinks().check(0.01);
    let mask = AttentionMask::Chunked { chunk: 280 };
    Case::<bf16>::new([20, 1], 16, 16, &lengths).masked(mask).with_slopes().check(0.01);
}

#[test]
fn every_head_size() {
    let lengths = [(1, 300), (9, 70)];
    for head_dim in [8, 40, 64, 80, 96, 112, 128, 160, 192, 200, 256, 512] {
        Case::<bf16>::new([2, 1], head_dim, 16, &lengths).check(0.015);
    }
    Case::<bf16>::new([2, 1], 36, 16, &lengths).check(0.01);
    Case::<f32>::new([2, 1], 512, 16, &lengths).check(1e-5);
}

/// Tiles for prefill, whose rows must have the bits of decode: chunks end within tiles, contexts within spans.
#[test]
fn prefill_has_the_bits_of_decode() {
    let lengths = [(70, 333), (1, 40), (37, 37)];
    for (head_dim, heads) in
        [(64, [5, 1]), (80, [6, 2]), (96, [7, 1]), (112, [4, 2]), (128, [8, 1]), (192, [3, 1]), (256, [2, 1])]
    {
        Case::<bf16>::new(heads, head_dim, 16, &lengths).check(0.015);
    }
    Case::<bf16>::new([16, 1], 64, 32, &[(9, 270)]).check(0.015);
    Case::<bf16>::new([2, 2], 128, 64, &lengths).check(0.015);
}

#[test]
fn prefill_tiles_mask_and_change_scores() {
    let case = |head_dim| Case::<bf16>::new([4, 1], head_dim, 16, &[(90, 400), (50, 50)]);
    case(128).masked(AttentionMask::Sliding { window: 100 }).with_sinks().check(0.01);
    case(64).masked(AttentionMask::Chunked { chunk: 150 }).capped(2.0).check(0.01);
    case(96).masked(AttentionMask::Sliding { window: 17 }).with_temperature().with_slopes().check(0.015);
    case(256).capped(2.0).with_sinks().check(0.01);
}
