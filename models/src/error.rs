//! What can go wrong while a model is loaded.

use std::{
    io,
    path::{Path, PathBuf},
};

use mosu_kernels::KernelError;

use crate::{MemoryPlan, size::Size};

/// Why a model, its tokenizer or its chat template could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file exists but cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that the model needs is not there.
    #[error("{}: not found; {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What would be right.
        remedy: String,
    },
    /// A file is not what its name promises: too large, not JSON, not UTF-8.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A value of a configuration file is missing, absurd or not supported.
    #[error("{}: `{key}`: {message}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key, as `rope_scaling.factor`.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
    /// config.json names an architecture that has no family here.
    #[error("{}: architecture {name:?} is not supported; supported are {}", file.display(), known.join(", "))]
    UnknownArchitecture {
        /// config.json.
        file: PathBuf,
        /// The architecture.
        name: String,
        /// The architectures that are supported.
        known: Vec<&'static str>,
    },
    /// A file of weights is truncated, contradicts itself or does not fit config.json.
    #[error("{}: {}{message}", file.display(), tensor.as_ref().map(|name| format!("tensor `{name}`: ")).unwrap_or_default())]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// The tensor, when the fault is of one.
        tensor: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// tokenizer.json cannot be used.
    #[error("{}: {message}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The chat template cannot be used.
    #[error("{}: chat template: {message}", file.display())]
    Template {
        /// The file that holds it.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The model needs more memory than there is.
    #[error(
        "{what} needs {} on {device}, where {} are free: {} are missing; {remedy}{plan}",
        Size(*needed), Size(*available), Size(needed.saturating_sub(*available))
    )]
    Memory {
        /// What needs it.
        what: &'static str,
        /// Whose memory.
        device: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// What would fit, and what else would help.
        remedy: String,
        /// All shares of the memory, as they were asked for.
        plan: Box<MemoryPlan>,
    },
    /// The options contradict the model.
    #[error("{option}: {message}")]
    Option {
        /// The field of [`ModelOptions`](crate::ModelOptions).
        option: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] KernelError),
}

impl LoadError {
    pub(crate) fn io(path: &Path, source: io::Error) -> LoadError {
        LoadError::Io { path: path.into(), source }
    }

    pub(crate) fn malformed(path: &Path, message: impl Into<String>) -> LoadError {
        LoadError::Malformed { path: path.into(), message: message.into() }
    }

    pub(crate) fn checkpoint(file: &Path, tensor: Option<&str>, message: impl Into<String>) -> LoadError {
        LoadError::Checkpoint { file: file.into(), tensor: tensor.map(Into::into), message: message.into() }
    }
}
