//! Matrices in a GPU's memory.

use super::{Format, Matrix};
use crate::{Allocator, DType, Result, Shape, Tensor, convert};

/// Rows that share a scale of FP8 on a GPU: few enough that weights can stand one after another.
const SCALE_ROWS: usize = 16;

impl Matrix {
    /// On a GPU, the matrix of shape `shape` that matrices in host memory make, one after another. What no kernel decodes
    /// there, or differs in format, becomes floats.
    pub(crate) fn concatenated(to: &Allocator<'_>, shape: Shape, parts: &[&Matrix]) -> Result<Matrix> {
        let format = parts.first().map_or(Format::Float(DType::F32), |part| part.format);
        let compute = format.traits().compute;
        let [.., _, k] = *shape.dims() else { return Matrix::of_floats(to, shape, parts) };
        let decoded_there = format.traits().cuda_k.is_some_and(|multiple| k.is_multiple_of(multiple));
        if !decoded_there || parts.iter().any(|part| part.format != format) {
            return Matrix::of_floats(to, shape, parts);
        }
        let rows = shape.elements() / k.max(1);
        let joined = |of: fn(&Matrix) -> Option<&Tensor>| {
            let tensors: Vec<&Tensor> = parts.iter().filter_map(|part| of(part)).collect();
            let elements: usize = tensors.iter().map(|tensor| tensor.shape().elements()).sum();
            to.concatenated(Shape::new([rows, elements / rows.max(1)]), &tensors)
        };
        match format {
            Format::Blocks(_) => Matrix::of_floats(to, shape, parts),
            Format::Float(_) => {
                let values: Vec<&Tensor> = parts.iter().map(|part| &part.values).collect();
                Ok(Matrix::from(to.concatenated(shape, &values)?))
            }
            Format::Mxfp4 => {
                let (values, scales) = (joined(|part| Some(&part.values))?, joined(|part| part.scales())?);
                Ok(Matrix {
                    format,
                    shape,
                    values,
                    scales: Some(scales),
                    scale_block: parts[0].scale_block,
                    compute,
                })
            }
            Format::Fp8 => {
                let columns = parts[0].scale_block[1];
                if !parts.iter().all(|part| part.has_rows_for_a_gpu(columns)) {
                    return Matrix::of_floats(to, shape, parts);
                }
                let of_scales = [rows / SCALE_ROWS, k.div_ceil(columns)];
                let values = joined(|part| Some(&part.values))?;
                let scales = to.filled(of_scales, DType::F32, || gpu_scales(of_scales, parts))?;
                Ok(Matrix {
                    format,
                    shape,
                    values,
                    scales: Some(scales),
                    scale_block: [SCALE_ROWS, columns],
                    compute,
                })
            }
        }
    }

    /// As [`Matrix::concatenated`], but what is packed becomes floats.
    pub(crate) fn concatenated_floats(to: &Allocator<'_>, shape: Shape, parts: &[&Matrix]) -> Result<Matrix> {
        match parts.iter().any(|part| part.format.is_packed()) {
            true => Matrix::of_floats(to, shape, parts),
            false => Matrix::concatenated(to, shape, parts),
        }
    }

    /// Its scales, of `columns` columns each, can be shared by as many rows as on a GPU.
    fn has_rows_for_a_gpu(&self, columns: usize) -> bool {
        let (rows, [block_rows, block_columns]) = (self.shape.dims()[0], self.scale_block);
        let whole = block_rows.is_multiple_of(SCALE_ROWS) || block_rows >= rows;
        block_columns == columns && rows.is_multiple_of(SCALE_ROWS) && whole
    }

    /// The same as floats.
    fn of_floats(to: &Allocator<'_>, shape: Shape, parts: &[&Matrix]) -> Result<Matrix> {
        let dtype = parts.first().map_or(DType::F32, |part| part.compute());
        let floats = to.filled(shape, dtype, || {
            let mut floats = Tensor::zeros(shape, dtype)?;
            convert::decode(floats.view_mut()?, parts)?;
            Ok(floats)
        });
        Ok(Matrix::from(floats?))
    }
}

/// The scales of FP8 matrices, one after another, each for [`SCALE_ROWS`] rows: f32, in host memory.
fn gpu_scales([rows, width]: [usize; 2], parts: &[&Matrix]) -> Result<Tensor> {
    let mut all = Tensor::zeros([rows, width], DType::F32)?;
    let mut out = all.as_mut_slice::<f32>()?.chunks_exact_mut(width.max(1));
    for part in parts {
        let Some(scales) = part.scales() else { continue };
        let scales = scales.as_slice::<f32>()?;
        for (first, out) in (0..part.shape.dims()[0]).step_by(SCALE_ROWS).zip(&mut out) {
            let row = first / part.scale_block[0];
            out.copy_from_slice(&scales[row * width..][..width]);
        }
    }
    Ok(all)
}
