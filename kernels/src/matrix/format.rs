//! The formats of weights: one table.

use std::fmt;

use crate::DType;

/// How the elements of a [`Matrix`](crate::Matrix) lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One after another, of a float type.
    Float(DType),
    /// Blocks of 32 E2M1 values, their E8M0 scales apart.
    Mxfp4,
    /// E4M3 values, apart an f32 scale per block of rows and columns.
    Fp8,
    /// Blocks that hold their scales.
    Blocks(BlockType),
}

/// The block formats of GGUF files (`ggml-common.h` of llama.cpp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the field's; the table says what they are")]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4Block,
}

/// What distinguishes a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatTraits {
    /// As people write it.
    pub name: &'static str,
    /// Elements of a row that lie together.
    pub block: usize,
    /// Their bytes, without scales that lie apart.
    pub block_bytes: usize,
    /// Type of the scales that lie apart.
    pub scales: Option<DType>,
    /// The type of the activations that it meets; blocks of GGUF files can meet f32 too.
    pub compute: DType,
    /// CUDA kernels decode it, where K is a multiple of this; elsewhere it is decoded on its way to the GPU.
    pub cuda_k: Option<usize>,
    /// Its number in GGUF files.
    pub gguf: Option<u32>,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 18] = [
        Format::Float(DType::F32),
        Format::Float(DType::F16),
        Format::Float(DType::BF16),
        Format::Mxfp4,
        Format::Fp8,
        Format::Blocks(BlockType::Q4_0),
        Format::Blocks(BlockType::Q4_1),
        Format::Blocks(BlockType::Q5_0),
        Format::Blocks(BlockType::Q5_1),
        Format::Blocks(BlockType::Q8_0),
        Format::Blocks(BlockType::Q2K),
        Format::Blocks(BlockType::Q3K),
        Format::Blocks(BlockType::Q4K),
        Format::Blocks(BlockType::Q5K),
        Format::Blocks(BlockType::Q6K),
        Format::Blocks(BlockType::Iq4Nl),
        Format::Blocks(BlockType::Iq4Xs),
        Format::Blocks(BlockType::Mxfp4Block),
    ];

    /// Its elements are decoded, not read.
    pub const fn is_packed(self) -> bool {
        !matches!(self, Format::Float(_))
    }

    /// Its row of the table.
    pub const fn traits(self) -> FormatTraits {
        match self {
            Format::Float(DType::F32) => floats(DType::F32, Some(0)),
            Format::Float(DType::F16) => floats(DType::F16, Some(1)),
            Format::Float(DType::BF16) => floats(DType::BF16, Some(30)),
            Format::Float(dtype) => floats(dtype, None),
            Format::Mxfp4 => apart("MXFP4", [32, 16], DType::U8, 32),
            Format::Fp8 => apart("FP8", [1, 1], DType::F32, 16),
            Format::Blocks(blocks) => match blocks {
                BlockType::Q4_0 => of_blocks("Q4_0", [32, 18], 2),
                BlockType::Q4_1 => of_blocks("Q4_1", [32, 20], 3),
                BlockType::Q5_0 => of_blocks("Q5_0", [32, 22], 6),
                BlockType::Q5_1 => of_blocks("Q5_1", [32, 24], 7),
                BlockType::Q8_0 => of_blocks("Q8_0", [32, 34], 8),
                BlockType::Q2K => of_blocks("Q2_K", [256, 84], 10),
                BlockType::Q3K => of_blocks("Q3_K", [256, 110], 11),
                BlockType::Q4K => of_blocks("Q4_K", [256, 144], 12),
                BlockType::Q5K => of_blocks("Q5_K", [256, 176], 13),
                BlockType::Q6K => of_blocks("Q6_K", [256, 210], 14),
                BlockType::Iq4Nl => of_blocks("IQ4_NL", [32, 18], 20),
                BlockType::Iq4Xs => of_blocks("IQ4_XS", [256, 136], 23),
                BlockType::Mxfp4Block => of_blocks("MXFP4", [32, 17], 39),
            },
        }
    }
}

const fn floats(dtype: DType, gguf: Option<u32>) -> FormatTraits {
    FormatTraits {
        name: dtype.name(),
        block: 1,
        block_bytes: dtype.size(),
        scales: None,
        compute: dtype.compute(),
        cuda_k: Some(1),
        gguf,
    }
}

/// Scales lie apart.
const fn apart(
    name: &'static str,
    [block, block_bytes]: [usize; 2],
    scales: DType,
    cuda_k: usize,
) -> FormatTraits {
    let (scales, cuda_k) = (Some(scales), Some(cuda_k));
    FormatTraits { name, block, block_bytes, scales, compute: DType::BF16, cuda_k, gguf: None }
}

/// Scales lie in the blocks.
const fn of_blocks(name: &'static str, [block, block_bytes]: [usize; 2], gguf: u32) -> FormatTraits {
    let gguf = Some(gguf);
    FormatTraits { name, block, block_bytes, scales: None, compute: DType::BF16, cuda_k: None, gguf }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.traits().name)
    }
}
