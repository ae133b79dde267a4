//! Weights: matrices of floats, or of packed blocks that kernels decode as they read them.

use crate::{
    Allocator, DType, Device, KernelError, Result, Shape, Tensor, View, convert,
    cpu::{Fp8Block, Fp8Rows, Mxfp4Rows, Packed},
};

mod format;
mod to_device;

pub use format::{BlockType, Format, FormatTraits};

/// A weight `[N, K]`, one row per output; on a GPU also several of them, `[E, N, K]`.
#[derive(Debug)]
pub struct Matrix {
    format: Format,
    shape: Shape,
    /// Floats in the shape of the matrix, or of each row the bytes of its blocks: u8 `[.., N, K / block · bytes]`.
    values: Tensor,
    /// Where they lie apart: one for each `scale_block`, `[.., ⌈N / rows⌉, ⌈K / columns⌉]`.
    scales: Option<Tensor>,
    scale_block: [usize; 2],
    compute: DType,
}

impl From<Tensor> for Matrix {
    /// The matrix of these floats.
    fn from(values: Tensor) -> Matrix {
        let (format, shape) = (Format::Float(values.dtype()), values.shape());
        Matrix { format, shape, values, scales: None, scale_block: [1, 1], compute: format.traits().compute }
    }
}

impl Matrix {
    /// MXFP4 (Open Compute Project, Microscaling Formats 1.0): blocks of 32 E2M1 values that share a power of two.
    ///
    /// - `values`: u8 `[N, K / 2]`, two elements in a byte, the lower half first
    /// - `scales`: u8 `[N, K / 32]`, E8M0: `2^(scale - 127)`, NaN at 255
    ///
    /// # Errors
    /// When shapes or types do not fit.
    pub fn mxfp4(values: Tensor, scales: Tensor) -> Result<Matrix> {
        let (found, of_scales) = (values.shape(), scales.shape());
        let FormatTraits { block, block_bytes, .. } = Format::Mxfp4.traits();
        let (&[rows, bytes], &[scale_rows, blocks]) = (found.dims(), of_scales.dims()) else {
            return Err(misfit(Format::Mxfp4, found, of_scales));
        };
        let fits = bytes == blocks * block_bytes && rows == scale_rows;
        if !fits || values.dtype() != DType::U8 || scales.dtype() != DType::U8 {
            return Err(misfit(Format::Mxfp4, found, of_scales));
        }
        let shape = Shape::new([rows, blocks * block]);
        let (format, compute) = (Format::Mxfp4, DType::BF16);
        Ok(Matrix { format, shape, values, scales: Some(scales), scale_block: [1, block], compute })
    }

    /// FP8 with a scale per block, as DeepSeek-V3 is published: E4M3 without infinities; the codes 0x7f and 0xff are
    /// NaN.
    ///
    /// - `values`: u8 `[N, K]`
    /// - `scales`: f32 `[⌈N / rows⌉, ⌈K / columns⌉]`
    /// - `block`: rows and columns that share a scale; columns are a power of two, and 32 at least
    ///
    /// # Errors
    /// When shapes or types do not fit.
    pub fn fp8(values: Tensor, scales: Tensor, block: [usize; 2]) -> Result<Matrix> {
        let (shape, of_scales) = (values.shape(), scales.shape());
        let [block_rows, block_columns] = block;
        let whole = block_rows > 0 && block_columns >= 32 && block_columns.is_power_of_two();
        let fits = match *shape.dims() {
            [n, k] if whole => of_scales.dims() == [n.div_ceil(block_rows), k.div_ceil(block_columns)],
            _ => false,
        };
        if !fits || values.dtype() != DType::U8 || scales.dtype() != DType::F32 {
            return Err(misfit(Format::Fp8, shape, of_scales));
        }
        let (format, compute) = (Format::Fp8, DType::BF16);
        Ok(Matrix { format, shape, values, scales: Some(scales), scale_block: block, compute })
    }

    /// A format of GGUF files: every row is made of blocks that hold their scales.
    ///
    /// - `values`: u8 `[N, K / block · bytes]`
    ///
    /// # Errors
    /// When rows are not whole blocks.
    pub fn blocks(blocks: BlockType, values: Tensor) -> Result<Matrix> {
        let format = Format::Blocks(blocks);
        let (found, FormatTraits { block, block_bytes, .. }) = (values.shape(), format.traits());
        match *found.dims() {
            [rows, bytes] if bytes.is_multiple_of(block_bytes) && values.dtype() == DType::U8 => {
                let shape = Shape::new([rows, bytes / block_bytes * block]);
                let compute = DType::BF16;
                Ok(Matrix { format, shape, values, scales: None, scale_block: [1, 1], compute })
            }
            _ => Err(misfit(format, found, Shape::new([0]))),
        }
    }

    /// How its elements lie in memory.
    pub fn format(&self) -> Format {
        self.format
    }

    /// `[N, K]`, or `[E, N, K]`.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the activations that it meets.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// The same blocks of a GGUF file's format, to meet activations of type f32 instead of bf16.
    #[must_use]
    pub fn meeting_f32(self) -> Matrix {
        let compute = if let Format::Blocks(_) = self.format { DType::F32 } else { self.compute };
        Matrix { compute, ..self }
    }

    /// Size of values and scales.
    pub fn size_in_bytes(&self) -> usize {
        self.values.size_in_bytes() + self.scales.as_ref().map_or(0, Tensor::size_in_bytes)
    }

    /// Only its shape and format mean anything.
    pub fn is_planned(&self) -> bool {
        self.values.is_planned()
    }

    /// Floats in the shape of the matrix, or u8 `[.., N, K / block · bytes]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// One for each block, where they lie apart from the values.
    pub fn scales(&self) -> Option<&Tensor> {
        self.scales.as_ref()
    }

    /// The floats, of a matrix that is made of them.
    ///
    /// # Errors
    /// When it is packed.
    pub fn floats(&self) -> Result<View<'_>> {
        match self.format {
            Format::Float(_) => Ok(self.values.view()),
            format => {
                let reason = format!("a matrix of floats is needed, this one is {format}");
                Err(KernelError::Argument { op: "Matrix::floats", reason })
            }
        }
    }

    /// The matrix as floats of type `dtype`: f32 or bf16. Each is the product of value and scale rounded to f32, for bf16
    /// then to the nearest bf16, ties to even. What is below 2^-126 may become 0 in bf16.
    ///
    /// # Errors
    /// When it does not lie in host memory, or memory is short.
    pub fn decoded(&self, dtype: DType) -> Result<Tensor> {
        if self.is_planned() {
            return Tensor::planned(self.shape, dtype);
        }
        let mut out = Tensor::zeros(self.shape, dtype)?;
        convert::decode(out.view_mut()?, &[self])?;
        Ok(out)
    }

    /// K.
    pub(crate) fn columns(&self) -> usize {
        self.shape.dims().last().copied().unwrap_or(0)
    }

    /// The rows of a packed matrix in host memory; `None` of floats.
    ///
    /// # Errors
    /// When it does not lie in host memory.
    pub(crate) fn packed(&self) -> Result<Option<Packed<'_>>> {
        if let Format::Float(_) = self.format {
            return Ok(None);
        }
        let values = self.values.as_slice::<u8>()?;
        Ok(match (self.format, &self.scales) {
            (Format::Mxfp4, Some(scales)) => {
                Some(Packed::Mxfp4(Mxfp4Rows { values, scales: scales.as_slice()? }))
            }
            (Format::Fp8, Some(scales)) => {
                let block = Fp8Block::new(self.scale_block, self.columns());
                Some(Packed::Fp8(Fp8Rows { values, scales: scales.as_slice()?, block }))
            }
            (Format::Blocks(blocks), _) => Some(Packed::Blocks(blocks, values)),
            _ => None,
        })
    }

    /// The binary logarithm of the columns that share a scale, for kernels.
    pub(crate) fn scale_columns_log2(&self) -> i32 {
        self.scale_block[1].max(1).ilog2() as i32
    }

    /// Goes from host memory to where the memory of `to` is; on the processor it stays as it is.
    ///
    /// # Errors
    /// As [`Tensor::to_device`].
    pub fn move_to(&mut self, to: &Allocator<'_>) -> Result<()> {
        match to.device() {
            Device::Cpu(_) => to.add(self.size_in_bytes() as u64),
            Device::Cuda(_) => *self = Matrix::concatenated(to, self.shape, &[self])?,
        }
        Ok(())
    }
}

fn misfit(format: Format, values: Shape, scales: Shape) -> KernelError {
    let reason = format!("values {values} and scales {scales} do not make up a matrix of {format}");
    KernelError::Argument { op: "Matrix", reason }
}

#[cfg(test)]
mod tests;
