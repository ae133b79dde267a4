//! The tensors of a GGUF model, claimed one by one.

use std::{collections::HashSet, path::Path};

use half::bf16;
use mosu_kernels::{DType, KernelError, Shape, Tensor};

use super::{config, fault::Fault, file::GgufFile, header::TensorInfo, model::GgufModel};
use crate::{
    LoadError, checkpoint,
    weights::{Pass, TensorSource},
};

/// A matrix that converters leave in F32 among BF16 ones, and that must be of the others' type. Those of published models
/// were BF16 before, so that nothing is rounded.
const WIDENED: &str = ".ffn_gate_inp_shexp.weight";

/// A model's tensors, none of them read yet.
pub(crate) struct GgufTensors {
    model: GgufModel,
    claimed: HashSet<String>,
    pass: Pass,
    /// Type of the token embedding.
    matrices: Option<DType>,
}

impl GgufTensors {
    /// Opens all files of the model that a file is of.
    pub fn open(path: &Path) -> Result<GgufTensors, LoadError> {
        let model = GgufModel::open(path)?;
        let (_, matrices) = model.embedding()?;
        Ok(GgufTensors { model, claimed: HashSet::new(), pass: Pass::Load, matrices })
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

    /// A whole tensor of floats.
    fn floats(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let pass = self.pass;
        let (file, tensor) = self.take(name, shape.dims())?;
        let dtype = float(file, name, tensor)?;
        Ok(pass.in_place_or_copied(&file.bytes, tensor.start, shape, dtype)?)
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
        let message =
            format!("has type {}, which is not supported; supported are F32, F16 and BF16", tensor.ggml.name);
        Fault::of_tensor(name, message).in_file(&file.path)
    })
}

/// An F32 tensor in BF16.
fn narrowed(tensor: &Tensor) -> Result<Tensor, KernelError> {
    if tensor.is_planned() {
        return Tensor::planned(tensor.shape(), DType::BF16);
    }
    let mut narrow = Tensor::zeros(tensor.shape(), DType::BF16)?;
    let wide = tensor.as_slice::<f32>()?;
    narrow.as_mut_slice::<bf16>()?.iter_mut().zip(wide).for_each(|(to, from)| *to = bf16::from_f32(*from));
    Ok(narrow)
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
        let tensor = self.floats(name, shape)?;
        let is_widened = tensor.dtype() == DType::F32 && name.ends_with(WIDENED);
        if is_widened && self.matrices == Some(DType::BF16) { Ok(narrowed(&tensor)?) } else { Ok(tensor) }
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let pass = self.pass;
        let shape: Vec<usize> = [count].iter().chain(piece.dims()).copied().collect();
        let (file, tensor) = self.take(name, &shape)?;
        let dtype = float(file, name, tensor)?;
        let stride = piece.elements() * dtype.size();
        let piece =
            |index| Ok(pass.in_place_or_copied(&file.bytes, tensor.start + index * stride, piece, dtype)?);
        (0..count).map(piece).collect()
    }

    fn claim_mxfp4(
        &mut self,
        name: &str,
        _count: usize,
        _shape: [usize; 2],
    ) -> Result<Vec<Tensor>, LoadError> {
        Err(LoadError::checkpoint(self.file(), Some(name), "no GGUF file has its blocks apart"))
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
