//! Which tensors of a module make a matrix of integers.

use half::f16;
use mosu_kernels::{DType, Matrix, Shape};
use safetensors::tensor::Dtype;

use super::{AWQ_ORDER, Integers, Layout, Raw};
use crate::{
    LoadError, Quantization,
    checkpoint::Checkpoint,
    weights::{Pass, TensorSource},
};

impl Checkpoint {
    /// The matrix `[N, K]` of a module whose weight is made of integers; `None` of other modules.
    pub(in crate::checkpoint) fn claim_integers(
        &mut self,
        module: &str,
        shape: [usize; 2],
    ) -> Result<Option<Matrix>, LoadError> {
        let integers = if self.has(module, "qweight") {
            match self.quantization {
                Some(Quantization::Awq) => self.awq(module, shape)?,
                _ => self.gptq(module, shape)?,
            }
        } else if self.has(module, "weight_packed") {
            self.compressed(module, shape)?
        } else if self.dtype_of(&format!("{module}.weight")) == Some(Dtype::I8) {
            self.signed(module, shape)?
        } else {
            return Ok(None);
        };
        integers.matrix(self.pass).map(Some)
    }

    fn has(&self, module: &str, tensor: &str) -> bool {
        self.contains(&format!("{module}.{tensor}"))
    }

    fn gptq(&mut self, module: &str, shape @ [n, k]: [usize; 2]) -> Result<Integers, LoadError> {
        let Some(Quantization::Gptq { bits, zero_offset, symmetric }) = self.quantization else {
            let message = "config.json does not say that it is quantised with GPTQ or AWQ";
            return Err(self.fault(module, "qweight", message));
        };
        let per_word = 32 / bits;
        self.whole(module, shape, [8, per_word])?;
        let words = self.raw(module, "qweight", Dtype::I32, &[k / per_word, n])?;
        let (groups, scales, floats) = self.transposed_scales(module, n)?;
        let stored = self.raw(module, "qzeros", Dtype::I32, &[groups, n / per_word])?;
        let mask = (1u32 << bits) - 1;
        let zero = |row: usize, group: usize| {
            let word = stored.word(group * (n / per_word) + row / per_word);
            // Of 8 bits what wraps is not in the middle, and refused.
            ((word >> (bits * (row % per_word)) & mask) as u8).wrapping_add(zero_offset)
        };
        let zeros = self.zeros(module, [n, groups], bits, symmetric, zero)?;
        let group_of = match self.has(module, "g_idx") {
            true => self.group_indices(module, "g_idx", k, groups)?,
            false => even_groups(k, groups),
        };
        Ok(Integers { shape, bits, layout: Layout::Gptq(words), scales, zeros, group_of, groups, floats })
    }

    fn awq(&mut self, module: &str, shape @ [n, k]: [usize; 2]) -> Result<Integers, LoadError> {
        self.whole(module, shape, [8, 1])?;
        let words = self.raw(module, "qweight", Dtype::I32, &[k, n / 8])?;
        let (groups, scales, floats) = self.transposed_scales(module, n)?;
        let stored = self.raw(module, "qzeros", Dtype::I32, &[groups, n / 8])?;
        let zero = |row: usize, group: usize| {
            let nibble = AWQ_ORDER.iter().position(|output| *output == row % 8).unwrap_or_default();
            (stored.word(group * (n / 8) + row / 8) >> (4 * nibble) & 15) as u8
        };
        let zeros = self.zeros(module, [n, groups], 4, false, zero)?;
        let group_of = even_groups(k, groups);
        Ok(Integers { shape, bits: 4, layout: Layout::Awq(words), scales, zeros, group_of, groups, floats })
    }

    /// `weight_packed`, whose width says how many bits a weight has.
    fn compressed(&mut self, module: &str, shape @ [n, k]: [usize; 2]) -> Result<Integers, LoadError> {
        let name = format!("{module}.weight_packed");
        let width = self.shape_of(&name).last().copied().unwrap_or(0);
        let Some(bits) = [4, 8].into_iter().find(|bits| (k * bits).div_ceil(32) == width) else {
            let message = format!("has rows of {width} words, but {k} weights of 4 or 8 bits are needed");
            return Err(LoadError::checkpoint(self.file_of(&name), Some(&name), message));
        };
        self.whole(module, shape, [1, 32 / bits])?;
        let words = self.raw(module, "weight_packed", Dtype::I32, &[n, width])?;
        self.raw(module, "weight_shape", Dtype::I64, &[2])?;
        let (groups, scales, floats) = self.scales(module, "weight_scale", n)?;
        let zeros = match self.has(module, "weight_zero_point") {
            false => None,
            true if bits == 8 => {
                return Err(self.fault(
                    module,
                    "weight_zero_point",
                    "zero points of 8 bits are not supported",
                ));
            }
            true => {
                let stored = self.raw(module, "weight_zero_point", Dtype::I32, &[n.div_ceil(8), groups])?;
                let zero = |row: usize, group: usize| {
                    (stored.word(row / 8 * groups + group) >> (4 * (row % 8)) & 15) as u8
                };
                self.zeros(module, [n, groups], bits, false, zero)?
            }
        };
        let group_of = match self.has(module, "weight_g_idx") {
            true => self.group_indices(module, "weight_g_idx", k, groups)?,
            false => even_groups(k, groups),
        };
        Ok(Integers { shape, bits, layout: Layout::Rows(words), scales, zeros, group_of, groups, floats })
    }

    /// Signed bytes.
    fn signed(&mut self, module: &str, shape @ [n, k]: [usize; 2]) -> Result<Integers, LoadError> {
        let bytes = self.raw(module, "weight", Dtype::I8, &shape)?;
        if self.has(module, "weight_zero_point") {
            return Err(self.fault(module, "weight_zero_point", "zero points of 8 bits are not supported"));
        }
        let (groups, scales, floats) = self.scales(module, "weight_scale", n)?;
        let group_of = even_groups(k, groups);
        Ok(Integers {
            shape,
            bits: 8,
            layout: Layout::Signed(bytes),
            scales,
            zeros: None,
            group_of,
            groups,
            floats,
        })
    }

    fn fault(&self, module: &str, tensor: &str, message: impl Into<String>) -> LoadError {
        let name = format!("{module}.{tensor}");
        LoadError::checkpoint(self.file_of(&name), Some(&name), message)
    }

    /// Rows and columns fill whole words.
    fn whole(&self, module: &str, [n, k]: [usize; 2], [rows, columns]: [usize; 2]) -> Result<(), LoadError> {
        if n.is_multiple_of(rows) && k.is_multiple_of(columns) {
            return Ok(());
        }
        let message = format!("[{n}, {k}] is not made of whole words; convert it to bf16");
        Err(LoadError::checkpoint(self.file(), Some(module), message))
    }

    /// A tensor of integers.
    fn raw(&mut self, module: &str, tensor: &str, dtype: Dtype, shape: &[usize]) -> Result<Raw, LoadError> {
        let (bytes, range) = self.take_bytes(&format!("{module}.{tensor}"), dtype, shape)?;
        Ok(Raw { bytes, range })
    }

    /// Scales `[N, groups]`, or of one group `[N]` or one number: how many groups, the scales, the type of weights.
    fn scales(
        &mut self,
        module: &str,
        tensor: &str,
        n: usize,
    ) -> Result<(usize, Vec<f32>, DType), LoadError> {
        let name = format!("{module}.{tensor}");
        let stored = self.shape_of(&name).to_vec();
        let shape = match stored[..] {
            [rows, groups] if rows == n && groups > 0 => Shape::new([n, groups]),
            [rows] if rows == n => Shape::new([n]),
            [1] | [1, 1] | [] => Shape::new([1]),
            _ => Shape::new([n, 1]),
        };
        let (scales, floats) = self.floats_of(&name, shape)?;
        let groups = (scales.len() / n.max(1)).max(1);
        let scales = if scales.len() == 1 { vec![scales[0]; n] } else { scales };
        Ok((groups, scales, floats))
    }

    /// Scales `[groups, N]`, turned.
    fn transposed_scales(&mut self, module: &str, n: usize) -> Result<(usize, Vec<f32>, DType), LoadError> {
        let name = format!("{module}.scales");
        let groups = self.shape_of(&name).first().copied().unwrap_or(1).max(1);
        let (stored, floats) = self.floats_of(&name, Shape::new([groups, n]))?;
        let scales = (0..n * groups).map(|i| stored[i % groups * n + i / groups]).collect();
        Ok((groups, scales, floats))
    }

    /// Floats that are finite, and the type of weights that are made with them.
    pub(in crate::checkpoint) fn floats_of(
        &mut self,
        name: &str,
        shape: Shape,
    ) -> Result<(Vec<f32>, DType), LoadError> {
        let pass = self.pass;
        self.pass = Pass::Load;
        let tensor = self.claim(name, shape);
        self.pass = pass;
        let matrix = Matrix::from(tensor?);
        let floats = match matrix.values().dtype() {
            DType::F32 => self.compute,
            own => own,
        };
        let values = matrix.decoded(DType::F32)?.as_slice::<f32>()?.to_vec();
        if values.iter().any(|x| !x.is_finite() || x.abs() > f32::from(f16::MAX)) {
            let message = "has a scale that is not finite, or too large for a float of 16 bits";
            return Err(LoadError::checkpoint(self.file_of(name), Some(name), message));
        }
        Ok((values, floats))
    }

    /// The zero points `[N, groups]`, unless they are, or are said to be, all in the middle.
    fn zeros(
        &self,
        module: &str,
        [n, groups]: [usize; 2],
        bits: usize,
        symmetric: bool,
        zero: impl Fn(usize, usize) -> u8,
    ) -> Result<Option<Vec<u8>>, LoadError> {
        let zeros: Vec<u8> = (0..n * groups).map(|i| zero(i / groups, i % groups)).collect();
        let in_the_middle = zeros.iter().all(|zero| u32::from(*zero) == 1 << (bits - 1));
        match (bits, symmetric) {
            (_, true) | (8, _) if !in_the_middle => {
                let message =
                    "has zero points other than the middle, which `sym` in config.json or 8 bits exclude";
                Err(self.fault(module, "qzeros", message))
            }
            (4, false) => Ok(Some(zeros)),
            _ => Ok(None),
        }
    }

    /// The group of each column.
    fn group_indices(
        &mut self,
        module: &str,
        tensor: &str,
        k: usize,
        groups: usize,
    ) -> Result<Vec<usize>, LoadError> {
        let stored = self.raw(module, tensor, Dtype::I32, &[k])?;
        let indices: Vec<usize> = (0..k).map(|i| stored.word(i) as usize).collect();
        match indices.iter().find(|group| **group >= groups) {
            None => Ok(indices),
            Some(group) => Err(self.fault(
                module,
                tensor,
                format!("names group {group}, but there are {groups} of scales"),
            )),
        }
    }
}

/// The group of each column, where all have as many.
fn even_groups(k: usize, groups: usize) -> Vec<usize> {
    let columns = k.div_ceil(groups).max(1);
    (0..k).map(|column| column / columns).collect()
}
