use half::bf16;

use super::super::LinearPart;
use super::*;
use crate::{
    Tensor,
    ops::{Activation, testing::*},
};

/// Every plan for so many rows: each kernel of the family that can, whatever it is meant for. On a GPU of two
/// multiprocessors, so that thread blocks that take tiles in turn take several.
fn plans(cut: Cut, rows: usize, features: usize) -> impl Iterator<Item = Plan> {
    let Family { small, large, serial_split_k, whole, .. } = cut.family;
    let whole = whole.iter().filter(move |_| cut.parts == 1);
    let tiles = small.iter().chain([large, serial_split_k]).chain(whole);
    tiles.map(move |tile| cut.plan_of(tile, rows, features, 2))
}

fn layer<W: Rounded>(device: &Device, n: usize, k: usize) -> Linear {
    let weight: Vec<W> = rounded(&Random::new(n as u64).floats(n * k, 1.0));
    let bias: Vec<W> = rounded(&Random::new(k as u64).floats(n, 1.0));
    let part = LinearPart {
        weight: Tensor::from_slice([n, k], &weight).unwrap().into(),
        bias: Some(Tensor::from_slice([n], &bias).unwrap()),
    };
    Linear::new(vec![part]).unwrap().to_device(device).unwrap()
}

/// Shapes on both sides of the tiles' and stages' edges; K in one part and in several.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 8],
    [9, 63, 64],
    [33, 65, 72],
    [65, 130, 512],
    [129, 40, 1288],
    [7, 136, 2048],
    // Several tiles of every kind, each with more stages than fit in shared memory.
    [260, 140, 504],
];

fn all_kernels_agree<W: Rounded, X: Rounded>() {
    let Some(device) = cuda() else { return };
    let Device::Cuda(gpu) = &device else { panic!("not a GPU") };
    for [rows, n, k] in SHAPES {
        let linear = layer::<W>(&device, n, k);
        let x = upload::<X>(&device, [rows, k], &rounded(&Random::new(3).floats(rows * k, 1.0)));
        let mut first: Option<Vec<f32>> = None;
        let cut = Cut::of(gpu.capability(), &linear);
        for plan in plans(cut, rows, n) {
            let mut out = empty(&device, [rows, n], DType::F32);
            launch_linear(gpu, &mut out.view_mut().unwrap(), x.view(), &linear, cut, plan).unwrap();
            let found = to_vec::<f32>(&device, &out);
            assert!(found.iter().all(|x| x.is_finite()));
            let what = format!("{} of {rows} rows, {n} x {k}, {} parts", plan.tile.linear, cut.parts);
            assert_same_bits(&found, first.get_or_insert(found.clone()), &what);
        }
    }
}

#[test]
fn all_kernels_of_a_family_give_the_same_bits() {
    all_kernels_agree::<f32, f32>();
    all_kernels_agree::<half::f16, f32>();
    all_kernels_agree::<bf16, bf16>();
}

#[test]
fn the_gate_of_a_kernel_is_that_of_gated_activation() {
    let Some(device) = cuda() else { return };
    let Device::Cuda(gpu) = &device else { panic!("not a GPU") };
    for [rows, width, k] in SHAPES {
        let linear = layer::<bf16>(&device, 2 * width, k);
        let x = upload::<bf16>(&device, [rows, k], &rounded(&Random::new(3).floats(rows * k, 1.0)));
        let glu = Glu::Clamped { act: Activation::Silu, limit: 3.0 };
        let mut gate_up = empty(&device, [rows, 2 * width], DType::F32);
        super::linear(gpu, gate_up.view_mut().unwrap(), x.view(), &linear).unwrap();
        let mut out = empty(&device, [rows, width], DType::BF16);
        crate::ops::gated_activation(&device, out.view_mut().unwrap(), gate_up.view(), glu).unwrap();
        let expected = to_vec::<bf16>(&device, &out);
        let cut = Cut::of(gpu.capability(), &linear);
        for plan in plans(cut, rows, gated_features(2 * width)) {
            let mut out = empty(&device, [rows, width], DType::BF16);
            launch_gated(gpu, &mut out.view_mut().unwrap(), x.view(), &linear, glu, cut, plan).unwrap();
            let what = format!("{:?} of {rows} rows, {width} x {k}", plan.tile.gated);
            assert!(to_vec::<bf16>(&device, &out) == expected, "{what}");
        }
    }
}

/// A weight's cut.
fn cut(n: usize, k: usize, capability: (u32, u32)) -> Cut {
    let weight = Tensor::zeros([n, k], DType::BF16).unwrap();
    Cut::of(capability, &Linear::new(vec![LinearPart { weight: weight.into(), bias: None }]).unwrap())
}

#[test]
fn parts_depend_on_the_weight_and_fill_the_gpu() {
    for (n, k, parts) in [(64, 64, 1), (4096, 4096, 4), (6144, 4096, 3), (28672, 4096, 1), (1024, 3072, 8)] {
        assert_eq!(cut(n, k, (8, 0)).parts, parts, "{n} x {k}");
    }
}

#[test]
fn memory_for_partial_sums_is_planned_for_the_worst_number_of_rows() {
    let shapes = [(4096, 4096), (1000, 3000), (64, 64)];
    for ((n, k), capability) in shapes.into_iter().flat_map(|shape| [(shape, (8, 0)), (shape, (9, 0))]) {
        let cut = cut(n, k, capability);
        for most in [1, 64, 300, 2000] {
            let planned = cut.most_partial_bytes(most, n, 132);
            let plan = |rows| cut.plan_of(cut.tile(rows, n, 132), rows, n, 132);
            let taken = (1..=most).map(|rows| plan(rows).partial_bytes).max();
            assert!(taken.unwrap() <= planned && planned < 1 << 27, "{n} x {k}, {most} rows");
        }
    }
}
