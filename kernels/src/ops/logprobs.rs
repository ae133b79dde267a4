//! `logprobs`: how probable tokens were.

mod cuda;

use std::iter;

use super::check::Check;
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Parts, Simd, exp},
};

/// A row of logits and what to report of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogprobRow {
    /// Index among the rows of the logits.
    pub row: usize,
    /// The token whose log-probability is wanted.
    pub target: LogprobTarget,
    /// How many of the most probable tokens are wanted.
    pub top: usize,
}

/// Which token's log-probability is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogprobTarget {
    /// This one's.
    Token(u32),
    /// That of the token which was sampled as number so and so.
    Sampled(usize),
}

/// Words of a report before its most probable tokens: log-probability, log of the sum, rank.
const HEAD: usize = 3;

impl LogprobRow {
    /// Words that [`logprobs`] writes for it; `vocab` is the number of tokens.
    pub fn words(&self, vocab: usize) -> usize {
        HEAD + 2 * self.top.min(vocab)
    }
}

/// Log-probabilities at one position, from the softmax of the logits at temperature 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// The token's own.
    pub logprob: f32,
    /// Its place among all tokens, from 1; of equally probable ones the lowest id comes first.
    pub rank: u32,
    /// The most probable tokens, best first; ties to the lowest id.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// What [`logprobs`] wrote for one row.
    pub fn unpack(words: &[u32]) -> TokenLogprobs {
        let [logprob, log_sum, rank, top @ ..] = words else { return TokenLogprobs::default() };
        let top = top.as_chunks::<2>().0.iter().map(|&[id, logit]| (id, f32::from_bits(logit)));
        let mut top: Vec<(u32, f32)> = top.collect();
        // -0 and 0 are equal.
        top.sort_unstable_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)));
        top.iter_mut().for_each(|(_, logit)| *logit -= f32::from_bits(*log_sum));
        TokenLogprobs { logprob: f32::from_bits(*logprob), rank: *rank, top }
    }
}

/// Log-softmax of each row's target, its rank and the row's most probable tokens. All log-probabilities of a row are
/// NaN when one of its logits is NaN or infinite, or all are -infinity; the other rows are not affected. So is the
/// target's when it is [`NO_TOKEN`](super::NO_TOKEN).
///
/// - `out`: u32 `[n]`, for every entry of `rows` its [`words`](LogprobRow::words), which [`TokenLogprobs::unpack`] reads
/// - `logits`: f32 `[.., V]`
/// - `sampled`: u32 `[D]` tokens, of which targets may be one
///
/// # Errors
/// When shapes or types do not fit, or a row or target is out of range.
pub fn logprobs(
    device: &Device,
    out: ViewMut<'_>,
    logits: View<'_>,
    sampled: View<'_>,
    rows: &[LogprobRow],
) -> Result<()> {
    let check = Check("logprobs");
    let [count, vocab] = check.dims("logits", &logits)?;
    let [draws] = check.dims("sampled", &sampled)?;
    check.dtype("sampled", &sampled, DType::U32)?;
    let words = rows.iter().map(|row| row.words(vocab)).sum::<usize>();
    check.is("out", &out, [words], DType::U32)?;
    for row in rows {
        check.that(row.row < count, || format!("row {} of {count} rows of logits", row.row))?;
        let (index, all) = match row.target {
            LogprobTarget::Token(token) => (token as usize, vocab),
            LogprobTarget::Sampled(number) => (number, draws),
        };
        check.that(index < all, || format!("{:?} of {all}", row.target))?;
    }
    check.dtype("logits", &logits, DType::F32)?;
    match device {
        Device::Cpu(cpu) => {
            let (logits, sampled) = (logits.as_slice()?, sampled.as_slice()?);
            cpu_logprobs(cpu, out.into_mut_slice()?, logits, vocab, sampled, rows);
            Ok(())
        }
        Device::Cuda(gpu) => cuda::logprobs(gpu, out, logits, sampled, rows),
    }
}

fn cpu_logprobs(
    cpu: &CpuDevice,
    out: &mut [u32],
    logits: &[f32],
    vocab: usize,
    sampled: &[u32],
    rows: &[LogprobRow],
) {
    let places: Vec<usize> = places(rows, vocab).collect();
    let results = Parts::new(out);
    cpu.pool.run(rows.len(), |i| {
        let LogprobRow { row, target, top } = rows[i];
        let target = match target {
            LogprobTarget::Token(token) => token,
            LogprobTarget::Sampled(number) => sampled[number],
        };
        // SAFETY: the words of different rows do not overlap.
        let out = unsafe { results.get(places[i]..places[i] + rows[i].words(vocab)) };
        let logits = &logits[row * vocab..(row + 1) * vocab];
        cpu.isa.run(Report { logits, target: target as usize, top: top.min(vocab), out });
    });
}

/// Where each row's words begin.
fn places(rows: &[LogprobRow], vocab: usize) -> impl Iterator<Item = usize> + '_ {
    rows.iter().scan(0, move |next, row| {
        let place = *next;
        *next += row.words(vocab);
        Some(place)
    })
}

struct Report<'a> {
    logits: &'a [f32],
    target: usize,
    top: usize,
    out: &'a mut [u32],
}

impl Kernel for Report<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Report { logits, target, top, out } = self;
        let log_sum = log_sum_exp(s, logits);
        let value = logits.get(target).copied().unwrap_or(f32::NAN);
        let (before, after) = logits.split_at(target.min(logits.len()));
        let count = |logits: &[f32], precedes: fn(f32, f32) -> bool| -> u32 {
            logits.iter().map(|&logit| u32::from(precedes(logit, value))).sum()
        };
        let rank = 1 + count(before, |a, b| a >= b) + count(after, |a, b| a > b);
        let mut best = Vec::with_capacity(top);
        most_probable(s, &mut best, top, logits);
        let (head, tail) = out.split_at_mut(HEAD);
        head.copy_from_slice(&[(value - log_sum).to_bits(), log_sum.to_bits(), rank]);
        let all = best.into_iter().chain(iter::repeat((0, f32::NAN))); // NaN hides some
        for (words, (id, logit)) in tail.as_chunks_mut::<2>().0.iter_mut().zip(all) {
            *words = [id, logit.to_bits()];
        }
    }
}

/// `ln Σ e^logit`; NaN when a logit is NaN or infinite, or all are -infinity.
#[inline(always)]
fn log_sum_exp<S: Simd>(s: S, logits: &[f32]) -> f32 {
    let max = largest(s, logits);
    let mut sum = s.splat(0.0);
    for logits in logits.chunks(LANES) {
        let v = s.sub(f32::load(s, logits), s.splat(max));
        sum = s.add(sum, s.keep(exp(s, v), 0..logits.len(), 0.0));
    }
    max + s.sum(sum).ln()
}

/// The largest logit, or -infinity when there is none; NaN does not count.
#[inline(always)]
fn largest<S: Simd>(s: S, logits: &[f32]) -> f32 {
    let mut max = s.splat(f32::NEG_INFINITY);
    for logits in logits.chunks(LANES) {
        let v = s.keep(f32::load(s, logits), 0..logits.len(), f32::NEG_INFINITY);
        max = s.max(v, max);
    }
    s.max_lane(max)
}

/// The `n` largest logits, best first: insertion into a sorted list, skipping blocks without a candidate.
#[inline(always)]
fn most_probable<S: Simd>(s: S, top: &mut Vec<(u32, f32)>, n: usize, logits: &[f32]) {
    const BLOCK: usize = 64;
    top.clear();
    for (first, logits) in (0..).step_by(BLOCK).zip(logits.chunks(BLOCK)) {
        let no_candidate =
            |top: &[(u32, f32)], logit| top.len() == n && top.last().is_none_or(|last| logit <= last.1);
        if no_candidate(top, largest(s, logits)) {
            continue;
        }
        for (id, &logit) in (first..).zip(logits) {
            if !no_candidate(top, logit) {
                let place = top.partition_point(|&(_, other)| other >= logit);
                top.truncate(n - 1);
                top.insert(place, (id, logit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Tensor,
        ops::{NO_TOKEN, testing::*},
    };

    fn run(device: &Device, vocab: usize, logits: &[f32], rows: &[LogprobRow]) -> Result<Vec<TokenLogprobs>> {
        let words = |row: &LogprobRow| row.words(vocab);
        let mut out = Tensor::zeros_on(device, [rows.iter().map(words).sum::<usize>()], DType::U32)?;
        let logits = upload(device, [logits.len() / vocab, vocab], logits);
        let sampled = upload(device, [2], &[1u32, NO_TOKEN]);
        logprobs(device, out.view_mut()?, logits.view(), sampled.view(), rows)?;
        let (out, mut next) = (out.to_vec::<u32>(device)?, 0);
        let reports = rows.iter().map(|row| {
            next += words(row);
            TokenLogprobs::unpack(&out[next - words(row)..next])
        });
        Ok(reports.collect())
    }

    #[test]
    fn agrees_with_a_sort_and_does_not_depend_on_the_batch() {
        let (vocab, mut random) = (1003, Random::new(12));
        // Coarse values, so that there are ties.
        let logits: Vec<f32> = (0..100 * vocab).map(|_| random.below(500) as f32 / 20.0).collect();
        let rows = (0..100).map(|row| {
            let token = random.below(vocab) as u32;
            let target = if row % 5 == 0 { LogprobTarget::Sampled(0) } else { LogprobTarget::Token(token) };
            LogprobRow { row, target, top: [0, 1, 20, 2000][row % 4] }
        });
        let rows: Vec<LogprobRow> = rows.collect();
        for device in every_device() {
            let all = run(&device, vocab, &logits, &rows).unwrap();
            for (row, found) in rows.iter().zip(&all) {
                let logits = &logits[row.row * vocab..][..vocab];
                let target = if let LogprobTarget::Token(token) = row.target { token as usize } else { 1 };
                let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                let mut order: Vec<usize> = (0..vocab).collect();
                order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
                let expected = |id: usize| f64::from(logits[id]) - sum.ln();
                assert_close(&[found.logprob], &[expected(target)], 1e-5, "logprob");
                assert_eq!(order[found.rank as usize - 1], target);
                let ids: Vec<usize> = found.top.iter().map(|&(id, _)| id as usize).collect();
                assert_eq!(ids, order[..row.top.min(vocab)]);
                let values: Vec<f32> = found.top.iter().map(|&(_, value)| value).collect();
                assert_close(&values, &ids.iter().map(|&id| expected(id)).collect::<Vec<_>>(), 1e-5, "top");
            }
            for row in [0, 1, 99] {
                assert_eq!(run(&device, vocab, &logits, &rows[row..=row]).unwrap(), all[row..=row]);
            }
        }
    }

    #[test]
    fn rows_that_are_not_finite_say_so() {
        for device in isa_devices().into_iter().chain(cuda()) {
            for bad in [f32::NAN, f32::INFINITY] {
                for place in [0, 18, 19] {
                    let mut logits = vec![0.0; 3 * 20];
                    logits[20 + place] = bad;
                    let target = LogprobTarget::Token(5);
                    let rows = [0, 1, 2].map(|row| LogprobRow { row, target, top: 3 });
                    let found = run(&device, 20, &logits, &rows).unwrap();
                    assert_eq!([0, 1, 2].map(|row| found[row].logprob.is_nan()), [false, true, false]);
                    assert!(found[1].top.iter().all(|(_, logprob)| logprob.is_nan()));
                }
            }
            let mut logits = vec![f32::NEG_INFINITY; 20];
            let row = [LogprobRow { row: 0, target: LogprobTarget::Token(3), top: 2 }];
            assert!(run(&device, 20, &logits, &row).unwrap()[0].logprob.is_nan());
            logits[7] = 1.0;
            let found = &run(&device, 20, &logits, &row).unwrap()[0];
            assert_eq!((found.logprob, found.rank), (f32::NEG_INFINITY, 5));
            assert_eq!(found.top, [(7, 0.0), (0, f32::NEG_INFINITY)]);
        }
    }

    #[test]
    fn where_nothing_was_drawn_there_is_no_logprob() {
        for device in every_device() {
            let row = LogprobRow { row: 0, target: LogprobTarget::Sampled(1), top: 1 };
            let found = run(&device, 3, &[0.0, 1.0, 0.0], &[row]).unwrap();
            assert!(found[0].logprob.is_nan() && found[0].top[0].0 == 1);
        }
    }

    #[test]
    fn targets_that_are_not_there_are_refused() {
        for (target, message) in
            [(LogprobTarget::Token(3), "Token(3) of 3"), (LogprobTarget::Sampled(2), "Sampled(2) of 2")]
        {
            let row = LogprobRow { row: 0, target, top: 0 };
            let error = run(&isa_devices()[0], 3, &[0.0; 3], &[row]).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
