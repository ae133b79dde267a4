//! Where a model's files come from: a directory, a GGUF file, or the program itself.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    LoadError,
    config_json::ConfigJson,
    demo,
    families::{self, Family},
    gguf, python_json,
};

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The demonstration model embedded in the program.
    Demo,
    /// A directory in Hugging Face layout: config.json, *.safetensors, tokenizer.json, ...
    Directory(PathBuf),
    /// A GGUF file, which is a whole model, or any of its shards.
    Gguf(PathBuf),
}

/// No configuration file may be larger.
pub(crate) const MAX_CONFIG_BYTES: u64 = 64 << 20;
/// tokenizer.json may not be larger; the largest published one is a tenth of this.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

impl ModelSource {
    /// What stands at a path: a GGUF file, a directory that holds the files of one GGUF model and no safetensors, or a
    /// directory in Hugging Face layout.
    pub fn at(path: impl Into<PathBuf>) -> ModelSource {
        let path = path.into();
        if !path.is_dir() && (gguf::is_gguf(&path) || is_called_otherwise(&path)) {
            return ModelSource::Gguf(path);
        }
        let mut models = gguf_models(&path).into_iter();
        match (models.next(), models.next()) {
            (Some(model), None) => ModelSource::Gguf(model),
            _ => ModelSource::Directory(path),
        }
    }

    /// The name of the directory, or of the GGUF file without its end and a shard's number; or `mosu-demo`.
    pub fn name(&self) -> String {
        match self {
            ModelSource::Demo => "mosu-demo".into(),
            ModelSource::Gguf(path) => gguf::name(path),
            ModelSource::Directory(dir) => {
                let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }

    /// Fails unless a model may be there.
    ///
    /// # Errors
    /// Says what would be right: most often the directory around a file.
    pub fn check(&self) -> Result<(), LoadError> {
        let files = "config.json, tokenizer.json and *.safetensors, as on the Hugging Face hub";
        let missing = |path: &Path| LoadError::Missing {
            path: path.into(),
            remedy: format!("give a directory with {files}, or a GGUF file"),
        };
        match self {
            ModelSource::Demo => Ok(()),
            ModelSource::Gguf(path) if path.is_file() => Ok(()),
            ModelSource::Directory(path) if path.is_dir() => one_model(path),
            ModelSource::Directory(path) | ModelSource::Gguf(path) if !path.exists() => Err(missing(path)),
            ModelSource::Gguf(path) => Err(LoadError::malformed(path, "not a regular file")),
            ModelSource::Directory(path) => {
                let message =
                    format!("is a file; give the directory around it, with {files}, or a GGUF file");
                Err(LoadError::malformed(path, message))
            }
        }
    }

    /// The path of one of its files, for messages and for opening.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            ModelSource::Demo => Path::new("mosu-demo").join(file),
            ModelSource::Directory(dir) => dir.join(file),
            // Its files are made of metadata.
            ModelSource::Gguf(path) => path.clone(),
        }
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            ModelSource::Demo => demo::file(file).is_some(),
            ModelSource::Directory(dir) => dir.join(file).is_file(),
            ModelSource::Gguf(path) => gguf::has(path, file),
        }
    }

    /// The contents of a file of at most `limit` bytes; `None` when there is no such file.
    pub(crate) fn read(&self, file: &str, limit: u64) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self {
            ModelSource::Demo => Ok(demo::file(file).map(Cow::Borrowed)),
            ModelSource::Directory(dir) => Ok(read_limited(&dir.join(file), limit)?.map(Cow::Owned)),
            ModelSource::Gguf(path) => Ok(gguf::read(path, file)?.map(Cow::Owned)),
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

    /// What its config.json says.
    pub(crate) fn read_family(&self, config: &ConfigJson) -> Result<Family, LoadError> {
        match self {
            ModelSource::Gguf(path) => gguf::read_family(path, config),
            _ => families::read(config),
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

/// A file without the end that GGUF files have, as caches keep them, says by its first bytes what it is.
fn is_called_otherwise(path: &Path) -> bool {
    let opened = path.is_file().then(|| File::open(path).ok()).flatten();
    opened.is_some_and(|mut file| begins_with(&mut file, &gguf::MAGIC).unwrap_or(false))
}

/// The GGUF models of a directory without other weights.
fn gguf_models(dir: &Path) -> BTreeSet<PathBuf> {
    let is_safetensors = |path: &Path| path.extension().is_some_and(|end| end == "safetensors");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let has_others = entries.into_iter().any(|entry| is_safetensors(&entry.path()));
    if has_others { BTreeSet::new() } else { gguf::models_in(dir) }
}

/// Fails when a directory holds several GGUF models and no other.
fn one_model(dir: &Path) -> Result<(), LoadError> {
    let models = gguf_models(dir);
    if models.len() < 2 {
        return Ok(());
    }
    let names = models.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
    let names = names.take(8).collect::<Vec<_>>().join(", ");
    Err(LoadError::malformed(
        dir,
        format!("holds {} GGUF models; give the file of one: {names}", models.len()),
    ))
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
