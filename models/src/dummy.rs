//! Random weights from a config.json alone (`--load-format dummy`), so that a published shape can be measured without
//! its weights. Every tensor has memory of its own, so that a step reads as many bytes as with real weights.

use std::path::{Path, PathBuf};

use half::f16;
use mosu_kernels::{BlockType, DType, Element, Format, FormatTraits, Matrix, Shape, Tensor};
use rayon::prelude::*;

use crate::{
    DecoderSpec, LoadError, Quantization,
    weights::{Pass, TensorSource, bytes_mut},
};

/// Bytes that one task fills.
const CHUNK: usize = 1 << 17;

/// The generator of random tensors.
pub(crate) struct DummyWeights {
    config: PathBuf,
    dtype: DType,
    /// The format of packed matrices.
    packed: Option<Format>,
    totals: (usize, u64),
    pass: Pass,
}

impl DummyWeights {
    /// A generator for `spec`, in the type and the format that config.json names (bf16 if it names none).
    pub fn new(config: &Path, spec: &DecoderSpec) -> DummyWeights {
        let (packed, dtype) =
            (spec.quantization.map(Quantization::format), spec.dtype.unwrap_or(DType::BF16));
        // Not all matrices are packed: no less than this.
        let FormatTraits { block, block_bytes, .. } = packed.unwrap_or(Format::Float(dtype)).traits();
        let parameters = spec.parameters().unwrap_or(u64::MAX);
        let bytes = (parameters / block as u64).saturating_mul(block_bytes as u64);
        DummyWeights {
            config: config.into(),
            dtype,
            packed,
            totals: (spec.tensors(), bytes),
            pass: Pass::Load,
        }
    }

    /// The format of a module's weight: of MXFP4 are experts only, of others what is in layers.
    fn format_of(&self, module: &str, [_, columns]: [usize; 2]) -> Format {
        let float = Format::Float(self.dtype);
        match self.packed.filter(|_| module.contains(".layers.")) {
            Some(Format::Mxfp4) if !module.contains(".experts.") => float,
            Some(format) if self.can_be(format) && columns.is_multiple_of(format.traits().block) => format,
            _ => float,
        }
    }

    /// Activations of the type that config.json names can meet this format.
    fn can_be(&self, format: Format) -> bool {
        self.dtype == DType::BF16 || matches!(format, Format::Blocks(_))
    }

    /// Random blocks whose values are small, as elsewhere: of the formats that integers become at load.
    fn blocks(&self, name: &str, of: BlockType, [rows, columns]: [usize; 2]) -> Result<Matrix, LoadError> {
        let FormatTraits { block, block_bytes, .. } = Format::Blocks(of).traits();
        let middle = if of == BlockType::Q8_0 { 128.0 } else { 8.0 };
        let scale = 1.0 / (64.0 * middle);
        let mut values = self.bytes(name, [rows, columns / block * block_bytes], 0xff)?;
        if self.pass != Pass::Plan {
            values.as_mut_slice::<u8>()?.par_chunks_exact_mut(block_bytes).for_each(|block| {
                block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                if of == BlockType::Q4_1 {
                    block[2..4].copy_from_slice(&f16::from_f32(-scale * middle).to_le_bytes());
                }
            });
        }
        let matrix = Matrix::blocks(of, values)?;
        Ok(if self.dtype == DType::BF16 { matrix } else { matrix.meeting_f32() })
    }

    /// Random bytes, as many as that; `bits` of each are free, the others 0.
    fn bytes(&self, name: &str, shape: [usize; 2], bits: u8) -> Result<Tensor, LoadError> {
        if self.pass == Pass::Plan {
            return Ok(Tensor::planned(shape, DType::U8)?);
        }
        let mut tensor = Tensor::zeros(shape, DType::U8)?;
        let free = u64::from_le_bytes([bits; 8]);
        fill_randomly(tensor.as_mut_slice()?, seed(name), Bits { one: 0, small: 0, free });
        Ok(tensor)
    }

    /// A tensor whose elements are all the same.
    fn constant<T: Element>(&self, shape: [usize; 2], value: T) -> Result<Tensor, LoadError> {
        if self.pass == Pass::Plan {
            return Ok(Tensor::planned(shape, T::DTYPE)?);
        }
        let mut tensor = Tensor::zeros(shape, T::DTYPE)?;
        tensor.as_mut_slice()?.fill(value);
        Ok(tensor)
    }
}

impl TensorSource for DummyWeights {
    fn begin(&mut self, pass: Pass) {
        self.pass = pass;
    }

    fn names(&self) -> [Vec<&str>; 2] {
        Default::default()
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }

    /// Norms are 1 and biases 0; matrices are random and small, so that activations stay finite through any depth.
    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        if self.pass == Pass::Plan {
            return Ok(Tensor::planned(shape, self.dtype)?);
        }
        let mut tensor = Tensor::zeros(shape, self.dtype)?;
        let bits = Bits::of(self.dtype);
        match shape.dims() {
            [_] if name.ends_with(".bias") => {}
            [_] => fill(bytes_mut(&mut tensor)?, || bits.one),
            _ => {
                fill_randomly(bytes_mut(&mut tensor)?, seed(name), bits);
            }
        }
        Ok(tensor)
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        (0..count).map(|index| self.claim(&format!("{name}.{index}"), piece)).collect()
    }

    fn claim_matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, LoadError> {
        let [rows, columns] = shape;
        match self.format_of(module, shape) {
            Format::Blocks(of) => self.blocks(module, of, shape),
            Format::Float(_) => Ok(self.claim(&format!("{module}.weight"), Shape::new(shape))?.into()),
            // Values up to 6, of which 1/128 is small enough.
            Format::Mxfp4 => {
                let scales = self.constant([rows, columns / 32], 127u8 - 7)?;
                Ok(Matrix::mxfp4(self.bytes(module, [rows, columns / 2], 0xff)?, scales)?)
            }
            // Without one bit of the exponent they are up to 1.75, and none is NaN.
            Format::Fp8 => {
                let blocks = [rows.div_ceil(128), columns.div_ceil(128)];
                let scales = self.constant(blocks, 1.0f32 / 64.0)?;
                Ok(Matrix::fp8(self.bytes(module, shape, 0xbf)?, scales, [128, 128])?)
            }
        }
    }

    fn claim_packed(&mut self, _: &str, _: usize, _: [usize; 2]) -> Result<Option<Vec<Matrix>>, LoadError> {
        Ok(None)
    }

    fn totals(&self) -> (usize, u64) {
        self.totals
    }

    fn file(&self) -> &Path {
        &self.config
    }

    fn file_of(&self, _name: &str) -> &Path {
        &self.config
    }
}

/// Numbers of one element type as bit patterns, repeated over eight bytes.
#[derive(Clone, Copy)]
struct Bits {
    /// 1
    one: u64,
    /// 1/64
    small: u64,
    /// Sign and mantissa. With these at random, `small` is uniform in ±(1/64 .. 1/32).
    free: u64,
}

impl Bits {
    fn of(dtype: DType) -> Bits {
        match dtype {
            DType::BF16 => Bits::repeat16(0x3f80, 0x3c80, 0x807f),
            DType::F16 => Bits::repeat16(0x3c00, 0x2400, 0x83ff),
            DType::F32 | DType::U32 | DType::U8 => Bits::repeat32(0x3f80_0000, 0x3c80_0000, 0x807f_ffff),
        }
    }

    fn repeat16(one: u16, small: u16, free: u16) -> Bits {
        let twice = |bits: u16| u32::from(bits) << 16 | u32::from(bits);
        Bits::repeat32(twice(one), twice(small), twice(free))
    }

    fn repeat32(one: u32, small: u32, free: u32) -> Bits {
        let twice = |bits: u32| u64::from(bits) << 32 | u64::from(bits);
        Bits { one: twice(one), small: twice(small), free: twice(free) }
    }
}

fn fill_randomly(bytes: &mut [u8], seed: u64, bits: Bits) {
    bytes.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, bytes)| {
        let mut state = seed ^ (chunk as u64).rotate_right(16);
        fill(bytes, || split_mix(&mut state) & bits.free | bits.small);
    });
}

fn fill(bytes: &mut [u8], mut word: impl FnMut() -> u64) {
    let mut words = bytes.chunks_exact_mut(8);
    for bytes in &mut words {
        bytes.copy_from_slice(&word().to_le_bytes());
    }
    let rest = words.into_remainder();
    rest.copy_from_slice(&word().to_le_bytes()[..rest.len()]);
}

/// A seed that names give.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0, |seed: u64, byte| split_mix(&mut (seed ^ u64::from(byte))))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn claim(dtype: DType, name: &str, shape: Shape) -> Vec<f32> {
        let mut source =
            DummyWeights { config: PathBuf::new(), dtype, packed: None, totals: (0, 0), pass: Pass::Load };
        let tensor = source.claim(name, shape).unwrap();
        match dtype {
            DType::BF16 => tensor.as_slice::<bf16>().unwrap().iter().map(|x| x.to_f32()).collect(),
            DType::F16 => tensor.as_slice::<f16>().unwrap().iter().map(|x| x.to_f32()).collect(),
            _ => tensor.as_slice::<f32>().unwrap().to_vec(),
        }
    }

    #[test]
    fn matrices_are_small_random_and_differ() {
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let a = claim(dtype, "a.weight", Shape::new([129, 1025]));
            let mean = a.iter().sum::<f32>() / a.len() as f32;
            assert!(a.iter().all(|x| (1.0 / 64.0..1.0 / 32.0).contains(&x.abs())), "{dtype}");
            assert!(mean.abs() < 1e-3, "{dtype}: mean {mean}");
            assert!(a != claim(dtype, "b.weight", Shape::new([129, 1025])), "{dtype}");
            assert!(
                a[..CHUNK / dtype.size()] != a[CHUNK / dtype.size()..][..CHUNK / dtype.size()],
                "{dtype}"
            );
        }
    }

    #[test]
    fn norms_are_one_and_biases_zero() {
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            assert_eq!(claim(dtype, "norm.weight", Shape::new([3])), [1.0; 3]);
            assert_eq!(claim(dtype, "q_proj.bias", Shape::new([5])), [0.0; 5]);
        }
    }
}
