//! Where a model's files come from: a directory, or the program itself.

use std::{
    borrow::Cow,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{LoadError, demo, python_json};

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demonstration model embedded in the program.
    Demo,
    /// A directory in Hugging Face layout: config.json, *.safetensors, tokenizer.json, ...
    Directory(PathBuf),
}

/// No configuration file may be larger.
pub(crate) const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// tokenizer.json may not be larger; the largest published one is a tenth of this.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

impl ModelSource {
    /// The directory's name, or `mosu-demo`.
    pub fn name(&self) -> String {
        match self {
            ModelSource::Demo => "mosu-demo".into(),
            ModelSource::Directory(dir) => {
                let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }

    /// Fails unless it is a directory.
    ///
    /// # Errors
    /// Says what would be right: most often the directory around a file.
    pub fn check(&self) -> Result<(), LoadError> {
        let ModelSource::Directory(path) = self else { return Ok(()) };
        if path.is_dir() {
            return Ok(());
        }
        let files = "config.json, tokenizer.json and *.safetensors, as on the Hugging Face hub";
        match path.extension().and_then(OsStr::to_str) {
            _ if !path.exists() => Err(LoadError::Missing {
                path: path.clone(),
                remedy: format!("give a directory with {files}"),
            }),
            Some("gguf") => {
                let message = format!("GGUF is not supported; give a directory with {files}");
                Err(LoadError::malformed(path, message))
            }
            _ => Err(LoadError::malformed(
                path,
                format!("is a file; give the directory around it, with {files}"),
            )),
        }
    }

    /// The path of one of its files, for messages and for opening.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            ModelSource::Demo => Path::new("mosu-demo").join(file),
            ModelSource::Directory(dir) => dir.join(file),
        }
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            ModelSource::Demo => demo::file(file).is_some(),
            ModelSource::Directory(dir) => dir.join(file).is_file(),
        }
    }

    /// The contents of a file of at most `limit` bytes; `None` when there is no such file.
    pub(crate) fn read(&self, file: &str, limit: u64) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self {
            ModelSource::Demo => Ok(demo::file(file).map(Cow::Borrowed)),
            ModelSource::Directory(dir) => Ok(read_limited(&dir.join(file), limit)?.map(Cow::Owned)),
        }
    }

    /// The contents of a UTF-8 file.
    pub(crate) fn read_text(&self, file: &str) -> Result<Option<String>, LoadError> {
        let Some(bytes) = self.read(file, MAX_CONFIG_BYTES)? else { return Ok(None) };
        match String::from_utf8(bytes.into_owned()) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(LoadError::malformed(&self.path(file), format!("not UTF-8: {error}"))),
        }
    }

    /// config.json: its path and contents.
    pub(crate) fn read_config(&self) -> Result<(PathBuf, Value), LoadError> {
        let path = self.path("config.json");
        match self.read_json("config.json")? {
            Some(config) => Ok((path, config)),
            None => {
                let remedy = "a model directory in Hugging Face layout has one".into();
                Err(LoadError::Missing { path, remedy })
            }
        }
    }

    /// The contents of a JSON file.
    pub(crate) fn read_json(&self, file: &str) -> Result<Option<Value>, LoadError> {
        let Some(bytes) = self.read(file, MAX_CONFIG_BYTES)? else { return Ok(None) };
        match python_json::parse(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(LoadError::malformed(&self.path(file), format!("not valid JSON: {error}"))),
        }
    }
}

/// The contents of a file of at most `limit` bytes; `None` when there is no such file.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| LoadError::io(path, error))?;
    if bytes.len() as u64 > limit {
        return Err(LoadError::malformed(path, format!("larger than the limit of {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// What a file begins with that git-lfs left in place of a large one. The rest names the large one's digest and size.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a regular file (opening a pipe could wait for ever); `None` when nothing is there. Every file of a model is
/// opened here.
pub(crate) fn open_regular(path: &Path) -> Result<Option<File>, LoadError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::io(path, error)),
    };
    if !metadata.is_file() {
        return Err(LoadError::malformed(path, "not a regular file"));
    }
    let mut file = File::open(path).map_err(|error| LoadError::io(path, error))?;
    if begins_with(&mut file, LFS_POINTER).map_err(|error| LoadError::io(path, error))? {
        let message =
            "a git-lfs pointer, not the file that it stands for; run `git lfs pull` in its directory";
        return Err(LoadError::malformed(path, message));
    }
    Ok(Some(file))
}

/// Whether these are a file's first bytes. It will be read from its start.
fn begins_with(file: &mut File, bytes: &[u8]) -> io::Result<bool> {
    let mut start = Vec::with_capacity(bytes.len());
    file.take(bytes.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start == bytes)
}
