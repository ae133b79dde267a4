//! What is wrong with a GGUF file.

use std::path::Path;

use crate::LoadError;

/// A fault of the file, of one of its keys, or of one of its tensors.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    at: At,
    message: String,
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    File,
    Key(String),
    Tensor(String),
}

impl Fault {
    /// Of the file as such.
    pub fn of_file(message: impl Into<String>) -> Fault {
        Fault { at: At::File, message: message.into() }
    }

    /// Of a key of the metadata.
    pub fn of_key(key: &str, message: impl Into<String>) -> Fault {
        Fault { at: At::Key(shown(key)), message: message.into() }
    }

    /// Of a tensor.
    pub fn of_tensor(name: &str, message: impl Into<String>) -> Fault {
        Fault { at: At::Tensor(shown(name)), message: message.into() }
    }

    /// The error that names the file too.
    pub fn in_file(self, file: &Path) -> LoadError {
        let Fault { at, message } = self;
        match at {
            At::File => LoadError::checkpoint(file, None, message),
            At::Key(key) => LoadError::Config { file: file.into(), key, message },
            At::Tensor(name) => LoadError::checkpoint(file, Some(&name), message),
        }
    }
}

/// A text out of a file as it stands in an error: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let escaped = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_CHARS).is_some() { format!("{escaped}...") } else { escaped }
}
