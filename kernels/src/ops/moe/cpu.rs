//! The mixture of experts on the CPU: one task per active expert and block of columns.

use super::{ApplyRouterWeight, MoeWorkspace};
use crate::{
    CpuDevice, Result, View, ViewMut,
    cpu::{Block, Float, Kernel, LANES, Parts, Rows, Simd},
    ops::{
        check::{Check, rows_per_task},
        experts::{Expert, Experts},
        gated_activation::{Glu, gated_row},
        linear::Blocks,
        multiply::{Multiply, for_compute, with_rows},
    },
};

#[allow(clippy::too_many_arguments)] // Those of the op.
pub(super) fn moe(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    x: View<'_>,
    ids: View<'_>,
    weights: View<'_>,
    experts: &Experts,
    glu: Glu,
    weigh: ApplyRouterWeight,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let (ids, weights) = (ids.as_slice::<u32>()?, weights.as_slice::<f32>()?);
    check.that(experts.stacked().is_none(), || "the experts lie in device memory".into())?;
    check.indices("ids", ids, experts.count())?;
    let active = workspace.sort(ids);
    let activate = Activate { glu, input_weights: (weigh == ApplyRouterWeight::OnInput).then_some(weights) };
    for_compute!(experts.compute(), X => {
        gate_up::<X>(cpu, x, experts, activate, active, workspace)?;
        down::<X>(cpu, experts, active, workspace)?;
    });
    let output_weights = (weigh == ApplyRouterWeight::OnOutput).then_some(weights);
    combine(cpu, out, output_weights, workspace)
}

/// What happens between gate, up and down.
#[derive(Clone, Copy)]
struct Activate<'a> {
    glu: Glu,
    /// `[T, k]`: factors of gate and up.
    input_weights: Option<&'a [f32]>,
}

/// Gate, up and activation of all pairs.
fn gate_up<X: Multiply>(
    cpu: &CpuDevice,
    x: View<'_>,
    experts: &Experts,
    activate: Activate<'_>,
    active: usize,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let (x, hidden, intermediate) = (x.as_slice::<X>()?, experts.hidden_size(), experts.intermediate_size());
    let MoeWorkspace { starts, active: ids, rows, pair_ids, gate_up, activated, .. } = workspace;
    let (starts, rows) = (&starts[..], &rows[..pairs_in(starts)]);
    let blocks = Blocks::of_columns(active * intermediate, cpu.threads());
    let gate_up = Parts::new(gate_up.as_mut_slice::<f32>()?);
    let out = Parts::new(activated.as_mut_slice::<X>()?);
    let per_expert = blocks.count(intermediate);
    let weights = experts.as_slice().iter().flat_map(|expert| expert.gate_up.weights());
    let run = |input: Rows<'_, X>| {
        cpu.pool.run(active * per_expert, |task| {
            let id = ids[task / per_expert] as usize;
            let pairs = starts[id] as usize..starts[id + 1] as usize;
            let columns = blocks.columns(task % per_expert, intermediate);
            let Expert { gate_up: linear, .. } = &experts.as_slice()[id];
            for (part, out_column) in linear.parts().iter().zip([0, intermediate]) {
                let block = Block {
                    input,
                    bias: part.bias(),
                    out: &gate_up,
                    out_width: 2 * intermediate,
                    out_column,
                    rows: pairs.clone(),
                    columns: columns.clone(),
                };
                X::multiply(cpu.isa, &part.weight, block);
            }
            for pair in pairs {
                let (start, n) = (pair * 2 * intermediate + columns.start, columns.len());
                let to = pair * intermediate + columns.start;
                // SAFETY: these pairs' columns are this task's alone, in both.
                let (gate, up, out) = unsafe {
                    (
                        gate_up.get(start..start + n),
                        gate_up.get(start + intermediate..start + intermediate + n),
                        out.get(to..to + n),
                    )
                };
                let weight = activate.input_weights.map(|weights| weights[pair_ids[pair] as usize]);
                cpu.isa.run(Gated { out, gate, up, weight, glu: activate.glu });
            }
        });
    };
    with_rows(cpu, Rows { select: Some(rows), ..Rows::new(x, hidden) }, weights, run);
    Ok(())
}

/// All pairs.
fn pairs_in(starts: &[u32]) -> usize {
    starts.last().map_or(0, |&pairs| pairs as usize)
}

struct Gated<'a, T> {
    out: &'a mut [T],
    gate: &'a mut [f32],
    up: &'a mut [f32],
    weight: Option<f32>,
    glu: Glu,
}

impl<T: Float> Kernel for Gated<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if let Some(weight) = self.weight {
            for part in self.gate.chunks_mut(LANES).chain(self.up.chunks_mut(LANES)) {
                let weighted = s.mul(f32::load(s, part), s.splat(weight));
                f32::store(s, part, weighted);
            }
        }
        gated_row(s, self.out, self.gate, self.up, self.glu);
    }
}

/// Down of all pairs.
fn down<X: Multiply>(
    cpu: &CpuDevice,
    experts: &Experts,
    active: usize,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let (hidden, intermediate) = (experts.hidden_size(), experts.intermediate_size());
    let MoeWorkspace { starts, active: ids, activated, down, .. } = workspace;
    let blocks = Blocks::of_columns(active * hidden, cpu.threads());
    let input = &activated.as_slice::<X>()?[..pairs_in(starts) * intermediate];
    let out = Parts::new(down.as_mut_slice::<f32>()?);
    let per_expert = blocks.count(hidden);
    let weights = experts.as_slice().iter().flat_map(|expert| expert.down.weights());
    let run = |input: Rows<'_, X>| {
        cpu.pool.run(active * per_expert, |task| {
            let id = ids[task / per_expert] as usize;
            for part in experts.as_slice()[id].down.parts() {
                let block = Block {
                    input,
                    bias: part.bias(),
                    out: &out,
                    out_width: hidden,
                    out_column: 0,
                    rows: starts[id] as usize..starts[id + 1] as usize,
                    columns: blocks.columns(task % per_expert, hidden),
                };
                X::multiply(cpu.isa, &part.weight, block);
            }
        });
    };
    with_rows(cpu, Rows::new(input, intermediate), weights, run);
    Ok(())
}

/// Adds up each row's pairs in slot order, with weights `[T, k]` if outputs are weighted.
fn combine(
    cpu: &CpuDevice,
    out: ViewMut<'_>,
    weights: Option<&[f32]>,
    workspace: &MoeWorkspace,
) -> Result<()> {
    let (hidden, chosen) = (out.shape().row_elements(), workspace.chosen);
    let down = workspace.down.as_slice::<f32>()?;
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(chosen * hidden), |first, out| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(hidden)) {
            let slots = row * chosen..(row + 1) * chosen;
            let places = &workspace.places[slots.clone()];
            cpu.isa.run(WeightedSum { out, places, weights: weights.map(|weights| &weights[slots]), down });
        }
    });
    Ok(())
}

struct WeightedSum<'a> {
    out: &'a mut [f32],
    places: &'a [u32],
    weights: Option<&'a [f32]>,
    /// `[pairs, H]`
    down: &'a [f32],
}

impl Kernel for WeightedSum<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.out.len();
        for (at, out) in (0..).step_by(LANES).zip(self.out.chunks_mut(LANES)) {
            let mut sum = s.splat(0.0);
            for (slot, &place) in self.places.iter().enumerate() {
                let start = place as usize * width;
                let x = f32::load(s, &self.down[start + at..start + width]);
                let weight = match self.weights {
                    Some(weights) => weights[slot],
                    None => 1.0,
                };
                sum = s.mul_add(s.splat(weight), x, sum);
            }
            f32::store(s, out, sum);
        }
    }
}
