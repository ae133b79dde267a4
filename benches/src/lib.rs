//! Workloads that the benchmarks share: tensors of random values, and the linears of a decoder in known shapes.

use half::bf16;
use mosu_kernels::{
    BlockType, DType, Device, Format, FormatTraits, Matrix, Result, Tensor,
    ops::{Linear, LinearPart, linear},
};

/// Reproducible small values (xorshift64*, Vigna 2016).
pub struct Random(u64);

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A matrix of random bits in any format, its scales of the order of 1; `K` is `k`.
    ///
    /// # Errors
    /// When memory is short, or rows are not whole blocks.
    pub fn matrix(&mut self, format: Format, [n, k]: [usize; 2]) -> Result<Matrix> {
        let FormatTraits { block, block_bytes, .. } = format.traits();
        let mut bytes = |shape: [usize; 2]| {
            let mut tensor = Tensor::zeros(shape, DType::U8)?;
            // No byte is the upper half of an f16 that is infinite, nor a NaN of FP8.
            tensor.as_mut_slice::<u8>()?.fill_with(|| (self.float().to_bits() >> 8) as u8 & 0x3b);
            Ok(tensor)
        };
        match format {
            Format::Float(_) => Ok(self.bf16([n, k])?.into()),
            Format::Mxfp4 => {
                let mut scales = Tensor::zeros([n, k / block], DType::U8)?;
                scales.as_mut_slice::<u8>()?.fill(127);
                Matrix::mxfp4(bytes([n, k / 2])?, scales)
            }
            Format::Fp8 => {
                let mut scales = Tensor::zeros([n.div_ceil(128), k.div_ceil(128)], DType::F32)?;
                scales.as_mut_slice::<f32>()?.fill(1.0);
                Matrix::fp8(bytes([n, k])?, scales, [128, 128])
            }
            Format::Blocks(blocks) => {
                let mut values = bytes([n, k / block * block_bytes])?;
                if blocks == BlockType::Mxfp4Block {
                    // Its scale is a power of two, of which most are far from 1.
                    let blocks = values.as_mut_slice::<u8>()?.chunks_exact_mut(block_bytes);
                    blocks.for_each(|block| block[0] = 127);
                }
                Matrix::blocks(blocks, values)
            }
        }
    }

    /// A bf16 tensor.
    ///
    /// # Errors
    /// When memory is short.
    pub fn bf16(&mut self, shape: [usize; 2]) -> Result<Tensor> {
        let mut tensor = Tensor::zeros(shape, DType::BF16)?;
        tensor.as_mut_slice::<bf16>()?.fill_with(|| bf16::from_f32(self.float()));
        Ok(tensor)
    }
}

/// The linears of decoder layers, each layer with weights of its own.
pub struct Linears {
    layers: Vec<[Linear; 4]>,
    /// Inputs and outputs of up to `max_rows` rows, wide enough for every linear.
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Widths of a dense decoder layer.
#[derive(Clone, Copy)]
pub struct LayerShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of gate and up.
    pub intermediate: usize,
    /// Width of q, k and v together.
    pub qkv: usize,
    /// Width of the attention output.
    pub attention: usize,
}

/// Qwen3-0.6B: 16 query and 8 key/value heads of 128.
pub const QWEN3_0_6B: LayerShape =
    LayerShape { hidden: 1024, intermediate: 3072, qkv: 4096, attention: 2048 };

impl Linears {
    /// `layers` layers of the given shape for up to `max_rows` rows.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(shape: LayerShape, layers: usize, max_rows: usize) -> Result<Linears> {
        let mut random = Random::new(1);
        let LayerShape { hidden, intermediate, qkv, attention } = shape;
        let shapes: [(&[usize], usize); 4] = [
            (&[qkv], hidden),
            (&[hidden], attention),
            (&[intermediate, intermediate], hidden),
            (&[hidden], intermediate),
        ];
        let mut layer = || -> Result<[Linear; 4]> {
            let mut linear = |(rows, k): (&[usize], usize)| {
                let part = |&n| Ok(LinearPart { weight: random.bf16([n, k])?.into(), bias: None });
                Linear::new(rows.iter().map(part).collect::<Result<_>>()?)
            };
            Ok([linear(shapes[0])?, linear(shapes[1])?, linear(shapes[2])?, linear(shapes[3])?])
        };
        let layers: Vec<_> = (0..layers).map(|_| layer()).collect::<Result<_>>()?;
        let inputs = shapes.iter().map(|(_, k)| random.bf16([max_rows, *k])).collect::<Result<_>>()?;
        let output = |(n, _): &(&[usize], usize)| Tensor::zeros([max_rows, n.iter().sum()], DType::F32);
        let outputs = shapes.iter().map(output).collect::<Result<_>>()?;
        Ok(Linears { layers, inputs, outputs })
    }

    /// Weights of all layers.
    pub fn parameters(&self) -> usize {
        self.layers.iter().flatten().map(|linear| linear.size_in_bytes() / 2).sum()
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// `rows` rows through the linears of one layer. They take random inputs, not each other's outputs.
    ///
    /// # Errors
    /// When `rows` is over the maximum.
    pub fn run_layer(&mut self, device: &Device, layer: usize, rows: usize) -> Result<()> {
        for (i, one) in self.layers[layer].iter().enumerate() {
            linear(device, self.outputs[i].rows_mut(rows)?, self.inputs[i].rows(rows)?, one)?;
        }
        Ok(())
    }
}
