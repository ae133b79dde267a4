//! `logprobs`: how probable tokens were.

mod cuda;

use super::check::Check;
use crate::{
    CpuDevice, DType, Device, Result, View,
    cpu::{Float, Kernel, LANES, Parts, Simd, exp},
};

/// A row of logits and what to report of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogprobRow {
    /// Index among the rows of the logits.
    pub row: usize,
    /// The token whose log-probability is wanted.
    pub target: u32,
    /// How many of the most probable tokens are wanted.
    pub top: usize,
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

/// Log-softmax of each row's target, its rank and the row's most probable tokens. All log-probabilities of a row are
/// NaN when one of its logits is NaN or infinite, or all are -infinity; the other rows are not affected.
///
/// - `out`: one per entry of `rows`; `top` grows only where its capacity is short
/// - `logits`: f32 `[.., V]`
///
/// # Errors
/// When shapes or types do not fit, or a row or target is out of range.
pub fn logprobs(
    device: &Device,
    out: &mut [TokenLogprobs],
    logits: View<'_>,
    rows: &[LogprobRow],
) -> Result<()> {
    let check = Check("logprobs");
    let [count, vocab] = check.dims("logits", &logits)?;
    check.that(out.len() == rows.len(), || format!("{} results for {} rows", out.len(), rows.len()))?;
    for row in rows {
        check.that(row.row < count, || format!("row {} of {count} rows of logits", row.row))?;
        check.that((row.target as usize) < vocab, || format!("token {} of {vocab}", row.target))?;
    }
    check.dtype("logits", &logits, DType::F32)?;
    match device {
        Device::Cpu(cpu) => cpu_logprobs(cpu, out, logits.as_slice()?, vocab, rows),
        Device::Cuda(gpu) => cuda::logprobs(gpu, out, logits, rows)?,
    }
    Ok(())
}

fn cpu_logprobs(
    cpu: &CpuDevice,
    out: &mut [TokenLogprobs],
    logits: &[f32],
    vocab: usize,
    rows: &[LogprobRow],
) {
    let results = Parts::new(out);
    cpu.pool.run(rows.len(), |i| {
        let LogprobRow { row, target, top } = rows[i];
        // SAFETY: each task has its own result.
        let out = unsafe { &mut results.get(i..i + 1)[0] };
        let logits = &logits[row * vocab..(row + 1) * vocab];
        cpu.isa.run(Report { logits, target: target as usize, top: top.min(vocab), out });
    });
}

struct Report<'a> {
    logits: &'a [f32],
    target: usize,
    top: usize,
    out: &'a mut TokenLogprobs,
}

impl Kernel for Report<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Report { logits, target, top, out } = self;
        let log_sum = log_sum_exp(s, logits);
        let value = logits[target];
        let (before, after) = logits.split_at(target);
        let count = |logits: &[f32], precedes: fn(f32, f32) -> bool| -> u32 {
            logits.iter().map(|&logit| u32::from(precedes(logit, value))).sum()
        };
        out.logprob = value - log_sum;
        out.rank = 1 + count(before, |a, b| a >= b) + count(after, |a, b| a > b);
        most_probable(s, &mut out.top, top, logits);
        out.top.iter_mut().for_each(|(_, logit)| *logit -= log_sum);
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
    use crate::ops::testing::*;

    fn run(device: &Device, vocab: usize, logits: &[f32], rows: &[LogprobRow]) -> Result<Vec<TokenLogprobs>> {
        let mut out = vec![TokenLogprobs::default(); rows.len()];
        let logits = upload(device, [logits.len() / vocab, vocab], logits);
        logprobs(device, &mut out, logits.view(), rows)?;
        Ok(out)
    }

    #[test]
    fn agrees_with_a_sort_and_does_not_depend_on_the_batch() {
        let (vocab, mut random) = (1003, Random::new(12));
        // Coarse values, so that there are ties.
        let logits: Vec<f32> = (0..100 * vocab).map(|_| random.below(500) as f32 / 20.0).collect();
        let rows: Vec<LogprobRow> = (0..100)
            .map(|row| LogprobRow { row, target: random.below(vocab) as u32, top: [0, 1, 20, 2000][row % 4] })
            .collect();
        for device in every_device() {
            let all = run(&device, vocab, &logits, &rows).unwrap();
            for (row, found) in rows.iter().zip(&all) {
                let logits = &logits[row.row * vocab..][..vocab];
                let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                let mut order: Vec<usize> = (0..vocab).collect();
                order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
                let expected = |id: usize| f64::from(logits[id]) - sum.ln();
                assert_close(&[found.logprob], &[expected(row.target as usize)], 1e-5, "logprob");
                assert_eq!(order[found.rank as usize - 1], row.target as usize);
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
                    let rows = [0, 1, 2].map(|row| LogprobRow { row, target: 5, top: 3 });
                    let found = run(&device, 20, &logits, &rows).unwrap();
                    assert_eq!([0, 1, 2].map(|row| found[row].logprob.is_nan()), [false, true, false]);
                    assert!(found[1].top.iter().all(|(_, logprob)| logprob.is_nan()));
                }
            }
            let mut logits = vec![f32::NEG_INFINITY; 20];
            let row = [LogprobRow { row: 0, target: 3, top: 2 }];
            assert!(run(&device, 20, &logits, &row).unwrap()[0].logprob.is_nan());
            logits[7] = 1.0;
            let found = &run(&device, 20, &logits, &row).unwrap()[0];
            assert_eq!((found.logprob, found.rank), (f32::NEG_INFINITY, 5));
            assert_eq!(found.top, [(7, 0.0), (0, f32::NEG_INFINITY)]);
        }
    }
}
