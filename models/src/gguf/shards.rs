//! Which files a GGUF model is in: one, or shards `<name>-00001-of-00003.gguf`, of which the first has the metadata.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::file::{GgufFile, file_name};
use crate::LoadError;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// A shard's name in parts.
struct ShardName<'a> {
    stem: &'a str,
    /// From 1.
    number: u64,
    count: u64,
}

impl ShardName<'_> {
    fn of(path: &Path) -> Option<ShardName<'_>> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |digits: &str| {
            let fits = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            fits.then(|| digits.parse().ok()).flatten()
        };
        Some(ShardName { stem, number: five_digits(number)?, count: five_digits(count)? })
    }

    /// The file of another number beside `path`.
    fn sibling(&self, path: &Path, number: u64) -> PathBuf {
        path.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }
}

/// Whether a path is that of a GGUF file, by its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// What a file's model is called: its name without the end, and without the number of a shard.
pub(crate) fn name(path: &Path) -> String {
    let stem = || path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    ShardName::of(path).map_or_else(stem, |shard| shard.stem.into())
}

/// The GGUF models of a directory, in order, each by its first file. Projectors of images are no models.
pub(crate) fn models_in(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_projector = |path: &Path| file_name(path).to_ascii_lowercase().starts_with("mmproj");
    let paths = entries.map(|entry| entry.path()).filter(|path| is_gguf(path) && !is_projector(path));
    paths.map(|path| first(&path)).collect()
}

/// The first file of the model that a file is of.
pub(super) fn first(path: &Path) -> PathBuf {
    ShardName::of(path).map_or_else(|| path.into(), |shard| shard.sibling(path, 1))
}

/// Opens the file that has the metadata.
pub(super) fn open_first(path: &Path) -> Result<GgufFile, LoadError> {
    let first = first(path);
    let file = GgufFile::open(&first)?
        .ok_or_else(|| missing(&first, "a GGUF model is one file or all its shards"))?;
    check(&file, 1)?;
    Ok(file)
}

/// Opens all files of a model, the first one first.
pub(super) fn open_all(path: &Path) -> Result<Vec<GgufFile>, LoadError> {
    let file = open_first(path)?;
    let count = file.count(COUNT)?.unwrap_or(1);
    let expected = file.count(TENSORS)?;
    let path = file.path.clone();
    let mut files = vec![file];
    if let Some(shard) = ShardName::of(&path).filter(|_| count > 1) {
        for number in 2..=count {
            let path = shard.sibling(&path, number);
            let remedy =
                || format!("{} says that there are {count} shards", file_name(&shard.sibling(&path, 1)));
            let file = GgufFile::open(&path)?.ok_or_else(|| missing(&path, &remedy()))?;
            check(&file, number)?;
            files.push(file);
        }
    }
    let found: u64 = files.iter().map(|file| file.header.tensors.len() as u64).sum();
    match expected {
        Some(expected) if count > 1 && expected != found => {
            Err(files[0].error(TENSORS, format!("is {expected}, but the shards have {found} tensors")))
        }
        _ => Ok(files),
    }
}

/// Fails unless a file says of itself that it is the shard of that number, as its name does.
fn check(file: &GgufFile, number: u64) -> Result<(), LoadError> {
    let count = file.count(COUNT)?.unwrap_or(1);
    if count <= 1 {
        return match number {
            1 => Ok(()),
            _ => Err(file.error(COUNT, "expected the number of shards: the file's name says that it is one")),
        };
    }
    match ShardName::of(&file.path) {
        Some(name) if name.count == count && name.number == number => {}
        _ => {
            let message = format!(
                "is {count}, but the file's name does not end in -{number:05}-of-{count:05}.gguf; give it its name back"
            );
            return Err(file.error(COUNT, message));
        }
    }
    match file.count(NO)? {
        Some(no) if no.checked_add(1) == Some(number) => Ok(()),
        no => {
            let found = no.map_or("nothing".into(), |no| no.to_string());
            Err(file.error(NO, format!("expected {}, found {found}", number - 1)))
        }
    }
}

fn missing(path: &Path, remedy: &str) -> LoadError {
    LoadError::Missing { path: path.into(), remedy: remedy.into() }
}
