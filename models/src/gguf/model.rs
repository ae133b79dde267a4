//! A model in GGUF files: all of its shards, and where each tensor is.

use std::{collections::HashMap, path::Path};

use mosu_kernels::DType;

use super::{
    fault::Fault,
    file::{GgufFile, file_name},
    header::TensorInfo,
    shards,
};
use crate::LoadError;

/// The token embedding, from which sizes are read.
const EMBEDDING: &str = "token_embd.weight";

/// The files of a model.
pub(crate) struct GgufModel {
    /// The first has the metadata.
    files: Vec<GgufFile>,
    /// By name: the file, and the place among its tensors.
    places: HashMap<String, (usize, usize)>,
}

impl GgufModel {
    /// Opens all files of the model that a file is of.
    pub fn open(path: &Path) -> Result<GgufModel, LoadError> {
        let files = shards::open_all(path)?;
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            for (place, tensor) in file.header.tensors.iter().enumerate() {
                let name = tensor.name(file.bytes.as_slice());
                if let Some((other, _)) = places.insert(name.into(), (number, place)) {
                    let message = format!("is in {} too", file_name(&files[other].path));
                    return Err(Fault::of_tensor(name, message).in_file(&file.path));
                }
            }
        }
        Ok(GgufModel { files, places })
    }

    /// The file that has the metadata.
    pub fn first(&self) -> &GgufFile {
        &self.files[0]
    }

    /// All files.
    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// Where a tensor is, and what.
    pub fn tensor(&self, name: &str) -> Option<(&GgufFile, &TensorInfo)> {
        let (number, place) = *self.places.get(name)?;
        let file = self.files.get(number)?;
        Some((file, file.header.tensors.get(place)?))
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The type that matrices are of, or meet activations in: bf16 where one is packed, else that of the token embedding.
    pub fn dtype(&self) -> Result<DType, LoadError> {
        let mut tensors = self.files.iter().flat_map(|file| &file.header.tensors);
        if tensors.any(|tensor| tensor.ggml.blocks().is_some()) {
            return Ok(DType::BF16);
        }
        Ok(self.embedding()?.1.unwrap_or(DType::F32))
    }

    /// The shape of the token embedding, `[vocabulary, hidden size]`, and its float type, if it is one.
    pub fn embedding(&self) -> Result<([usize; 2], Option<DType>), LoadError> {
        let missing = || Fault::of_tensor(EMBEDDING, "not in the file").in_file(&self.first().path);
        let (file, tensor) = self.tensor(EMBEDDING).ok_or_else(missing)?;
        match tensor.shape()[..] {
            [rows, columns] => Ok(([rows, columns], tensor.ggml.float())),
            _ => Err(Fault::of_tensor(EMBEDDING, "is no matrix").in_file(&file.path)),
        }
    }

    /// The numbers of a small f32 tensor that the rotation is read from; `None` when there is none.
    pub fn f32_list(&self, name: &str) -> Result<Option<Vec<f64>>, LoadError> {
        const MAX: usize = 4096;
        let Some((file, tensor)) = self.tensor(name) else { return Ok(None) };
        let fits = tensor.ggml.name == "F32" && tensor.shape().len() == 1 && tensor.len <= 4 * MAX;
        let place = tensor.start..tensor.start + tensor.len;
        let Some(bytes) = file.bytes.as_slice().get(place).filter(|_| fits) else {
            let message = format!("expected a list of at most {MAX} F32 numbers");
            return Err(Fault::of_tensor(name, message).in_file(&file.path));
        };
        let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into());
        Ok(Some(numbers.collect()))
    }
}
