//! `sample`: one token per row of logits.

use std::sync::Arc;

use super::check::Check;
use crate::{
    Allocator, CpuDevice, DType, Device, KernelError, Result, Tensor, View, ViewMut,
    cpu::{Float, Kernel, LANES, Parts, Simd, exp},
};

mod adjust;
mod cuda;
mod cut;
mod race;

use cut::{Cut, Histogram};
pub use race::NO_TOKEN;

/// How to draw one token. Applied in this order: repetition, frequency and presence penalties, logit bias,
/// banned tokens, temperature, top-k, top-p, min-p; then a draw keyed by (seed, position).
#[derive(Clone, Debug, PartialEq)]
pub struct SampleParams {
    /// 0 means greedy (ties to the lowest id); otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep only the `top_k` most probable tokens (of equally probable ones those with the lowest ids); 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose probabilities, among those that top-k kept, reach
    /// `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token already in the output.
    pub presence_penalty: f32,
    /// Subtracted once for every time that the token is in the output.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is neutral.
    pub repetition_penalty: f32,
    /// Added to logits: (token, bias); at most [`MAX_BIASED_TOKENS`].
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Tokens that must not be sampled now; at most [`MAX_BANNED`].
    pub banned: Arc<[u32]>,
    /// Tokens seen so far; needed only when a penalty is not neutral.
    pub seen: Option<SeenTokens>,
    /// Key of the random stream.
    pub seed: u64,
    /// Counter in the random stream: the position of the token being sampled.
    pub position: u64,
}

/// Most entries of [`SampleParams::logit_bias`]: with every draw they are sent to the device.
pub const MAX_BIASED_TOKENS: usize = 1024;
/// Most entries of [`SampleParams::banned`], for the same reason.
pub const MAX_BANNED: usize = 2048;

/// Where the device counts the tokens of a sequence for penalties, so that what a draw is sent does not grow with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTokens {
    /// Which slot of the workspace; in one step no other draw has it. The token that is sampled is counted there.
    pub slot: u32,
    /// What the slot holds from now on, each token once. `None`: what it held before.
    pub load: Option<Vec<SeenToken>>,
}

/// A token of the sequence so far, for penalties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenToken {
    /// Its id.
    pub id: u32,
    /// How often it is in the output; 0 when only in the prompt.
    pub output_count: u32,
}

/// A row of logits to draw from.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    /// Index among the rows of the logits.
    pub row: usize,
    /// How.
    pub params: &'a SampleParams,
}

/// What [`sample`] needs: room to work on rows, and the slots of [`SeenTokens`].
#[derive(Debug)]
pub struct SampleWorkspace {
    /// One per thread on the CPU.
    scratch: Vec<Scratch>,
    vocab: usize,
    /// u32 `[slots, V]`: 0 for a token that was not seen, else 1 more than the times it is in the output.
    counts: Tensor,
    /// What a CUDA device is sent.
    packed: cuda::Packed,
}

/// One thread's work space.
#[derive(Debug)]
struct Scratch {
    /// `[V]` logits with penalties and bias; then `(logit - max) / temperature`.
    logits: Vec<f32>,
    /// `[V]` `e^logits`.
    weights: Vec<f32>,
    /// The largest logit of every [`BLOCK`] tokens.
    maxima: Vec<f32>,
    /// Tokens that may survive top-k, top-p and min-p, in ascending order.
    candidates: Vec<u32>,
    histogram: Histogram,
}

/// Tokens that are skipped together.
const BLOCK: usize = 64;

impl Scratch {
    fn new(vocab: usize) -> Result<Scratch, ()> {
        let zeros = |n| bytemuck::allocation::try_zeroed_vec(n);
        let mut candidates = Vec::new();
        candidates.try_reserve_exact(vocab).map_err(|_| ())?;
        Ok(Scratch {
            logits: zeros(vocab)?,
            weights: zeros(vocab)?,
            maxima: zeros(vocab.div_ceil(BLOCK))?,
            candidates,
            histogram: Histogram::new(vocab)?,
        })
    }

    fn bytes(&self) -> usize {
        let elements =
            self.logits.len() + self.weights.len() + self.maxima.len() + self.candidates.capacity();
        4 * elements + self.histogram.bytes()
    }
}

impl SampleWorkspace {
    /// A workspace for rows of `vocab` logits, with `slots` slots, in the memory of `to`. On the processor that is taken
    /// as it is written.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(to: &Allocator<'_>, vocab: usize, slots: usize) -> Result<SampleWorkspace> {
        let device = to.device();
        let refused = |()| KernelError::OutOfMemory { bytes: 24 * vocab, device: device.name().into() };
        let threads = match device {
            Device::Cpu(cpu) => cpu.threads(),
            Device::Cuda(_) => 0,
        };
        let all = (0..threads).map(|_| Scratch::new(vocab)).collect::<Result<Vec<_>, ()>>();
        let scratch = all.map_err(refused)?;
        to.add(scratch.iter().map(Scratch::bytes).sum::<usize>() as u64);
        let counts = to.zeros([slots, vocab], DType::U32)?;
        Ok(SampleWorkspace { scratch, vocab, counts, packed: cuda::Packed::default() })
    }
}

/// Bytes that [`sample`] keeps between its kernels on `device`, for up to `rows` rows at a time of sequences of up to
/// `seen` tokens. [`logprobs`](super::logprobs) of as many rows takes less.
pub fn sample_scratch_bytes(device: &Device, rows: usize, vocab: usize, seen: usize) -> usize {
    match device {
        Device::Cpu(_) => 0,
        Device::Cuda(gpu) => cuda::scratch_bytes(gpu, rows, vocab, seen),
    }
}

/// One token per entry of `rows`, sampled as its [`SampleParams`] say.
///
/// - `out`: u32 `[R]`, an id per entry of `rows`
/// - `logits`: f32 `[.., V]`
///
/// A token is sampled by an exponential race, which is Gumbel-max in other words: the token with the smallest
/// `-ln(u) / probability` wins, u uniform in 0..1 and keyed by (seed, position, token). So no probability needs to be
/// normalised, and the draw depends on nothing but the row's logits and parameters.
///
/// A row that leaves no token to draw gets [`NO_TOKEN`]; the others are not affected.
///
/// # Errors
/// When shapes or types do not fit, or a row or token is out of range.
pub fn sample(
    device: &Device,
    out: ViewMut<'_>,
    logits: View<'_>,
    rows: &[SampleRow<'_>],
    workspace: &mut SampleWorkspace,
) -> Result<()> {
    let check = Check("sample");
    let [count, vocab] = check.dims("logits", &logits)?;
    check.is("out", &out, [rows.len()], DType::U32)?;
    check.that(vocab == workspace.vocab, || {
        format!("{vocab} logits, the workspace is for {}", workspace.vocab)
    })?;
    check_rows(&check, rows, count, workspace)?;
    check.dtype("logits", &logits, DType::F32)?;
    match device {
        Device::Cpu(cpu) => cpu_sample(cpu, out.into_mut_slice()?, logits.as_slice()?, rows, workspace),
        Device::Cuda(gpu) => cuda::sample(gpu, out, logits, rows, workspace),
    }
}

fn check_rows(
    check: &Check,
    rows: &[SampleRow<'_>],
    count: usize,
    workspace: &SampleWorkspace,
) -> Result<()> {
    let (slots, vocab) = (workspace.counts.shape().dims()[0], workspace.vocab);
    for (i, SampleRow { row, params }) in rows.iter().enumerate() {
        check.that(*row < count, || format!("row {row} of {count} rows of logits"))?;
        let lists = [
            ("logit biases", params.logit_bias.len(), MAX_BIASED_TOKENS),
            ("banned tokens", params.banned.len(), MAX_BANNED),
        ];
        for (name, len, most) in lists {
            check.that(len <= most, || format!("row {row}: {len} {name}, at most {most}"))?;
        }
        let biased = params.logit_bias.iter().map(|&(id, _)| id);
        let loaded = params.seen.iter().filter_map(|seen| seen.load.as_ref()).flatten().map(|seen| seen.id);
        let mut ids = params.banned.iter().copied().chain(biased).chain(loaded);
        let outside = ids.find(|&id| id as usize >= vocab);
        check.that(outside.is_none(), || {
            format!("row {row}: token {} of {vocab}", outside.unwrap_or_default())
        })?;
        let Some(slot) = params.slot() else { continue };
        check.that(slot < slots, || format!("row {row}: slot {slot} of {slots}"))?;
        let taken = rows[..i].iter().any(|other| other.params.slot() == Some(slot));
        check.that(!taken, || format!("row {row}: slot {slot} is another row's too"))?;
    }
    Ok(())
}

fn cpu_sample(
    cpu: &CpuDevice,
    out: &mut [u32],
    logits: &[f32],
    rows: &[SampleRow<'_>],
    workspace: &mut SampleWorkspace,
) -> Result<()> {
    let SampleWorkspace { scratch, vocab, counts, .. } = workspace;
    let (vocab, threads) = (*vocab, scratch.len().min(rows.len()));
    let (results, scratch, counts) =
        (Parts::new(out), Parts::new(scratch), Parts::new(counts.as_mut_slice()?));
    cpu.pool.run(threads, |thread| {
        // SAFETY: each task has its own scratch.
        let scratch = unsafe { &mut scratch.get(thread..thread + 1)[0] };
        for i in (thread..rows.len()).step_by(threads) {
            let SampleRow { row, params } = rows[i];
            // SAFETY: each row is handled by one task.
            let out = unsafe { &mut results.get(i..i + 1)[0] };
            let logits = &logits[row * vocab..(row + 1) * vocab];
            // SAFETY: no two rows have the same slot.
            let counts = params.slot().map(|slot| unsafe { counts.get(slot * vocab..(slot + 1) * vocab) });
            cpu.isa.run(Draw { logits, params, counts, scratch, out });
        }
    });
    Ok(())
}

struct Draw<'a> {
    logits: &'a [f32],
    params: &'a SampleParams,
    /// `[V]` of the row's slot; see [`SampleWorkspace`].
    counts: Option<&'a mut [u32]>,
    scratch: &'a mut Scratch,
    out: &'a mut u32,
}

impl Kernel for Draw<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Draw { logits, params, mut counts, scratch, out } = self;
        scratch.logits.copy_from_slice(logits);
        params.adjust(&mut scratch.logits, counts.as_deref_mut());
        *out = match largest(s, &scratch.logits) {
            None => NO_TOKEN,
            Some((id, _)) if params.temperature == 0.0 => id,
            Some((_, max)) => {
                let sum = weigh(s, scratch, max, params.temperature);
                params.draw(scratch, sum)
            }
        };
        if let Some(count) = counts.and_then(|counts| counts.get_mut(*out as usize)) {
            *count = (*count).max(1) + 1;
        }
    }
}

impl SampleParams {
    fn slot(&self) -> Option<usize> {
        self.seen.as_ref().map(|seen| seen.slot as usize)
    }

    /// The smallest logit that min-p leaves, relative to the largest and divided by the temperature.
    fn least(&self) -> f32 {
        if self.min_p > 0.0 { self.min_p.ln() } else { f32::MIN }
    }

    /// Draws a token from weights that add up to `sum`.
    #[inline(always)]
    fn draw(&self, scratch: &mut Scratch, sum: f64) -> u32 {
        let key = race::key(self.seed, self.position);
        let keeps_all = self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0;
        if keeps_all {
            return race::among_all(key, &scratch.weights);
        }
        let cut = self.cut(scratch, sum);
        let kept = |&id: &u32| cut.keeps(id, scratch.logits[id as usize]);
        let runners = scratch.candidates.iter().copied().filter(kept);
        race::among(key, runners.map(|id| (id, scratch.weights[id as usize])))
    }

    /// What top-k, top-p and min-p leave, all of it among the candidates. `sum` is that of all weights.
    fn cut(&self, scratch: &mut Scratch, sum: f64) -> Cut {
        let Scratch { logits, weights, maxima, candidates, histogram } = scratch;
        let top_k = if self.top_k == 0 { logits.len() } else { logits.len().min(self.top_k as usize) };
        let at_least = self.least();
        let threshold = if top_k < logits.len() {
            histogram.threshold_of_count(top_k, maxima)
        } else if self.top_p < 1.0 {
            cut::threshold_of_mass(f64::from(self.top_p), sum, logits.len())
        } else {
            at_least
        };
        candidates.clear();
        for (block, _) in maxima.iter().enumerate().filter(|&(_, &max)| max >= threshold) {
            let ids = block * BLOCK..logits.len().min((block + 1) * BLOCK);
            candidates.extend(ids.filter(|&id| logits[id] >= threshold).map(|id| id as u32));
        }
        let mut cut = Cut::NOTHING;
        if top_k < candidates.len() {
            histogram.fill(candidates, logits, weights, cut);
            cut = histogram.at_count(top_k, candidates, logits, cut);
        }
        if self.top_p < 1.0 {
            histogram.fill(candidates, logits, weights, cut);
            let sum = if top_k < logits.len() { histogram.mass() } else { sum };
            cut = histogram.at_mass(f64::from(self.top_p) * sum, candidates, logits, weights, cut);
        }
        cut.at_least(at_least)
    }
}

/// The largest logit and the lowest id that has it; `None` when one is NaN or infinite, or all are -infinity.
#[inline(always)]
fn largest<S: Simd>(s: S, logits: &[f32]) -> Option<(u32, f32)> {
    let (mut best, mut first) = (f32::NEG_INFINITY, 0);
    // 0 · x is NaN for NaN and the infinities, of which -infinity may be there.
    let mut nan = s.splat(0.0);
    for (block, logits) in logits.chunks(BLOCK).enumerate() {
        let mut max = s.splat(f32::NEG_INFINITY);
        for logits in logits.chunks(LANES) {
            let v = s.keep(f32::load(s, logits), 0..logits.len(), f32::NEG_INFINITY);
            max = s.max(v, max);
            nan = s.mul_add(s.max(s.splat(f32::MIN), v), s.splat(0.0), nan);
        }
        let max = s.max_lane(max);
        if max > best {
            (best, first) = (max, block * BLOCK);
        }
    }
    let id = logits[first..].iter().position(|&logit| logit == best)?;
    (best > f32::NEG_INFINITY && !s.sum(nan).is_nan()).then_some(((first + id) as u32, best))
}

/// `logits = (logits - max) / temperature`, `weights = e^logits`, and the maxima. Returns the sum of weights.
#[inline(always)]
fn weigh<S: Simd>(s: S, scratch: &mut Scratch, max: f32, temperature: f32) -> f64 {
    let Scratch { logits, weights, maxima, .. } = scratch;
    let (max, temperature) = (s.splat(max), s.splat(temperature));
    let mut sum = s.splat(0.0);
    let blocks = logits.chunks_mut(BLOCK).zip(weights.chunks_mut(BLOCK));
    for ((logits, weights), maximum) in blocks.zip(maxima) {
        let mut largest = s.splat(f32::NEG_INFINITY);
        for (logits, weights) in logits.chunks_mut(LANES).zip(weights.chunks_mut(LANES)) {
            let v = s.div(s.sub(f32::load(s, logits), max), temperature);
            let v = s.keep(v, 0..logits.len(), f32::NEG_INFINITY);
            let weight = exp(s, v);
            f32::store(s, logits, v);
            f32::store(s, weights, weight);
            largest = s.max(v, largest);
            sum = s.add(sum, weight);
        }
        *maximum = s.max_lane(largest);
    }
    f64::from(s.sum(sum))
}

#[cfg(test)]
mod tests;
