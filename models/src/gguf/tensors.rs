//! The tensors of a GGUF model, claimed one by one.

use std::{collections::HashSet, path::Path};

use mosu_kernels::{DType, Format, FormatTraits, Matrix, Shape, Tensor};

use super::{config, fault::Fault, file::GgufFile, header::TensorInfo, model::GgufModel, types::GgmlType};
use crate::{
    LoadError, checkpoint,
    weights::{Pass, TensorSource},
};

/// A model's tensors, none of them read yet.
pub(crate) struct GgufTensors {
    model: GgufModel,
    claimed: HashSet<String>,
    pass: Pass,
    /// Type of the matrices that are not packed.
    dtype: DType,
}

impl GgufTensors {
    /// Opens all files of the model that a file is of.
    pub fn open(path: &Path) -> Result<GgufTensors, LoadError> {
        let model = GgufModel::open(path)?;
        let dtype = model.dtype()?;
        Ok(GgufTensors { model, claimed: HashSet::new(), pass: Pass::Load, dtype })
    }

    /// The tensor's file and entry, which from now on are claimed.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<(&GgufFile, &TensorInfo), LoadError> {
        if !self.claimed.insert(name.into()) {
            return Err(LoadError::checkpoint(self.file_of(name), Some(name), "claimed twice"));
        }
        let Some((file, tensor)) = self.model.tensor(name) else {
            let message = format!("not in the file, but its metadata imply it, with shape {shape:?}");
            return Err(LoadError::checkpoint(self.file(), Some(name), message));
        };
        if !tensor.has_shape(shape) {
            let message = format!("has shape {:?}, but the metadata imply {shape:?}", tensor.shape());
            return Err(Fault::of_tensor(name, message).in_file(&file.path));
        }
        Ok((file, tensor))
    }

    /// `count` matrices of blocks that lie one after another in a tensor of shape `whole`; `None` of floats, and where there
    /// is no such tensor.
    fn packed(
        &mut self,
        name: &str,
        count: usize,
        [rows, columns]: [usize; 2],
        whole: &[usize],
    ) -> Result<Option<Vec<Matrix>>, LoadError> {
        let ggml = self.model.tensor(name).map(|(_, tensor)| tensor.ggml);
        let Some(ggml) = ggml.filter(|ggml| ggml.float().is_none()) else { return Ok(None) };
        let blocks = ggml.blocks().ok_or_else(|| self.unsupported(name, ggml))?;
        let pass = self.pass;
        let (file, tensor) = self.take(name, whole)?;
        let FormatTraits { block, block_bytes, .. } = Format::Blocks(blocks).traits();
        let row_bytes = columns / block * block_bytes;
        let matrix = |index: usize| {
            let start = tensor.start + index * rows * row_bytes;
            let values = pass.in_place_or_copied(&file.bytes, start, [rows, row_bytes].into(), DType::U8)?;
            Ok(Matrix::blocks(blocks, values)?)
        };
        (0..count).map(matrix).collect::<Result<_, LoadError>>().map(Some)
    }

    /// Converters leave some matrices in F32 among BF16 ones, and may leave some in F16 or F32 among packed ones. They
    /// must meet the same activations as the others.
    fn as_the_others(&self, matrix: Tensor) -> Result<Tensor, LoadError> {
        match self.dtype {
            DType::BF16 if matrix.dtype() != DType::BF16 => Ok(Matrix::from(matrix).decoded(DType::BF16)?),
            _ => Ok(matrix),
        }
    }

    /// A whole tensor of floats.
    fn floats(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let pass = self.pass;
        let (file, tensor) = self.take(name, shape.dims())?;
        let dtype = float(file, name, tensor)?;
        Ok(pass.in_place_or_copied(&file.bytes, tensor.start, shape, dtype)?)
    }

    /// A weight has a type that no op knows.
    fn unsupported(&self, name: &str, ggml: GgmlType) -> LoadError {
        let (found, supported) = (ggml.name, GgmlType::supported());
        let message = format!("has type {found}, which is not supported; supported are {supported}");
        Fault::of_tensor(name, message).in_file(self.file_of(name))
    }

    /// The tensors that the metadata are read from are no weights.
    fn weights(&self) -> impl Iterator<Item = (&GgufFile, &TensorInfo, &str)> {
        self.model.files().iter().flat_map(|file| {
            let tensors = file.header.tensors.iter();
            let named = tensors.map(move |tensor| (file, tensor, tensor.name(file.bytes.as_slice())));
            named.filter(|(_, _, name)| !config::READ_FROM_TENSORS.contains(name))
        })
    }
}

/// The element type of a tensor, which must be a float that the ops know.
fn float(file: &GgufFile, name: &str, tensor: &TensorInfo) -> Result<DType, LoadError> {
    tensor.ggml.float().ok_or_else(|| {
        let message = format!(
            "has type {}, which is not supported here; supported are F32, F16 and BF16",
            tensor.ggml.name
        );
        Fault::of_tensor(name, message).in_file(&file.path)
    })
}

impl TensorSource for GgufTensors {
    fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        self.claimed.clear();
        if pass == Pass::Load {
            self.model.files().iter().for_each(|file| checkpoint::start_reading(&file.bytes));
        }
    }

    fn names(&self) -> [Vec<&str>; 2] {
        let mut names: Vec<&str> = self.weights().map(|(_, _, name)| name).collect();
        names.sort_unstable();
        let (claimed, left) = names.into_iter().partition(|name| self.claimed.contains(*name));
        [claimed, left]
    }

    fn contains(&self, name: &str) -> bool {
        self.model.has_tensor(name)
    }

    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        self.floats(name, shape)
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let pass = self.pass;
        let shape: Vec<usize> = [count].iter().chain(piece.dims()).copied().collect();
        let piece_rank = piece.dims().len();
        let (file, tensor) = self.take(name, &shape)?;
        let dtype = float(file, name, tensor)?;
        let stride = piece.elements() * dtype.size();
        let piece =
            |index| Ok(pass.in_place_or_copied(&file.bytes, tensor.start + index * stride, piece, dtype)?);
        let pieces = (0..count).map(piece).collect::<Result<Vec<Tensor>, LoadError>>()?;
        // Matrices meet activations, lists are added to sums of f32.
        match piece_rank {
            2 => pieces.into_iter().map(|matrix| self.as_the_others(matrix)).collect(),
            _ => Ok(pieces),
        }
    }

    fn claim_matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, LoadError> {
        let name = format!("{module}.weight");
        match self.packed(&name, 1, shape, &shape)?.and_then(|one| one.into_iter().next()) {
            Some(packed) => Ok(packed),
            None => {
                let floats = self.floats(&name, Shape::new(shape))?;
                Ok(self.as_the_others(floats)?.into())
            }
        }
    }

    fn claim_packed(
        &mut self,
        name: &str,
        count: usize,
        shape @ [rows, columns]: [usize; 2],
    ) -> Result<Option<Vec<Matrix>>, LoadError> {
        self.packed(name, count, shape, &[count, rows, columns])
    }

    fn totals(&self) -> (usize, u64) {
        let sizes = self.weights().map(|(_, tensor, _)| tensor.len as u64);
        sizes.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len))
    }

    fn file(&self) -> &Path {
        &self.model.first().path
    }

    fn file_of(&self, name: &str) -> &Path {
        self.model.tensor(name).map_or(self.file(), |(file, _)| &file.path)
    }
}
