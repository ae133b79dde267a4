//! The weights of a model, in whatever files they are.

use std::collections::BTreeMap;

use crate::{
    DecoderSpec, LoadError, ModelSource,
    checkpoint::{self, Checkpoint},
    gguf::{self, GgufTensors},
    weights::TensorSource,
};

/// The files of the weights, by their headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightFiles {
    /// How many files.
    pub files: usize,
    /// How many tensors are in them.
    pub tensors: usize,
    /// Bytes of the tensors, by their element type as the files name it.
    pub bytes_by_type: BTreeMap<String, u64>,
}

impl WeightFiles {
    /// Reads the headers of a model's files.
    pub(crate) fn read(source: &ModelSource) -> Result<WeightFiles, LoadError> {
        if let ModelSource::Gguf(path) = source {
            let (files, tensors, bytes_by_type) = gguf::sizes(path)?;
            return Ok(WeightFiles { files, tensors, bytes_by_type });
        }
        let mut weights = WeightFiles::default();
        for (_, entries) in checkpoint::headers(source)? {
            weights.files += 1;
            weights.tensors += entries.len();
            for entry in entries {
                *weights.bytes_by_type.entry(format!("{:?}", entry.dtype)).or_default() += entry.len as u64;
            }
        }
        Ok(weights)
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.bytes_by_type.values().sum()
    }
}

/// Opens a model's weights, none of them read yet.
pub(crate) fn open(source: &ModelSource, spec: &DecoderSpec) -> Result<Box<dyn TensorSource>, LoadError> {
    Ok(match source {
        ModelSource::Gguf(path) => Box::new(GgufTensors::open(path)?),
        _ => Box::new(Checkpoint::open(source, spec.quantization)?),
    })
}
