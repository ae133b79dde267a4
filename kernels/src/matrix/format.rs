//! The formats of weights: one table.

use std::fmt;

use crate::DType;

/// How the elements of a [`Matrix`](crate::Matrix) lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One after another, of a float type.
    Float(DType),
    /// Blocks of 32 E2M1 values with an E8M0 scale.
    Mxfp4,
    /// E4M3 values with an f32 scale per block of rows and columns.
    Fp8,
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
    /// The type of the activations that it meets.
    pub compute: DType,
    /// CUDA kernels decode it, where K is a multiple of this; elsewhere it is decoded on its way to the GPU.
    pub cuda_k: Option<usize>,
}

impl Format {
    /// Its row of the table.
    pub const fn traits(self) -> FormatTraits {
        let (bf16, scales) = (DType::BF16, Some(DType::F32));
        match self {
            Format::Float(dtype) => FormatTraits {
                name: dtype.name(),
                block: 1,
                block_bytes: dtype.size(),
                scales: None,
                compute: dtype.compute(),
                cuda_k: Some(1),
            },
            Format::Mxfp4 => FormatTraits {
                name: "MXFP4",
                block: 32,
                block_bytes: 16,
                scales: Some(DType::U8),
                compute: bf16,
                cuda_k: Some(32),
            },
            Format::Fp8 => FormatTraits {
                name: "FP8",
                block: 1,
                block_bytes: 1,
                scales,
                compute: bf16,
                cuda_k: Some(16),
            },
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.traits().name)
    }
}
