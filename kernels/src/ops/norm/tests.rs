use super::*;
use crate::{Tensor, ops::testing::*};

/// One norm: kind, weight and bias.
struct Parameters {
    kind: NormKind,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

const EPS: f32 = 1e-2;

impl Parameters {
    fn new(seed: u64, kind: NormKind, biased: bool, hidden: usize) -> Parameters {
        let mut random = Random::new(seed);
        let weight = random.floats(hidden, 2.0);
        Parameters { kind, weight, bias: biased.then(|| random.floats(hidden, 1.0)) }
    }

    /// The definition.
    fn in_f64(&self, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let mean = if self.kind == NormKind::Layer { mean } else { 0.0 };
        let squares = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (squares + f64::from(EPS)).sqrt();
        let bias = |i: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
        x.iter().enumerate().map(|(i, x)| (x - mean) * scale * f64::from(self.weight[i]) + bias(i)).collect()
    }

    fn upload(&self, device: &Device) -> (Tensor, Option<Tensor>) {
        let vector = |x: &Vec<f32>| upload(device, [x.len()], x);
        (vector(&self.weight), self.bias.as_ref().map(vector))
    }
}

fn view<'a>(kind: NormKind, (weight, bias): &'a (Tensor, Option<Tensor>)) -> Norm<'a> {
    Norm { kind, weight: weight.view(), bias: bias.as_ref().map(Tensor::view), eps: EPS }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check(hidden: usize, main: Parameters, post: Option<Parameters>) {
    let rows = 100;
    let mut random = Random::new(2);
    let (residual, delta) = (random.floats(rows * hidden, 3.0), random.floats(rows * hidden, 1.0));
    let added: Vec<f64> = delta
        .chunks(hidden)
        .flat_map(|delta| post.as_ref().map_or_else(|| wide(delta), |post| post.in_f64(&wide(delta))))
        .collect();
    let sum: Vec<f64> = wide(&residual).iter().zip(&added).map(|(a, b)| a + b).collect();
    let expected: Vec<f64> = sum.chunks(hidden).flat_map(|x| main.in_f64(x)).collect();
    for device in every_device() {
        let weights = main.upload(&device);
        let post_weights = post.as_ref().map(|post| (post.kind, post.upload(&device)));
        let tensor = |x: &[f32], rows: usize| upload(&device, [rows, hidden], &x[..rows * hidden]);
        let run = |batch: usize, dtype| {
            let (mut updated, delta) = (tensor(&residual, batch), tensor(&delta, batch));
            let mut out = empty(&device, [batch, hidden], dtype);
            let post = post_weights.as_ref().map(|(kind, weights)| view(*kind, weights));
            let main = view(main.kind, &weights);
            let (out_view, residual) = (out.view_mut().unwrap(), updated.view_mut().unwrap());
            add_norm(&device, out_view, residual, delta.view(), post, main).unwrap();
            (to_vec::<f32>(&device, &updated), out)
        };
        let (updated, out) = run(rows, DType::F32);
        let out = to_vec::<f32>(&device, &out);
        assert_close(&updated, &sum, 1e-5, "residual");
        assert_close(&out, &expected, 2e-5, "add_norm");
        for batch in [1, 2, 7, 32, 100] {
            let (part, narrow) = run(batch, DType::BF16);
            assert_same_bits(&part, &updated[..batch * hidden], "residual");
            assert_eq!(to_vec::<bf16>(&device, &narrow), rounded::<bf16>(&out[..batch * hidden]));
            // The same by `norm`, of what the residual has become.
            let x = tensor(&updated, batch);
            let alone = |dtype| {
                let mut out = empty(&device, [batch, hidden], dtype);
                norm(&device, out.view_mut().unwrap(), x.view(), view(main.kind, &weights)).unwrap();
                out
            };
            assert_same_bits(&to_vec::<f32>(&device, &alone(DType::F32)), &out[..batch * hidden], "norm");
            let narrow_alone = to_vec::<bf16>(&device, &alone(DType::BF16));
            assert_eq!(narrow_alone, to_vec::<bf16>(&device, &narrow), "norm");
        }
    }
}

#[test]
fn both_ops_agree_with_the_formula_and_do_not_depend_on_the_batch() {
    for (kind, biased) in [(NormKind::Rms, false), (NormKind::Rms, true), (NormKind::Layer, true)] {
        check(200, Parameters::new(3, kind, biased, 200), None);
        check(75, Parameters::new(3, NormKind::Layer, biased, 75), None);
        // A norm of another kind before the addition.
        for post in [NormKind::Rms, NormKind::Layer] {
            check(75, Parameters::new(3, kind, biased, 75), Some(Parameters::new(4, post, !biased, 75)));
        }
    }
}

#[test]
fn weights_of_every_type() {
    weights_of::<bf16>();
    weights_of::<half::f16>();
}

/// Weights of a type are as good as the same numbers in f32.
fn weights_of<T: Rounded>() {
    let x = Random::new(3).floats(40, 1.0);
    let weight: Vec<T> = rounded(&Random::new(4).floats(40, 1.0));
    for device in every_device() {
        let x = upload(&device, [1, 40], &x);
        let run = |weight: Tensor| {
            let mut out = empty(&device, [1, 40], DType::F32);
            norm(&device, out.view_mut().unwrap(), x.view(), view(NormKind::Rms, &(weight, None))).unwrap();
            to_vec::<f32>(&device, &out)
        };
        let wide = run(upload(&device, [40], &widened(&weight)));
        assert_same_bits(&run(upload(&device, [40], &weight)), &wide, "weights");
    }
}

#[test]
fn misfits_are_named() {
    let zeros = |shape: &[usize]| match *shape {
        [n] => Tensor::zeros([n], DType::F32).unwrap(),
        [t, h] => Tensor::zeros([t, h], DType::F32).unwrap(),
        _ => unreachable!(),
    };
    let message = |out: &[usize], weight: &[usize], bias: Option<&[usize]>, post: &[usize]| {
        let device = &devices()[0];
        let (mut out, mut residual, delta) = (zeros(out), zeros(&[2, 8]), zeros(&[2, 8]));
        let (main, post) = ((zeros(weight), bias.map(zeros)), (zeros(post), None));
        let (out, residual) = (out.view_mut().unwrap(), residual.view_mut().unwrap());
        let post = Some(view(NormKind::Rms, &post));
        add_norm(device, out, residual, delta.view(), post, view(NormKind::Layer, &main))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(message(&[2, 8], &[9], None, &[8]), "add_norm: `norm` has shape [9], expected [8]");
    assert_eq!(message(&[2, 8], &[8], Some(&[7]), &[8]), "add_norm: `bias` has shape [7], expected [8]");
    assert_eq!(message(&[2, 8], &[8], None, &[4]), "add_norm: `post` has shape [4], expected [8]");
    assert_eq!(message(&[1, 8], &[8], None, &[8]), "add_norm: `out` has shape [1, 8], expected [2, 8]");
}
