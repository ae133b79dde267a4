//! One GGUF file: mapped, its header read, and the values of its keys by what they should be.

use std::path::{Path, PathBuf};

use mosu_kernels::Bytes;

use super::{
    fault::{Fault, shown},
    header::Header,
    value::{List, Value},
};
use crate::{LoadError, checkpoint};

/// A file whose header is sound.
#[derive(Clone)]
pub(crate) struct GgufFile {
    /// Where it is.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Bytes,
    /// What it says of itself.
    pub header: Header,
}

impl GgufFile {
    /// Maps a file and reads its header; `None` when there is none.
    pub fn open(path: &Path) -> Result<Option<GgufFile>, LoadError> {
        let Some(bytes) = checkpoint::map(path)? else { return Ok(None) };
        let header = Header::read(bytes.as_slice()).map_err(|fault| fault.in_file(path))?;
        Ok(Some(GgufFile { path: path.into(), bytes, header }))
    }

    /// An error about a key.
    pub fn error(&self, key: &str, message: impl Into<String>) -> LoadError {
        Fault::of_key(key, message).in_file(&self.path)
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.keys(self.bytes.as_slice())
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.header.get(self.bytes.as_slice(), key).is_some()
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.header.get(self.bytes.as_slice(), key) else { return Ok(None) };
        let wrong = || format!("expected {expected}, found {}", value.shown(self.bytes.as_slice()));
        read(value).ok_or_else(|| self.error(key, wrong())).map(Some)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        let file = self.bytes.as_slice();
        let place = self.read(key, "a text", |value| match value {
            Value::Text(place) => Some(place.clone()),
            _ => None,
        })?;
        Ok(place.map(|place| super::value::text(file, &place)))
    }

    /// A whole number of 0 or more.
    pub fn count(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.read(key, "an integer of 0 or more", whole)
    }

    /// A number; whole ones count.
    pub fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.read(key, "a finite number", number)
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.read(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Numbers of 0 or more: a list of them, or a single one.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<u64>>, LoadError> {
        self.read(key, "an integer of 0 or more, or a list of them", |value| match value {
            Value::List(list) => {
                list.values(self.bytes.as_slice()).map(|value| value.as_ref().and_then(whole)).collect()
            }
            value => Some(vec![whole(value)?]),
        })
    }

    /// Booleans.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, LoadError> {
        let flag = |value: Option<Value>| match value {
            Some(Value::Flag(flag)) => Some(flag),
            Some(Value::Whole(number @ (0 | 1))) => Some(number == 1),
            _ => None,
        };
        self.read(key, "a list of booleans", |value| match value {
            Value::List(list) => list.values(self.bytes.as_slice()).map(flag).collect(),
            _ => None,
        })
    }

    /// Numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, LoadError> {
        self.read(key, "a list of finite numbers", |value| match value {
            Value::List(list) => {
                list.values(self.bytes.as_slice()).map(|value| value.as_ref().and_then(number)).collect()
            }
            _ => None,
        })
    }

    /// Texts, and how many.
    pub fn texts(&self, key: &str) -> Result<Option<(usize, impl Iterator<Item = &str> + Clone)>, LoadError> {
        self.read(key, "a list of texts", |value| match value {
            Value::List(list) => texts(list, self.bytes.as_slice()),
            _ => None,
        })
    }

    /// A value that must be there.
    pub fn required<T>(&self, key: &str, expected: &str, found: Option<T>) -> Result<T, LoadError> {
        found.ok_or_else(|| self.error(key, format!("expected {expected}, found nothing")))
    }

    /// The architecture.
    pub fn architecture(&self) -> Result<&str, LoadError> {
        const KEY: &str = "general.architecture";
        self.required(KEY, "the name of an architecture", self.text(KEY)?)
    }
}

fn texts<'f>(
    list: &List,
    file: &'f [u8],
) -> Option<(usize, impl Iterator<Item = &'f str> + Clone + use<'f>)> {
    Some((list.count, list.texts(file)?))
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Whole(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Whole(number) => Some(*number as f64),
        Value::Float(number) => Some(*number).filter(|number| number.is_finite()),
        _ => None,
    }
}

/// The name of a file, for errors.
pub(super) fn file_name(path: &Path) -> String {
    shown(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}
