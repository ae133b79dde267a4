//! Copies of tensors whose file layout is not the one that the ops read.

use half::{bf16, f16};
use mosu_kernels::{DType, Element, Format, KernelError, Matrix, Shape, Tensor, convert};
use rayon::prelude::*;

/// A tensor's bytes, to read.
pub(crate) fn bytes(tensor: &Tensor) -> Result<&[u8], KernelError> {
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice(tensor.as_slice::<f32>()?),
        DType::F16 => bytemuck::cast_slice(tensor.as_slice::<f16>()?),
        DType::BF16 => bytemuck::cast_slice(tensor.as_slice::<bf16>()?),
        DType::U32 => bytemuck::cast_slice(tensor.as_slice::<u32>()?),
        DType::U8 => tensor.as_slice()?,
    })
}

/// A tensor's bytes, to fill.
pub(crate) fn bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8], KernelError> {
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<f32>()?),
        DType::F16 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<f16>()?),
        DType::BF16 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<bf16>()?),
        DType::U32 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<u32>()?),
        DType::U8 => tensor.as_mut_slice()?,
    })
}

/// A tensor that `fill` fills from another one; of a planned one, a plan.
fn copied(
    from: &Tensor,
    shape: Shape,
    dtype: DType,
    fill: impl FnOnce(&mut Tensor) -> Result<(), KernelError>,
) -> Result<Tensor, KernelError> {
    if from.is_planned() {
        return Tensor::planned(shape, dtype);
    }
    let mut copy = Tensor::zeros(shape, dtype)?;
    fill(&mut copy)?;
    Ok(copy)
}

/// Rows of a tensor (elements, if it has one dimension): row r of the result is row `order[r]`.
pub(super) fn reordered(tensor: &Tensor, order: &[usize]) -> Result<Tensor, KernelError> {
    let row_bytes = tensor.shape().row_elements() * tensor.dtype().size();
    let shape = match *tensor.shape().dims() {
        [_, columns] => Shape::new([order.len(), columns]),
        _ => Shape::new([order.len()]),
    };
    copied(tensor, shape, tensor.dtype(), |copy| {
        let from = bytes(tensor)?;
        let rows = bytes_mut(copy)?.par_chunks_mut(row_bytes.max(1));
        rows.zip(order).for_each(|(to, &row)| to.copy_from_slice(&from[row * row_bytes..][..row_bytes]));
        Ok(())
    })
}

/// Rows of a matrix: row r of the result is row `order[r]`. Where rows share scales it becomes floats.
pub(super) fn reordered_matrix(matrix: &Matrix, order: &[usize]) -> Result<Matrix, KernelError> {
    match (matrix.format(), matrix.scales()) {
        (Format::Mxfp4, Some(scales)) => {
            Matrix::mxfp4(reordered(matrix.values(), order)?, reordered(scales, order)?)
        }
        (Format::Blocks(blocks), _) => {
            let rows = Matrix::blocks(blocks, reordered(matrix.values(), order)?)?;
            Ok(if matrix.compute() == DType::F32 { rows.meeting_f32() } else { rows })
        }
        (Format::Fp8, _) => Ok(reordered(&matrix.decoded(matrix.compute())?, order)?.into()),
        _ => Ok(reordered(matrix.values(), order)?.into()),
    }
}

/// Matrices of one shape as floats of the type that they compute in: `[count, rows, columns]`.
pub(super) fn stacked_floats(matrices: &[Matrix], shape: [usize; 3]) -> Result<Tensor, KernelError> {
    let dtype = matrices.first().map_or(DType::F32, Matrix::compute);
    if matrices.iter().any(Matrix::is_planned) {
        return Tensor::planned(shape, dtype);
    }
    let mut all = Tensor::zeros(shape, dtype)?;
    let piece_bytes = shape[1] * shape[2] * dtype.size();
    for (matrix, to) in matrices.iter().zip(bytes_mut(&mut all)?.chunks_exact_mut(piece_bytes.max(1))) {
        to.copy_from_slice(bytes(&matrix.decoded(dtype)?)?);
    }
    Ok(all)
}

/// Columns of a matrix `[rows, columns]` as rows: row r of the result is column `order[r]`.
pub(super) fn transposed(tensor: &Tensor, order: &[usize]) -> Result<Tensor, KernelError> {
    fn transpose<T: Element>(from: &Tensor, to: &mut Tensor, order: &[usize]) -> Result<(), KernelError> {
        let (columns, from) = (from.shape().row_elements(), from.as_slice::<T>()?);
        let rows = from.len() / columns.max(1);
        let results = to.as_mut_slice::<T>()?.par_chunks_mut(rows.max(1));
        results.zip(order).for_each(|(result, &column)| {
            for (row, element) in result.iter_mut().enumerate() {
                *element = from[row * columns + column];
            }
        });
        Ok(())
    }
    let rows = tensor.shape().elements() / tensor.shape().row_elements().max(1);
    copied(tensor, Shape::new([order.len(), rows]), tensor.dtype(), |copy| match tensor.dtype() {
        DType::F32 => transpose::<f32>(tensor, copy, order),
        DType::F16 => transpose::<f16>(tensor, copy, order),
        DType::BF16 => transpose::<bf16>(tensor, copy, order),
        DType::U32 => transpose::<u32>(tensor, copy, order),
        DType::U8 => transpose::<u8>(tensor, copy, order),
    })
}

/// `1 + w` of every element, in f32.
pub(super) fn one_plus(tensor: &Tensor) -> Result<Tensor, KernelError> {
    fn add<T: Copy>(ones: &mut [f32], weights: &[T], to_f32: fn(T) -> f32) {
        ones.iter_mut().zip(weights).for_each(|(one, weight)| *one = 1.0 + to_f32(*weight));
    }
    copied(tensor, tensor.shape(), DType::F32, |copy| {
        let ones = copy.as_mut_slice::<f32>()?;
        match tensor.dtype() {
            DType::F16 => add(ones, tensor.as_slice::<f16>()?, f16::to_f32),
            DType::BF16 => add(ones, tensor.as_slice::<bf16>()?, bf16::to_f32),
            _ => add(ones, tensor.as_slice::<f32>()?, |weight| weight),
        }
        Ok(())
    })
}

/// The matrix from latents to keys and values, rows `[heads, N + D]`, as the two that attention needs:
/// `[heads, L, N]` and `[heads, D, L]`.
pub(super) fn split_latent(
    kv_up: Matrix,
    heads: usize,
    [nope_dim, value_dim]: [usize; 2],
) -> Result<[Tensor; 2], KernelError> {
    let decoded;
    let kv_up = match kv_up.format() {
        Format::Float(_) => kv_up.values(),
        _ => {
            decoded = kv_up.decoded(kv_up.compute())?;
            &decoded
        }
    };
    let (rank, dtype) = (kv_up.shape().row_elements(), kv_up.dtype());
    if kv_up.is_planned() {
        let keys = Tensor::planned([heads, rank, nope_dim], dtype)?;
        return Ok([keys, Tensor::planned([heads, value_dim, rank], dtype)?]);
    }
    convert::split_kv_b(kv_up.view(), heads, nope_dim)
}

/// The order that turns rows `[Hkv, group + 2, D]` into q, k, v: the queries of all KV heads, then the keys, then the
/// values.
pub(super) fn ungrouped(num_kv_heads: usize, group: usize, head_dim: usize) -> Vec<usize> {
    let head = |kv: usize, member: usize| (kv * (group + 2) + member) * head_dim;
    let queries = (0..num_kv_heads).flat_map(|kv| (0..group).map(move |member| head(kv, member)));
    let keys = (0..num_kv_heads).map(|kv| head(kv, group));
    let values = (0..num_kv_heads).map(|kv| head(kv, group + 1));
    let heads = queries.chain(keys).chain(values);
    heads.flat_map(|first| first..first + head_dim).collect()
}

/// The order that turns alternating elements of gate and up into all of gate, then all of up.
pub(super) fn deinterleaved(intermediate_size: usize) -> Vec<usize> {
    let (gate, up) = (0..intermediate_size, 0..intermediate_size);
    gate.map(|i| 2 * i).chain(up.map(|i| 2 * i + 1)).collect()
}

/// Both dimensions of a matrix exchanged.
pub(super) fn swapped([rows, columns]: [usize; 2]) -> Shape {
    Shape::new([columns, rows])
}

#[cfg(test)]
mod tests {
    use mosu_kernels::BlockType;

    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        match *shape {
            [n] => Tensor::from_slice([n], values).unwrap(),
            [rows, columns] => Tensor::from_slice([rows, columns], values).unwrap(),
            _ => panic!("one or two dimensions"),
        }
    }

    #[test]
    fn rows_and_elements_move() {
        let matrix = reordered(&tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), &[2, 0, 1]).unwrap();
        assert_eq!(matrix.as_slice::<f32>().unwrap(), [5.0, 6.0, 1.0, 2.0, 3.0, 4.0]);
        let bias = reordered(&tensor(&[3], &[1.0, 2.0, 3.0]), &[2, 0, 1]).unwrap();
        assert_eq!(bias.as_slice::<f32>().unwrap(), [3.0, 1.0, 2.0]);
    }

    #[test]
    fn blocks_meet_what_they_met() {
        let bytes: Vec<u8> = (0..2 * 18).collect();
        let blocks =
            || Matrix::blocks(BlockType::Q4_0, Tensor::from_slice([2, 18], &bytes).unwrap()).unwrap();
        for matrix in [blocks(), blocks().meeting_f32()] {
            let turned = reordered_matrix(&matrix, &[1, 0]).unwrap();
            assert_eq!(turned.compute(), matrix.compute());
            assert_eq!(turned.values().as_slice::<u8>().unwrap()[..18], bytes[18..]);
        }
    }

    #[test]
    fn transposes_take_columns_in_order() {
        let matrix = transposed(&tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), &[0, 2, 1]).unwrap();
        assert_eq!(matrix.shape().dims(), [3, 2]);
        assert_eq!(matrix.as_slice::<f32>().unwrap(), [1.0, 4.0, 3.0, 6.0, 2.0, 5.0]);
    }

    #[test]
    fn groups_and_pairs_come_apart() {
        // Two KV heads of two queries each: q0 q1 k v | q2 q3 k v, a head of one element.
        assert_eq!(ungrouped(2, 2, 1), [0, 1, 4, 5, 2, 6, 3, 7]);
        assert_eq!(ungrouped(1, 1, 2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(deinterleaved(3), [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn one_is_added_in_f32() {
        let weights = [bf16::from_f32(0.5), bf16::from_f32(-1.0)];
        let norm = one_plus(&Tensor::from_slice([2], &weights).unwrap()).unwrap();
        assert_eq!(norm.as_slice::<f32>().unwrap(), [1.5, 0.0]);
    }
}
