//! `route`: which experts a token visits.

use super::check::{Check, rows_per_task};
use crate::{
    DType, Device, Result, View, ViewMut,
    cpu::{Float, Kernel, LANES, Parts, Simd, exp},
};

/// How a router's logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// Divide the chosen experts' probabilities by their sum.
    pub renormalize: bool,
}

/// The k most probable experts of each row, best first, ties to the lowest id, and their softmax probabilities.
///
/// - `ids`: u32 `[T, k]`
/// - `weights`: f32 `[T, k]`
/// - `logits`: f32 `[T, E]`, `1 <= k <= E`
///
/// # Errors
/// When shapes or types do not fit.
pub fn route(
    device: &Device,
    ids: ViewMut<'_>,
    weights: ViewMut<'_>,
    logits: View<'_>,
    router: Router,
) -> Result<()> {
    let check = Check("route");
    let [rows, experts] = check.dims("logits", &logits)?;
    let [_, chosen] = check.dims("ids", &ids)?;
    check.is("ids", &ids, [rows, chosen], DType::U32)?;
    check.is("weights", &weights, [rows, chosen], DType::F32)?;
    check.that((1..=experts).contains(&chosen), || format!("cannot choose {chosen} of {experts} experts"))?;
    let logits = logits.as_slice::<f32>()?;
    let weights = Parts::new(weights.into_mut_slice::<f32>()?);
    let cpu = device.as_cpu("route")?;
    cpu.pool.run_rows(ids.into_mut_slice::<u32>()?, chosen, rows_per_task(8 * experts), |first, ids| {
        let start = first * chosen;
        // SAFETY: these are the rows of `ids`, which is no other task's.
        let weights = unsafe { weights.get(start..start + ids.len()) };
        let rows = ids.chunks_exact_mut(chosen).zip(weights.chunks_exact_mut(chosen));
        for ((ids, weights), logits) in rows.zip(logits[first * experts..].chunks_exact(experts)) {
            choose(ids, weights, logits);
            cpu.isa.run(Softmax { weights, logits, renormalize: router.renormalize });
        }
    });
    Ok(())
}

/// The `ids.len()` largest logits, best first: insertion into a sorted list.
fn choose(ids: &mut [u32], best: &mut [f32], logits: &[f32]) {
    let mut count = 0;
    for (id, &logit) in (0u32..).zip(logits) {
        let mut place = count;
        while place > 0 && logit > best[place - 1] {
            place -= 1;
        }
        if place == ids.len() {
            continue;
        }
        count = (count + 1).min(ids.len());
        ids[place..count].rotate_right(1);
        best[place..count].rotate_right(1);
        ids[place] = id;
        best[place] = logit;
    }
}

/// Turns the chosen logits in `weights` into probabilities.
struct Softmax<'a> {
    weights: &'a mut [f32],
    logits: &'a [f32],
    renormalize: bool,
}

impl Kernel for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let max = s.splat(self.weights[0]);
        for weights in self.weights.chunks_mut(LANES) {
            let e = exp(s, s.sub(f32::load(s, weights), max));
            f32::store(s, weights, e);
        }
        let sum: f32 = if self.renormalize {
            self.weights.iter().sum()
        } else {
            let mut sum = s.splat(0.0);
            for logits in self.logits.chunks(LANES) {
                let e = exp(s, s.sub(f32::load(s, logits), max));
                sum = s.add(sum, s.keep(e, 0..logits.len(), 0.0));
            }
            s.sum(sum)
        };
        for weight in self.weights {
            *weight /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    fn run(
        device: &Device,
        logits: &[f32],
        experts: usize,
        chosen: usize,
        renormalize: bool,
    ) -> (Vec<u32>, Vec<f32>) {
        let rows = logits.len() / experts;
        let mut ids = vec![u32::MAX; rows * chosen];
        let mut weights = vec![f32::NAN; rows * chosen];
        route(
            device,
            ViewMut::from_slice([rows, chosen], &mut ids).unwrap(),
            ViewMut::from_slice([rows, chosen], &mut weights).unwrap(),
            View::from_slice([rows, experts], logits).unwrap(),
            Router { renormalize },
        )
        .unwrap();
        (ids, weights)
    }

    #[test]
    fn agrees_with_a_sort_and_does_not_depend_on_the_batch() {
        let mut random = Random::new(6);
        for (experts, chosen) in [(5, 1), (8, 2), (60, 4), (128, 8), (4, 4)] {
            // Coarse values, so that there are ties.
            let logits: Vec<f32> = (0..100 * experts).map(|_| random.below(40) as f32 / 8.0).collect();
            for device in devices() {
                for renormalize in [false, true] {
                    let (ids, weights) = run(&device, &logits, experts, chosen, renormalize);
                    for (row, logits) in logits.chunks(experts).enumerate() {
                        let mut order: Vec<usize> = (0..experts).collect();
                        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
                        let e: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
                        let among = if renormalize { chosen } else { experts };
                        let sum: f64 = order[..among].iter().map(|&i| e[i]).sum();
                        let at = row * chosen..(row + 1) * chosen;
                        let found: Vec<usize> = ids[at.clone()].iter().map(|&id| id as usize).collect();
                        assert_eq!(found, order[..chosen]);
                        let expected: Vec<f64> = order[..chosen].iter().map(|&i| e[i] / sum).collect();
                        assert_close(&weights[at], &expected, 1e-6, "route");
                    }
                    for batch in [1, 2, 7, 32] {
                        let part = run(&device, &logits[..batch * experts], experts, chosen, renormalize);
                        assert_eq!(part.0, ids[..batch * chosen]);
                        assert_same_bits(&part.1, &weights[..batch * chosen], "route");
                    }
                }
            }
        }
    }

    #[test]
    fn nan_logits_still_give_distinct_experts() {
        let (mut ids, _) = run(&devices()[0], &[f32::NAN, 1.0, f32::NAN, 2.0], 4, 4, true);
        ids.sort();
        assert_eq!(ids, [0, 1, 2, 3]);
    }
}
