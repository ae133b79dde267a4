//! Products on the CPU with a weight of any format.

use half::{bf16, f16};

use crate::{
    CpuDevice, DType, Format, Isa, Matrix,
    cpu::{Block, Input, Product, Rows, multiply_coded, multiply_packed, with_quantized},
};

/// A type of activations, for products with all weights that meet it.
pub(super) trait Multiply: Input {
    /// A block of the product with `weight`, which lies in host memory and meets activations of this type.
    fn multiply(isa: Isa, weight: &Matrix, block: Block<'_, Self>);
}

/// Calls `with` with the rows as the weights need them: quantised too, where one is coded.
pub(super) fn with_rows<'w, X: Multiply, R>(
    cpu: &CpuDevice,
    x: Rows<'_, X>,
    weights: impl Iterator<Item = &'w Matrix>,
    with: impl FnOnce(Rows<'_, X>) -> R,
) -> R {
    let mut groups = Vec::new();
    for own in weights.filter_map(|weight| weight.packed().ok()??.groups()) {
        if !groups.contains(&own) {
            groups.push(own);
        }
    }
    if groups.is_empty() {
        return with(x);
    }
    let shape = [x.count(), x.width];
    with_quantized(
        cpu.isa,
        &cpu.pool,
        shape,
        |row| x.get(row),
        &groups,
        |quantized| with(Rows { quantized, ..x }),
    )
}

impl Multiply for bf16 {
    fn multiply(isa: Isa, weight: &Matrix, block: Block<'_, bf16>) {
        match weight.packed() {
            Ok(Some(packed)) => multiply_packed(isa, packed, block),
            _ => isa.run(Product::<bf16> { weight: weight.values().view().elements(), block }),
        }
    }
}

impl Multiply for f32 {
    fn multiply(isa: Isa, weight: &Matrix, block: Block<'_, f32>) {
        let floats = weight.values().view();
        match (weight.packed(), weight.format()) {
            (Ok(Some(packed)), _) => multiply_coded(isa, packed, block),
            (_, Format::Float(DType::F16)) => isa.run(Product::<f16> { weight: floats.elements(), block }),
            _ => isa.run(Product::<f32> { weight: floats.elements(), block }),
        }
    }
}

/// An op's instantiation for the type of the activations.
macro_rules! for_compute {
    ($dtype:expr, $X:ident => $call:expr) => {
        if $dtype == crate::DType::BF16 {
            type $X = half::bf16;
            $call
        } else {
            type $X = f32;
            $call
        }
    };
}
pub(super) use for_compute;
