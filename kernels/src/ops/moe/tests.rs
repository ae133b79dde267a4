use half::{bf16, f16};

use super::*;
use crate::{
    Allocator, Tensor,
    cpu::FloatWeight,
    ops::{Activation, Expert, Linear, LinearPart, testing::*},
};

const SIZES: [usize; 5] = [100, 3, 40, 70, 9];
const OAI: Glu = Glu::SwigluOai { alpha: 1.702, limit: 1.0 };

/// Values of experts: gate `[I, H]`, up `[I, H]`, down `[H, I]` of each, and their biases.
struct Case<W: FloatWeight<Input: Rounded>> {
    /// Rows, experts per row, hidden and intermediate size, experts.
    sizes: [usize; 5],
    weights: Vec<[Vec<W>; 3]>,
    biases: Option<Vec<[Vec<f32>; 3]>>,
    x: Vec<W::Input>,
    ids: Vec<u32>,
    slot_weights: Vec<f32>,
    glu: Glu,
    weigh: ApplyRouterWeight,
}

impl<W: Rounded + FloatWeight<Input: Rounded>> Case<W> {
    fn new(glu: Glu, weigh: ApplyRouterWeight, biased: bool) -> Case<W> {
        Case::sized(SIZES, glu, weigh, biased)
    }

    fn sized(sizes: [usize; 5], glu: Glu, weigh: ApplyRouterWeight, biased: bool) -> Case<W> {
        let [rows, k, h, i, e] = sizes;
        let mut random = Random::new(10);
        let weights =
            (0..e).map(|_| [i * h, i * h, h * i].map(|n| rounded(&random.floats(n, 0.5)))).collect();
        let biases = biased.then(|| (0..e).map(|_| [i, i, h].map(|n| random.floats(n, 1.0))).collect());
        // Expert 4 is never chosen.
        let ids = (0..rows * k).map(|n| [0, 1, 2, 3, 5, 6, 7, 8][(n * n + n / 7) % 8]).collect();
        let x = rounded(&random.floats(rows * h, 1.0));
        let slot_weights = random.floats(rows * k, 1.0);
        Case { sizes, weights, biases, x, ids, slot_weights, glu, weigh }
    }

    fn experts(&self) -> Experts {
        let [_, _, h, i, _] = self.sizes;
        let part = |e: usize, which: usize| {
            let [n, k] = if which == 2 { [h, i] } else { [i, h] };
            let vector = |bias: &Vec<f32>| Tensor::from_slice([n], bias).unwrap();
            let bias = self.biases.as_ref().map(|biases| vector(&biases[e][which]));
            LinearPart { weight: Tensor::from_slice([n, k], &self.weights[e][which]).unwrap().into(), bias }
        };
        let expert = |e| Expert {
            gate_up: Linear::new(vec![part(e, 0), part(e, 1)]).unwrap(),
            down: Linear::new(vec![part(e, 2)]).unwrap(),
        };
        Experts::new((0..self.weights.len()).map(expert).collect()).unwrap()
    }

    /// One row by the definition in f64, but for the rounding of what meets `down`.
    fn expected(&self, row: usize) -> Vec<f64> {
        let [_, k, h, i, _] = self.sizes;
        let x: Vec<f64> = self.x[row * h..(row + 1) * h].iter().map(|x| f64::from(x.widen())).collect();
        let product = |e: usize, which: usize, x: &[f64], out: usize| -> Vec<f64> {
            let weight = &self.weights[e][which];
            let dot = |n: usize| -> f64 {
                let row = &weight[n * x.len()..(n + 1) * x.len()];
                let bias = self.biases.as_ref().map_or(0.0, |biases| f64::from(biases[e][which][n]));
                row.iter().zip(x).map(|(w, x)| f64::from(w.widen()) * x).sum::<f64>() + bias
            };
            (0..out).map(dot).collect()
        };
        let mut out = vec![0.0; h];
        for slot in row * k..(row + 1) * k {
            let (e, weight) = (self.ids[slot] as usize, f64::from(self.slot_weights[slot]));
            let (on_input, on_output) =
                if self.weigh == ApplyRouterWeight::OnInput { (weight, 1.0) } else { (1.0, weight) };
            let x: Vec<f64> = x.iter().map(|x| x * on_input).collect();
            let (gate, up) = (product(e, 0, &x, i), product(e, 1, &x, i));
            let round = |x: f64| f64::from(W::Input::round(x as f32).widen());
            let activated: Vec<f64> =
                gate.iter().zip(&up).map(|(&gate, &up)| round(self.glu.in_f64(gate, up))).collect();
            for (out, y) in out.iter_mut().zip(product(e, 2, &activated, h)) {
                *out += on_output * y;
            }
        }
        out
    }

    fn check(&self, tolerance: f64) {
        let [rows, k, h, i, e] = self.sizes;
        let expected: Vec<f64> = (0..rows).flat_map(|row| self.expected(row)).collect();
        for device in every_device() {
            let experts = self.experts().to_device(&device).unwrap();
            let mut workspace =
                MoeWorkspace::new(&Allocator::new(&device), rows, k, h, i, e, W::DTYPE).unwrap();
            let mut run = |rows: usize| {
                let mut out = empty(&device, [rows, h], DType::F32);
                moe(
                    &device,
                    out.view_mut().unwrap(),
                    upload(&device, [rows, h], &self.x[..rows * h]).view(),
                    upload(&device, [rows, k], &self.ids[..rows * k]).view(),
                    upload(&device, [rows, k], &self.slot_weights[..rows * k]).view(),
                    &experts,
                    self.glu,
                    self.weigh,
                    &mut workspace,
                )
                .unwrap();
                to_vec::<f32>(&device, &out)
            };
            let all = run(rows);
            assert_close(&all, &expected, tolerance, "moe");
            for batch in [1, 2, 7, 32] {
                assert_same_bits(&run(batch), &all[..batch * h], "batch");
            }
        }
    }
}

#[test]
fn agrees_with_the_definition_and_does_not_depend_on_the_batch() {
    let silu = Glu::Plain(Activation::Silu);
    Case::<f32>::new(silu, ApplyRouterWeight::OnOutput, false).check(2e-5);
    Case::<f16>::new(silu, ApplyRouterWeight::OnOutput, false).check(2e-5);
    // An activation that falls on the other side of a rounding moves what follows.
    Case::<bf16>::new(silu, ApplyRouterWeight::OnOutput, false).check(0.05);
}

#[test]
fn biases_clamped_gates_and_weighted_inputs() {
    Case::<f32>::new(OAI, ApplyRouterWeight::OnOutput, true).check(2e-5);
    Case::<bf16>::new(OAI, ApplyRouterWeight::OnOutput, true).check(0.05);
    Case::<f32>::new(Glu::Plain(Activation::Silu), ApplyRouterWeight::OnInput, false).check(2e-5);
    let clamped = Glu::Clamped { act: Activation::GeluTanh, limit: 0.7 };
    Case::<f32>::new(clamped, ApplyRouterWeight::OnInput, false).check(2e-5);
}

#[test]
fn misfits_are_named() {
    let [_, k, h, i, e] = SIZES;
    let device = &devices()[0];
    let case = Case::<f32>::new(OAI, ApplyRouterWeight::OnOutput, true);
    let experts = case.experts();
    let message = |id: u32, rows: usize, weigh, sizes: [usize; 5]| {
        let [max_rows, k_of, h_of, i_of, e_of] = sizes;
        let mut workspace =
            MoeWorkspace::new(&Allocator::new(&devices()[0]), max_rows, k_of, h_of, i_of, e_of, DType::F32)
                .unwrap();
        let mut out = empty(device, [rows, h], DType::F32);
        moe(
            device,
            out.view_mut().unwrap(),
            empty(device, [rows, h], DType::F32).view(),
            upload(device, [rows, k], &vec![id; rows * k]).view(),
            empty(device, [rows, k], DType::F32).view(),
            &experts,
            OAI,
            weigh,
            &mut workspace,
        )
        .unwrap_err()
        .to_string()
    };
    let output = ApplyRouterWeight::OnOutput;
    assert_eq!(message(9, 1, output, [1, k, h, i, e]), "moe: ids[0] is 9, expected less than 9");
    assert_eq!(
        message(0, 2, output, [1, k, h, i, e]),
        "moe: 2 rows with 3 experts each, the workspace is for 1 with 3"
    );
    assert_eq!(
        message(0, 1, output, [1, k, h, i, 8]),
        "moe: 9 experts of 40 to 70 in float32, the workspace is for 8 experts of 40 to 70 in float32"
    );
    assert_eq!(
        message(0, 1, ApplyRouterWeight::OnInput, [1, k, h, i, e]),
        "moe: cannot weigh the inputs of experts with biases"
    );
}

/// From a few pairs of each expert to more than the largest tile holds, with sizes that fill no tile.
#[test]
fn tiles_of_every_size_agree() {
    let sizes = [120, 3, 72, 136, 9];
    Case::<bf16>::sized(sizes, Glu::Plain(Activation::Silu), ApplyRouterWeight::OnOutput, false).check(0.1);
    Case::<bf16>::sized(sizes, OAI, ApplyRouterWeight::OnOutput, true).check(0.1);
}
