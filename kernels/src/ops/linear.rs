//! `linear`: a matrix product with weights in place.

pub(super) mod cuda;
mod cuda_tiles;
mod to_device;

use std::ops::Range;

use super::{
    check::Check,
    multiply::{Multiply, for_compute, with_rows},
};
use crate::{
    CpuDevice, DType, Device, Format, Matrix, Result, Tensor, View, ViewMut,
    cpu::{Block, Floats, Input, Parts, Rows},
};

/// One weight of a [`Linear`].
#[derive(Debug)]
pub struct LinearPart {
    /// `[N, K]`: one row per output.
    pub weight: Matrix,
    /// `[N]`
    pub bias: Option<Tensor>,
}

/// One or more weights that share their input; their outputs stand side by side.
#[derive(Debug)]
pub struct Linear {
    parts: Vec<LinearPart>,
    in_features: usize,
    out_features: usize,
    compute: DType,
}

impl LinearPart {
    /// N, the rows of the weight.
    pub(super) fn out_features(&self) -> usize {
        self.weight.shape().dims()[0]
    }

    /// The bias, which [`Linear::new`] knows to be of a float type.
    pub(super) fn bias(&self) -> Option<Floats<'_>> {
        self.bias.as_ref().and_then(|bias| Floats::new(bias.view()).ok())
    }
}

impl Linear {
    /// A layer of the given parts.
    ///
    /// # Errors
    /// When there is no part, or they differ in K or in the type that they compute in, or a bias does not fit its weight.
    pub fn new(parts: Vec<LinearPart>) -> Result<Linear> {
        let check = Check("Linear::new");
        let first = parts.first().ok_or_else(|| check.error("no weight".into()))?;
        let compute = first.weight.compute();
        let in_features = first.weight.columns();
        let mut out_features = 0usize;
        for LinearPart { weight, bias } in &parts {
            let rows = match *weight.shape().dims() {
                [rows, columns] if columns == in_features => rows,
                _ => {
                    let found = weight.shape();
                    return Err(
                        check.error(format!("`weight` has shape {found}, expected [_, {in_features}]"))
                    );
                }
            };
            check.that(!matches!(weight.format(), Format::Float(DType::U32 | DType::U8)), || {
                format!("`weight` is {}, expected floats", weight.format())
            })?;
            check.that(weight.compute() == compute, || {
                format!("a weight of {} among those that compute in {compute}", weight.format())
            })?;
            if let Some(bias) = bias {
                check.shape("bias", &bias.view(), [rows])?;
                check.float("bias", &bias.view())?;
            }
            out_features += rows;
        }
        Ok(Linear { parts, in_features, out_features, compute })
    }

    /// The weights, in the order of their outputs.
    pub fn parts(&self) -> &[LinearPart] {
        &self.parts
    }

    /// Their matrices.
    pub(super) fn weights(&self) -> impl Iterator<Item = &Matrix> {
        self.parts.iter().map(|part| &part.weight)
    }

    /// K, the width of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The width of the output: all parts' N together.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// The type of the inputs.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Size of weights and biases.
    pub fn size_in_bytes(&self) -> usize {
        let bytes = |part: &LinearPart| {
            part.weight.size_in_bytes() + part.bias.as_ref().map_or(0, Tensor::size_in_bytes)
        };
        self.parts.iter().map(bytes).sum()
    }
}

/// `out[t, n] = Σ_k x[t, k] · weight[n, k] (+ bias[n])`.
///
/// - `out`: f32 `[T, N]`, N the parts' outputs together
/// - `x`: compute `[T, K]`
/// - `linear`: `[N, K]`
///
/// The order in which an element is summed depends on K and the instruction set alone.
///
/// # Errors
/// When shapes or types do not fit.
pub fn linear(device: &Device, out: ViewMut<'_>, x: View<'_>, linear: &Linear) -> Result<()> {
    let check = Check("linear");
    let [rows, _] = check.dims("x", &x)?;
    check.is("x", &x, [rows, linear.in_features], linear.compute)?;
    check.is("out", &out, [rows, linear.out_features], DType::F32)?;
    match device {
        Device::Cpu(cpu) => {
            let on_gpu = |part: &LinearPart| part.weight.values().view().cuda_ptr().is_some();
            check.that(!linear.parts.iter().any(on_gpu), || "the weights lie in device memory".into())?;
            for_compute!(linear.compute, X => multiply::<X>(cpu, out, x, linear))
        }
        Device::Cuda(gpu) => cuda::linear(gpu, out, x, linear),
    }
}

fn multiply<X: Multiply>(cpu: &CpuDevice, out: ViewMut<'_>, x: View<'_>, linear: &Linear) -> Result<()> {
    let rows = x.shape().dims()[0];
    let out = Parts::new(out.into_mut_slice()?);
    let blocks = Blocks::new::<X>(rows, linear, cpu.threads());
    let tasks = linear.parts.iter().map(|part| blocks.count(part.out_features())).sum();
    let run = |input: Rows<'_, X>| {
        cpu.pool.run(tasks, |task| {
            let (mut task, mut out_column) = (task, 0);
            for part in &linear.parts {
                let count = blocks.count(part.out_features());
                if task < count {
                    let (rows, columns) = blocks.get(task, part.out_features());
                    let (bias, out_width) = (part.bias(), linear.out_features);
                    let block = Block { input, bias, out: &out, out_width, out_column, rows, columns };
                    return X::multiply(cpu.isa, &part.weight, block);
                }
                task -= count;
                out_column += part.out_features();
            }
        });
    };
    with_rows(cpu, Rows::new(x.as_slice()?, linear.in_features), linear.weights(), run);
    Ok(())
}

/// How many times as many rows as stay in a cache meet packed weights together.
const PACKED_ROWS: usize = 8;

/// How products are cut into tasks.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    rows: usize,
    block_rows: usize,
    block_columns: usize,
}

impl Blocks {
    /// Blocks of rows and columns of a linear with `rows` input rows.
    fn new<X: Input>(rows: usize, linear: &Linear, threads: usize) -> Blocks {
        let packed = |part: &LinearPart| part.weight.format().is_packed();
        // A packed weight is decoded once for each block of rows.
        let blocks = if linear.parts.iter().any(packed) { PACKED_ROWS } else { 1 };
        let block_rows = Block::<X>::rows_in_cache(linear.in_features) * blocks;
        let columns = linear.out_features * rows.div_ceil(block_rows);
        Blocks { rows, block_rows, ..Blocks::of_columns(columns, threads) }
    }

    /// Blocks of columns only: enough of all `columns` columns for every thread to get its share, whatever the others'
    /// speed, and of enough bytes to be read at full speed.
    pub(super) fn of_columns(columns: usize, threads: usize) -> Blocks {
        let block_columns = (columns / (16 * threads)).clamp(24, 192).next_multiple_of(12);
        Blocks { rows: 1, block_rows: 1, block_columns }
    }

    /// Tasks of a weight with `columns` outputs.
    pub(super) fn count(self, columns: usize) -> usize {
        self.rows.div_ceil(self.block_rows) * columns.div_ceil(self.block_columns)
    }

    /// Rows and columns of a task of a weight with `columns` outputs. Tasks that share columns come together.
    fn get(self, task: usize, columns: usize) -> (Range<usize>, Range<usize>) {
        let per_column = self.rows.div_ceil(self.block_rows);
        let row = task % per_column * self.block_rows;
        let column = task / per_column * self.block_columns;
        (row..self.rows.min(row + self.block_rows), column..columns.min(column + self.block_columns))
    }

    /// Columns of a task of a weight with `columns` outputs.
    pub(super) fn columns(self, task: usize, columns: usize) -> Range<usize> {
        self.get(task, columns).1
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{Element, cpu::FloatWeight, ops::testing::*};

    /// Two parts, the second with a bias, and the values that they hold.
    fn two_parts<T: Rounded>(k: usize, n: [usize; 2], values: &[f32]) -> Linear {
        let all: Vec<T> = rounded(values);
        let (first, second) = all.split_at(n[0] * k);
        let bias: Vec<T> = second[..n[1]].to_vec();
        Linear::new(vec![
            LinearPart { weight: Tensor::from_slice([n[0], k], first).unwrap().into(), bias: None },
            LinearPart {
                weight: Tensor::from_slice([n[1], k], second).unwrap().into(),
                bias: Some(Tensor::from_slice([n[1]], &bias).unwrap()),
            },
        ])
        .unwrap()
    }

    fn run<T: Element>(device: &Device, layer: &Linear, x: &[T]) -> Vec<f32> {
        let rows = x.len() / layer.in_features();
        let x = upload(device, [rows, layer.in_features()], x);
        let mut out = empty(device, [rows, layer.out_features()], DType::F32);
        linear(device, out.view_mut().unwrap(), x.view(), layer).unwrap();
        to_vec(device, &out)
    }

    /// Compares with sums in f64, then rows of batches with the same rows in larger ones.
    fn check<W: Rounded + FloatWeight<Input: Rounded>>(k: usize, n: [usize; 2]) {
        let mut random = Random::new(7);
        let weights = random.floats((n[0] + n[1]) * k, 1.0);
        let x: Vec<W::Input> = rounded(&random.floats(100 * k, 1.0));
        let round = |x: f32| f64::from(W::round(x).widen());
        let expected: Vec<f64> = x
            .chunks(k)
            .flat_map(|x| weights.chunks(k).enumerate().map(move |(row, weight)| (x, row, weight)))
            .map(|(x, row, weight)| {
                let dot: f64 = x.iter().zip(weight).map(|(&x, &w)| f64::from(x.widen()) * round(w)).sum();
                if row < n[0] { dot } else { dot + round(weights[n[0] * k + row - n[0]]) }
            })
            .collect();
        let mut first: Option<(String, Vec<f32>)> = None;
        for device in every_device() {
            let layer = two_parts::<W>(k, n, &weights).to_device(&device).unwrap();
            let all = run(&device, &layer, &x);
            assert_close(&all, &expected, 1e-5 * (k as f64).sqrt(), "linear");
            for batch in [1, 2, 7, 32] {
                let start = (100 - batch) * k;
                let part = run(&device, &layer, &x[start..]);
                assert_same_bits(&part, &all[(100 - batch) * (n[0] + n[1])..], "linear");
            }
            match &first {
                Some((seen, bits)) if *seen == kind(&device) => assert_same_bits(&all, bits, "threads"),
                _ => first = Some((kind(&device), all)),
            }
        }
    }

    #[test]
    fn every_type_agrees_with_f64_sums_and_no_row_depends_on_another() {
        for (k, n) in [(1, [1, 1]), (33, [5, 9]), (256, [64, 50]), (1000, [13, 200])] {
            check::<f32>(k, n);
            check::<f16>(k, n);
            check::<bf16>(k, n);
        }
    }

    #[test]
    fn no_rows_and_no_inputs() {
        for device in every_device() {
            let layer = two_parts::<f32>(8, [3, 2], &[1.0; 40]).to_device(&device).unwrap();
            assert!(run::<f32>(&device, &layer, &[]).is_empty());
        }
    }

    #[test]
    fn misfits_are_named() {
        let weight =
            |n, k, dtype| LinearPart { weight: Tensor::zeros([n, k], dtype).unwrap().into(), bias: None };
        let message = |parts| Linear::new(parts).unwrap_err().to_string();
        assert_eq!(message(vec![]), "Linear::new: no weight");
        assert_eq!(
            message(vec![weight(2, 8, DType::F32), weight(2, 9, DType::F32)]),
            "Linear::new: `weight` has shape [2, 9], expected [_, 8]"
        );
        assert_eq!(
            message(vec![weight(2, 8, DType::F32), weight(2, 8, DType::BF16)]),
            "Linear::new: a weight of bfloat16 among those that compute in float32"
        );
        let layer = Linear::new(vec![weight(2, 8, DType::BF16)]).unwrap();
        let x = Tensor::zeros([1, 8], DType::F32).unwrap();
        let mut out = Tensor::zeros([1, 2], DType::F32).unwrap();
        let error = linear(&devices()[0], out.view_mut().unwrap(), x.view(), &layer).unwrap_err();
        assert_eq!(error.to_string(), "linear: `x` is float32, expected bfloat16");
    }
}
