//! MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 four-bit floats that share a power of two. Unpacked at load, since
//! the ops read 16-bit and 32-bit floats.

use half::bf16;
use mosu_kernels::{DType, Element, KernelError, Tensor};
use rayon::prelude::*;

/// Elements of one block.
pub(super) const BLOCK: usize = 32;

/// The values of E2M1: sign, two bits of exponent, one of mantissa.
const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The matrix `[rows, columns]` whose blocks run along the columns: `blocks` holds two elements per byte, the lower half
/// first, and `scales` one exponent per block, by 127 too large. Both types hold every value exactly.
///
/// # Errors
/// When memory is short.
pub(super) fn unpack(
    blocks: &[u8],
    scales: &[u8],
    shape: [usize; 2],
    dtype: DType,
) -> Result<Tensor, KernelError> {
    let mut tensor = Tensor::zeros(shape, dtype)?;
    match dtype {
        DType::BF16 => fill::<bf16>(&mut tensor, blocks, scales, bf16::from_f32)?,
        _ => fill::<f32>(&mut tensor, blocks, scales, |x| x)?,
    }
    Ok(tensor)
}

fn fill<T: Element>(
    tensor: &mut Tensor,
    blocks: &[u8],
    scales: &[u8],
    round: impl Fn(f32) -> T + Sync,
) -> Result<(), KernelError> {
    let elements = tensor.as_mut_slice::<T>()?.par_chunks_mut(BLOCK);
    elements.zip(blocks.par_chunks(BLOCK / 2)).zip(scales).for_each(|((elements, bytes), &scale)| {
        let scale = (f32::from(scale) - 127.0).exp2();
        for (pair, byte) in elements.chunks_exact_mut(2).zip(bytes) {
            pair[0] = round(VALUES[usize::from(byte & 15)] * scale);
            pair[1] = round(VALUES[usize::from(byte >> 4)] * scale);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_bytes_times_a_power_of_two() {
        let mut blocks = [0u8; 32];
        // 0.5 and -6 at the front of the first block, 1 at the end of the second.
        blocks[0] = 0xf1;
        blocks[31] = 0x20;
        let scales = [128, 125];
        let matrix = unpack(&blocks, &scales, [2, 32], DType::F32).unwrap();
        let mut expected = [0.0; 64];
        (expected[0], expected[1], expected[63]) = (1.0, -12.0, 0.25);
        assert_eq!(matrix.as_slice::<f32>().unwrap(), expected);
        let rounded = unpack(&blocks, &scales, [2, 32], DType::BF16).unwrap();
        let rounded: Vec<f32> = rounded.as_slice::<bf16>().unwrap().iter().map(|x| x.to_f32()).collect();
        assert_eq!(rounded, expected);
    }
}
