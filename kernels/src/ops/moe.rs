//! `moe`: a mixture of experts, grouped so that every expert's rows run as one matrix product.

use super::{
    check::{Check, rows_per_task},
    gated_activation::{Activation, gated_row},
    linear::{Blocks, Linear},
};
use crate::{
    DType, Device, Result, Tensor, View, ViewMut,
    cpu::{Float, Kernel, LANES, Parts, Product, Rows, Simd, Weight, for_weight},
};

/// One expert: a gated feed-forward network.
#[derive(Debug)]
pub struct Expert {
    /// `[2I, H]` as two parts, gate and up.
    pub gate_up: Linear,
    /// `[H, I]`
    pub down: Linear,
}

/// What [`moe`] needs between its steps, for up to a number of rows. A *visit* is a (row, slot) pair; visits are
/// sorted by expert.
#[derive(Debug)]
pub struct MoeWorkspace {
    max_rows: usize,
    chosen: usize,
    experts: usize,
    /// `[E + 1]` first visit of each expert, then their number.
    starts: Vec<u32>,
    /// `[E]` experts that have visits.
    active: Vec<u32>,
    /// `[max_rows · k]` the row of each visit.
    rows: Vec<u32>,
    /// `[max_rows · k]` where each (row, slot) pair stands among the visits.
    places: Vec<u32>,
    /// f32 `[max_rows · k, 2I]`
    gate_up: Tensor,
    /// compute `[max_rows · k, I]`
    activated: Tensor,
    /// f32 `[max_rows · k, H]`
    down: Tensor,
}

impl MoeWorkspace {
    /// A workspace for up to `max_rows` rows that each visit `chosen` of `experts` experts, whose weights have the
    /// given sizes and type.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        max_rows: usize,
        chosen: usize,
        hidden: usize,
        intermediate: usize,
        experts: usize,
        dtype: DType,
    ) -> Result<MoeWorkspace> {
        let visits = max_rows.saturating_mul(chosen);
        Ok(MoeWorkspace {
            max_rows,
            chosen,
            experts,
            gate_up: Tensor::zeros([visits, intermediate.saturating_mul(2)], DType::F32)?,
            activated: Tensor::zeros([visits, intermediate], dtype.compute())?,
            down: Tensor::zeros([visits, hidden], DType::F32)?,
            starts: vec![0; experts + 1],
            active: vec![0; experts],
            rows: vec![0; visits],
            places: vec![0; visits],
        })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        let indices = self.starts.len() + self.active.len() + self.rows.len() + self.places.len();
        let tensors = [&self.gate_up, &self.activated, &self.down];
        4 * indices + tensors.map(Tensor::size_in_bytes).iter().sum::<usize>()
    }

    /// Sorts the visits by expert (a counting sort, so in order of rows within one). Returns the number of active
    /// experts.
    fn sort(&mut self, ids: &[u32]) -> usize {
        self.starts.fill(0);
        for &id in ids {
            self.starts[id as usize + 1] += 1;
        }
        let mut active = 0;
        for expert in 0..self.experts {
            if self.starts[expert + 1] > 0 {
                self.active[active] = expert as u32;
                active += 1;
            }
            self.starts[expert + 1] += self.starts[expert];
        }
        // Each start moves to its expert's end while visits are placed, and back afterwards.
        for (visit, &id) in ids.iter().enumerate() {
            let place = self.starts[id as usize];
            self.starts[id as usize] += 1;
            self.rows[place as usize] = (visit / self.chosen) as u32;
            self.places[visit] = place;
        }
        self.starts.copy_within(..self.experts, 1);
        self.starts[0] = 0;
        active
    }
}

/// `out[t] = Σ_slot weights[t, slot] · down(act(gate(x[t])) · up(x[t]))` with the expert `ids[t, slot]`, summed in
/// slot order.
///
/// - `out`: f32 `[T, H]`
/// - `x`: compute `[T, H]`
/// - `ids`: u32 `[T, k]`, each below E
/// - `weights`: f32 `[T, k]`
/// - `experts`: E of them, all of one shape and type, without biases
///
/// # Errors
/// When shapes or types do not fit each other or the workspace, or an id is out of range.
#[allow(clippy::too_many_arguments)] // One per tensor, as in every op.
pub fn moe(
    device: &Device,
    out: ViewMut<'_>,
    x: View<'_>,
    ids: View<'_>,
    weights: View<'_>,
    experts: &[Expert],
    act: Activation,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let check = Check("moe");
    let [rows, hidden] = check.dims("x", &x)?;
    let [_, chosen] = check.dims("ids", &ids)?;
    check.is("ids", &ids, [rows, chosen], DType::U32)?;
    check.is("weights", &weights, [rows, chosen], DType::F32)?;
    check.is("out", &out, [rows, hidden], DType::F32)?;
    let [_, intermediate] = check.dims("workspace", &workspace.activated.view())?;
    let dtype = experts.first().ok_or_else(|| check.error("no experts".into()))?.down.dtype();
    check.dtype("x", &x, dtype.compute())?;
    for (i, expert) in experts.iter().enumerate() {
        check.that(expert.fits(hidden, intermediate, dtype), || {
            format!("expert {i} is not a {dtype} network of {hidden} to {intermediate} without biases")
        })?;
    }
    check.that(rows <= workspace.max_rows && chosen == workspace.chosen, || {
        let (max_rows, k) = (workspace.max_rows, workspace.chosen);
        format!("{rows} rows with {chosen} experts each, the workspace is for {max_rows} with {k}")
    })?;
    check.shape("workspace", &workspace.down.view(), [workspace.max_rows * chosen, hidden])?;
    check.dtype("workspace", &workspace.activated.view(), dtype.compute())?;
    check.that(experts.len() == workspace.experts, || {
        format!("{} experts, the workspace is for {}", experts.len(), workspace.experts)
    })?;
    check.indices("ids", ids.as_slice()?, experts.len())?;
    let active = workspace.sort(ids.as_slice()?);
    for_weight!(dtype, "moe", "experts", W => run_experts::<W>(device, x, experts, act, active, workspace))?;
    combine(device, out, weights, workspace)
}

impl Expert {
    fn fits(&self, hidden: usize, intermediate: usize, dtype: DType) -> bool {
        let plain = |linear: &Linear, [n, k]: [usize; 2]| {
            linear.in_features() == k
                && linear.dtype() == dtype
                && linear.parts().iter().all(|part| part.bias.is_none() && part.out_features() == n)
        };
        plain(&self.gate_up, [intermediate, hidden])
            && plain(&self.down, [hidden, intermediate])
            && self.gate_up.parts().len() == 2
            && self.down.parts().len() == 1
    }
}

/// Gate, up and activation of all visits, then down: one task per active expert and block of columns.
fn run_experts<W: Weight<Input: Float>>(
    device: &Device,
    x: View<'_>,
    experts: &[Expert],
    act: Activation,
    active: usize,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let (x, hidden) = (x.as_slice::<W::Input>()?, x.shape().dims()[1]);
    let intermediate = workspace.activated.shape().dims()[1];
    let MoeWorkspace { starts, active: ids, rows, gate_up, activated, down, .. } = workspace;
    let (starts, rows) = (&starts[..], &rows[..]);
    let visits = |id: u32| starts[id as usize] as usize..starts[id as usize + 1] as usize;
    let cpu = device.as_cpu("moe")?;

    let blocks = Blocks::of_columns(active * intermediate, cpu.threads());
    let gate_up = Parts::new(gate_up.as_mut_slice::<f32>()?);
    let out = Parts::new(activated.as_mut_slice::<W::Input>()?);
    let per_expert = blocks.count(intermediate);
    cpu.pool.run(active * per_expert, |task| {
        let id = ids[task / per_expert];
        let columns = blocks.columns(task % per_expert, intermediate);
        for (part, out_column) in experts[id as usize].gate_up.parts().iter().zip([0, intermediate]) {
            cpu.isa.run(Product {
                input: Rows { data: x, width: hidden, select: Some(rows) },
                weight: part.weight.view().elements::<W>(),
                bias: None,
                out: &gate_up,
                out_width: 2 * intermediate,
                out_column,
                rows: visits(id),
                columns: columns.clone(),
            });
        }
        for visit in visits(id) {
            let (start, n) = (visit * 2 * intermediate + columns.start, columns.len());
            let to = visit * intermediate + columns.start;
            // SAFETY: these visits' columns are this task's alone, in both.
            let (gate, up, out) = unsafe {
                (
                    gate_up.get(start..start + n),
                    gate_up.get(start + intermediate..start + intermediate + n),
                    out.get(to..to + n),
                )
            };
            cpu.isa.run(Gated { out, gate, up, act });
        }
    });

    let blocks = Blocks::of_columns(active * hidden, cpu.threads());
    let input = activated.as_slice::<W::Input>()?;
    let out = Parts::new(down.as_mut_slice::<f32>()?);
    let per_expert = blocks.count(hidden);
    cpu.pool.run(active * per_expert, |task| {
        let id = ids[task / per_expert];
        cpu.isa.run(Product {
            input: Rows { data: input, width: intermediate, select: None },
            weight: experts[id as usize].down.parts()[0].weight.view().elements::<W>(),
            bias: None,
            out: &out,
            out_width: hidden,
            out_column: 0,
            rows: visits(id),
            columns: blocks.columns(task % per_expert, hidden),
        });
    });
    Ok(())
}

struct Gated<'a, T> {
    out: &'a mut [T],
    gate: &'a [f32],
    up: &'a [f32],
    act: Activation,
}

impl<T: Float> Kernel for Gated<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        gated_row(s, self.out, self.gate, self.up, self.act);
    }
}

/// Adds up each row's visits in slot order.
fn combine(device: &Device, out: ViewMut<'_>, weights: View<'_>, workspace: &MoeWorkspace) -> Result<()> {
    let [hidden, chosen] = [out.shape().dims()[1], workspace.chosen];
    let (weights, down) = (weights.as_slice::<f32>()?, workspace.down.as_slice::<f32>()?);
    let cpu = device.as_cpu("moe")?;
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(chosen * hidden), |first, out| {
        for (row, out) in (first..).zip(out.chunks_exact_mut(hidden)) {
            let slots = row * chosen..(row + 1) * chosen;
            let places = &workspace.places[slots.clone()];
            cpu.isa.run(WeightedSum { out, places, weights: &weights[slots], down });
        }
    });
    Ok(())
}

struct WeightedSum<'a> {
    out: &'a mut [f32],
    places: &'a [u32],
    weights: &'a [f32],
    /// `[visits, H]`
    down: &'a [f32],
}

impl Kernel for WeightedSum<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.out.len();
        for (at, out) in (0..).step_by(LANES).zip(self.out.chunks_mut(LANES)) {
            let mut sum = s.splat(0.0);
            for (&place, &weight) in self.places.iter().zip(self.weights) {
                let start = place as usize * width;
                let x = f32::load(s, &self.down[start + at..start + width]);
                sum = s.mul_add(s.splat(weight), x, sum);
            }
            f32::store(s, out, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::ops::{LinearPart, linear, testing::*};
    use crate::{Element, ops::gated_activation};

    fn experts<T: Rounded>(random: &mut Random, n: usize, h: usize, i: usize) -> Vec<Expert> {
        let mut part = |rows: usize, k: usize| {
            let values: Vec<T> = rounded(&random.floats(rows * k, 0.5));
            LinearPart { weight: Tensor::from_slice([rows, k], &values).unwrap(), bias: None }
        };
        (0..n)
            .map(|_| Expert {
                gate_up: Linear::new(vec![part(i, h), part(i, h)]).unwrap(),
                down: Linear::new(vec![part(h, i)]).unwrap(),
            })
            .collect()
    }

    /// The same by other ops, row by row.
    fn reference<X: Element>(device: &Device, x: &[X], id: u32, experts: &[Expert]) -> Vec<f32> {
        let expert = &experts[id as usize];
        let (h, i) = (expert.down.out_features(), expert.down.in_features());
        let mut gate_up = vec![0.0f32; 2 * i];
        let mut activated = Tensor::zeros([1, i], X::DTYPE).unwrap();
        let mut out = vec![0.0f32; h];
        let x = View::from_slice([1, h], x).unwrap();
        linear(device, ViewMut::from_slice([1, 2 * i], &mut gate_up).unwrap(), x, &expert.gate_up).unwrap();
        let gate_up = View::from_slice([1, 2 * i], &gate_up).unwrap();
        gated_activation(device, activated.view_mut().unwrap(), gate_up, Activation::Silu).unwrap();
        let view = ViewMut::from_slice([1, h], &mut out).unwrap();
        linear(device, view, activated.view(), &expert.down).unwrap();
        out
    }

    fn check<W: Rounded + Weight<Input: Rounded>>() {
        let (rows, k, h, i, e) = (100, 3, 40, 70, 9);
        let mut random = Random::new(10);
        let experts = experts::<W>(&mut random, e, h, i);
        let x: Vec<W::Input> = rounded(&random.floats(rows * h, 1.0));
        // Expert 4 is never chosen.
        let ids: Vec<u32> = (0..rows * k).map(|n| [0, 1, 2, 3, 5, 6, 7, 8][(n * n + n / 7) % 8]).collect();
        let weights = random.floats(rows * k, 1.0);
        for device in devices() {
            let mut workspace = MoeWorkspace::new(rows, k, h, i, e, W::DTYPE).unwrap();
            let mut run = |rows: usize| {
                let mut out = vec![f32::NAN; rows * h];
                moe(
                    &device,
                    ViewMut::from_slice([rows, h], &mut out).unwrap(),
                    View::from_slice([rows, h], &x[..rows * h]).unwrap(),
                    View::from_slice([rows, k], &ids[..rows * k]).unwrap(),
                    View::from_slice([rows, k], &weights[..rows * k]).unwrap(),
                    &experts,
                    Activation::Silu,
                    &mut workspace,
                )
                .unwrap();
                out
            };
            let all = run(rows);
            for row in 0..rows {
                let mut expected = vec![0.0; h];
                for slot in row * k..(row + 1) * k {
                    let one = reference(&device, &x[row * h..(row + 1) * h], ids[slot], &experts);
                    for (sum, x) in expected.iter_mut().zip(one) {
                        *sum += f64::from(weights[slot]) * f64::from(x);
                    }
                }
                assert_close(&all[row * h..(row + 1) * h], &expected, 1e-5, "moe");
            }
            for batch in [1, 2, 7, 32] {
                assert_same_bits(&run(batch), &all[..batch * h], "batch");
            }
        }
    }

    #[test]
    fn agrees_with_one_expert_at_a_time_and_does_not_depend_on_the_batch() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }

    #[test]
    fn an_expert_out_of_range_is_named() {
        let experts = experts::<f32>(&mut Random::new(11), 2, 8, 8);
        let mut workspace = MoeWorkspace::new(1, 1, 8, 8, 2, DType::F32).unwrap();
        let (mut out, x) = ([0.0f32; 8], [0.0f32; 8]);
        let error = moe(
            &devices()[0],
            ViewMut::from_slice([1, 8], &mut out).unwrap(),
            View::from_slice([1, 8], &x).unwrap(),
            View::from_slice([1, 1], &[2u32]).unwrap(),
            View::from_slice([1, 1], &[1.0f32]).unwrap(),
            &experts,
            Activation::Silu,
            &mut workspace,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "moe: ids[0] is 2, expected less than 2");
    }
}
