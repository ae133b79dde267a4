//! Routing on the CPU: a row at a time, its scores on the stack.

use super::{
    ExpertGroups, GroupRank, MAX_EXPERTS, Renormalize, Router, RouterLogits, RouterScore, RouterTables,
};
use crate::{
    CpuDevice, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd, exp, mul_sigmoid},
    ops::{adjust_logits::softcapped, check::rows_per_task},
};

pub(super) fn route(
    cpu: &CpuDevice,
    ids: ViewMut<'_>,
    weights: ViewMut<'_>,
    logits: View<'_>,
    router: &Router,
    tables: RouterTables<'_>,
) -> Result<()> {
    let (experts, chosen) = (logits.shape().row_elements(), ids.shape().row_elements());
    let logits = logits.as_slice::<f32>()?;
    let e_score_correction_bias = tables.e_score_correction_bias.map(Floats::new).transpose()?;
    let expert_scale = tables.expert_scale.map(Floats::new).transpose()?;
    let weights = Parts::new(weights.into_mut_slice::<f32>()?);
    cpu.pool.run_rows(ids.into_mut_slice::<u32>()?, chosen, rows_per_task(8 * experts), |first, ids| {
        let start = first * chosen;
        // SAFETY: these are the rows of `ids`, which is no other task's.
        let weights = unsafe { weights.get(start..start + ids.len()) };
        let rows = ids.chunks_exact_mut(chosen).zip(weights.chunks_exact_mut(chosen));
        for ((ids, weights), logits) in rows.zip(logits[first * experts..].chunks_exact(experts)) {
            cpu.isa.run(Row { ids, weights, logits, router, e_score_correction_bias, expert_scale });
        }
    });
    Ok(())
}

/// One row.
struct Row<'a> {
    ids: &'a mut [u32],
    weights: &'a mut [f32],
    logits: &'a [f32],
    router: &'a Router,
    e_score_correction_bias: Option<Floats<'a>>,
    expert_scale: Option<Floats<'a>>,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { ids, weights, logits, router, e_score_correction_bias, expert_scale } = self;
        let mut scores = [0.0; MAX_EXPERTS];
        let scores = &mut scores[..logits.len()];
        prepare(s, router.logits, logits, scores);
        match router.score {
            RouterScore::Softmax => softmax(s, scores),
            RouterScore::Sigmoid => sigmoid(s, scores),
            RouterScore::SoftmaxOfChosen | RouterScore::SparseMixer { .. } => (),
        }
        if let RouterScore::SparseMixer { jitter } = router.score {
            sparse_mixer(s, jitter, scores, ids, weights);
        } else {
            select(router.groups, scores, e_score_correction_bias, ids, weights);
            for (weight, &id) in weights.iter_mut().zip(&*ids) {
                *weight = scores[id as usize];
            }
        }
        if router.score == RouterScore::SoftmaxOfChosen {
            softmax(s, weights);
        }
        let sum: f32 = weights.iter().sum();
        let divisor = match router.renormalize {
            Renormalize::No => 1.0,
            Renormalize::Sum => sum,
            Renormalize::SumPlus(x) => sum + x,
            Renormalize::SumAtLeast(x) => sum.max(x),
        };
        for (weight, &id) in weights.iter_mut().zip(&*ids) {
            *weight = *weight / divisor * router.scale;
            if let Some(scale) = expert_scale {
                *weight *= scale.get(id as usize);
            }
        }
    }
}

/// `z` of the router's logits.
#[inline(always)]
fn prepare<S: Simd>(s: S, kind: RouterLogits, logits: &[f32], z: &mut [f32]) {
    let factor = match kind {
        RouterLogits::Standardized { std } => std / deviation(s, logits),
        RouterLogits::Plain | RouterLogits::Softcap(_) => 1.0,
    };
    for (z, logits) in z.chunks_mut(LANES).zip(logits.chunks(LANES)) {
        let mut x = s.mul(f32::load(s, logits), s.splat(factor));
        if let RouterLogits::Softcap(cap) = kind {
            x = softcapped(s, x, cap);
        }
        f32::store(s, z, x);
    }
}

/// The standard deviation, by one less than their number.
#[inline(always)]
fn deviation<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for x in x.chunks(LANES) {
        sum = s.add(sum, f32::load(s, x));
    }
    let mean = s.splat(s.sum(sum) / x.len() as f32);
    let mut squares = s.splat(0.0);
    for x in x.chunks(LANES) {
        let d = s.keep(s.sub(f32::load(s, x), mean), 0..x.len(), 0.0);
        squares = s.mul_add(d, d, squares);
    }
    (s.sum(squares) / (x.len() as f32 - 1.0)).sqrt()
}

#[inline(always)]
fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let max = s.splat(x.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }));
    let mut sum = s.splat(0.0);
    for x in x.chunks_mut(LANES) {
        let e = exp(s, s.sub(f32::load(s, x), max));
        sum = s.add(sum, s.keep(e, 0..x.len(), 0.0));
        f32::store(s, x, e);
    }
    let sum = s.sum(sum);
    for x in x {
        *x /= sum;
    }
}

#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: &mut [f32]) {
    for x in x.chunks_mut(LANES) {
        let y = mul_sigmoid(s, s.splat(1.0), f32::load(s, x));
        f32::store(s, x, y);
    }
}

/// The experts of the largest `scores + bias` that `groups` lets choose. `values` is scratch of the same length as `ids`.
fn select(
    groups: ExpertGroups,
    scores: &[f32],
    bias: Option<Floats<'_>>,
    ids: &mut [u32],
    values: &mut [f32],
) {
    let mut choice = [0.0; MAX_EXPERTS];
    let choice = &mut choice[..scores.len()];
    for (e, (choice, score)) in choice.iter_mut().zip(scores).enumerate() {
        *choice = bias.map_or(*score, |bias| score + bias.get(e));
    }
    match groups {
        ExpertGroups::All => choose(ids, values, choice),
        ExpertGroups::Best { groups, kept, rank } => {
            mask_groups(groups, kept, rank, choice);
            choose(ids, values, choice);
        }
        ExpertGroups::Each { groups } => {
            let (size, each) = (choice.len() / groups, ids.len() / groups);
            let parts = ids.chunks_exact_mut(each).zip(values.chunks_exact_mut(each));
            for (g, ((ids, values), choice)) in parts.zip(choice.chunks_exact(size)).enumerate() {
                choose(ids, values, choice);
                ids.iter_mut().for_each(|id| *id += (g * size) as u32);
            }
        }
    }
}

/// The `ids.len()` largest of `choice`, best first, ties to the lowest id: insertion into a sorted list.
fn choose(ids: &mut [u32], best: &mut [f32], choice: &[f32]) {
    let mut count = 0;
    for (id, &value) in (0u32..).zip(choice) {
        let mut place = count;
        while place > 0 && value > best[place - 1] {
            place -= 1;
        }
        if place == ids.len() {
            continue;
        }
        count = (count + 1).min(ids.len());
        ids[place..count].rotate_right(1);
        best[place..count].rotate_right(1);
        ids[place] = id;
        best[place] = value;
    }
}

/// Puts the experts of all but the best `kept` groups, ties to the first, out of reach.
fn mask_groups(groups: usize, kept: usize, rank: GroupRank, choice: &mut [f32]) {
    let size = choice.len() / groups;
    let mut worth = [0.0; MAX_EXPERTS];
    for (worth, experts) in worth.iter_mut().zip(choice.chunks_exact(size)) {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &x in experts {
            if x > first {
                (first, second) = (x, first);
            } else if x > second {
                second = x;
            }
        }
        *worth = match rank {
            GroupRank::Max => first,
            GroupRank::TopTwoSum => first + second,
        };
    }
    let worth = &worth[..groups];
    for (g, experts) in choice.chunks_exact_mut(size).enumerate() {
        let better = |&h: &usize| worth[h] > worth[g] || (worth[h] == worth[g] && h < g);
        if (0..groups).filter(better).count() >= kept {
            experts.fill(f32::NEG_INFINITY);
        }
    }
}

/// One expert after the other, each weighted among those near it that are left.
#[inline(always)]
fn sparse_mixer<S: Simd>(s: S, jitter: f32, z: &[f32], ids: &mut [u32], weights: &mut [f32]) {
    let mut left = [0.0; MAX_EXPERTS];
    let left = &mut left[..z.len()];
    left.copy_from_slice(z);
    for (id, weight) in ids.iter_mut().zip(weights) {
        let mut best = 0;
        for e in 1..z.len() {
            if left[e] > left[best] {
                best = e;
            }
        }
        let max = left[best];
        let mut sum = s.splat(0.0);
        for (left, z) in left.chunks(LANES).zip(z.chunks(LANES)) {
            let mut near = [f32::NEG_INFINITY; LANES];
            for ((near, &left), &z) in near.iter_mut().zip(left).zip(z) {
                let far = (max - z) / z.abs().max(max) > 2.0 * jitter;
                *near = if far { f32::NEG_INFINITY } else { left };
            }
            sum = s.add(sum, exp(s, s.sub(f32::load(s, &near), s.splat(max))));
        }
        (*id, *weight) = (best as u32, 1.0 / s.sum(sum));
        left[best] = f32::NEG_INFINITY;
    }
}
