//! FP8 as DeepSeek publishes it: E4M3 values, and a scale for each block of 128 x 128 of a matrix. Unpacked at load,
//! since the ops read 16-bit and 32-bit floats.

use half::bf16;
use mosu_kernels::{DType, Element, KernelError, Tensor};
use rayon::prelude::*;

/// Rows and columns that share a scale.
pub(super) const BLOCK: usize = 128;

/// The shape of the scales of a matrix.
pub(super) fn scales_shape([rows, columns]: [usize; 2]) -> [usize; 2] {
    [rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)]
}

/// The matrix `[rows, columns]` of E4M3 `values`, each times its block's scale.
///
/// # Errors
/// When memory is short.
pub(super) fn unpack(
    values: &[u8],
    scales: &[f32],
    shape: [usize; 2],
    dtype: DType,
) -> Result<Tensor, KernelError> {
    let mut tensor = Tensor::zeros(shape, dtype)?;
    match dtype {
        DType::BF16 => fill::<bf16>(&mut tensor, values, scales, shape, bf16::from_f32)?,
        _ => fill::<f32>(&mut tensor, values, scales, shape, |x| x)?,
    }
    Ok(tensor)
}

fn fill<T: Element>(
    tensor: &mut Tensor,
    values: &[u8],
    scales: &[f32],
    shape: [usize; 2],
    round: impl Fn(f32) -> T + Sync,
) -> Result<(), KernelError> {
    let (columns, [_, blocks]) = (shape[1], scales_shape(shape));
    let rows = tensor.as_mut_slice::<T>()?.par_chunks_mut(columns.max(1));
    rows.zip(values.par_chunks(columns.max(1))).enumerate().for_each(|(row, (elements, values))| {
        let scales = &scales[row / BLOCK * blocks..][..blocks];
        for ((elements, values), scale) in elements.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).zip(scales) {
            for (element, &value) in elements.iter_mut().zip(values) {
                *element = round(e4m3(value) * scale);
            }
        }
    });
    Ok(())
}

/// E4M3 without infinities: sign, four bits of exponent with bias 7, three of mantissa.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * (-9.0_f32).exp2(),
        _ => (8.0 + mantissa) * ((exponent - 10) as f32).exp2(),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_e4m3() {
        let cases = [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (bits, value) in cases {
            assert_eq!(e4m3(bits), value, "{bits:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }

    #[test]
    fn blocks_at_the_edges_are_smaller() {
        let (rows, columns) = (130, 129);
        let matrix = unpack(&vec![0x38; rows * columns], &[1.0, 2.0, 3.0, 4.0], [rows, columns], DType::F32);
        let matrix = matrix.unwrap();
        let at = |row: usize, column: usize| matrix.as_slice::<f32>().unwrap()[row * columns + column];
        assert_eq!([at(0, 0), at(127, 127), at(0, 128), at(128, 0), at(129, 128)], [1.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
