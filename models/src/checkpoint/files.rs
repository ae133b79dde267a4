//! The files of a checkpoint: which there are, what an index says of them, and how they are mapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use mosu_kernels::Bytes;
use serde::Deserialize;

use super::pieces;
use crate::{
    LoadError, demo, python_json,
    safetensors_header::{self, Entry},
    source::{MAX_CONFIG_BYTES, ModelSource, open_regular, read_limited},
};

/// The only file of a small checkpoint.
pub(super) const SINGLE: &str = "model.safetensors";
/// Says which tensor is in which file of a large one.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The files that a checkpoint is in.
pub(super) struct Files {
    dir: PathBuf,
    /// What errors name when no file is to blame: the single file, the index, or the directory.
    pub to_blame: PathBuf,
    /// Where they should be.
    pub paths: Vec<PathBuf>,
    /// Which tensor is said to be in which of them; empty without an index.
    pub index: BTreeMap<String, String>,
}

impl Files {
    /// The single file, else those of the index, else those in pieces.
    pub fn of(dir: &Path) -> Result<Files, LoadError> {
        let single = dir.join(SINGLE);
        let no_index = BTreeMap::new();
        if single.exists() {
            return Ok(Files {
                dir: dir.into(),
                to_blame: single.clone(),
                paths: vec![single],
                index: no_index,
            });
        }
        let file = dir.join(INDEX);
        if let Some(bytes) = read_limited(&file, MAX_CONFIG_BYTES)? {
            let index = read_index(dir, &bytes)?;
            let names: BTreeSet<&String> = index.values().collect();
            let paths = names.into_iter().map(|name| dir.join(name)).collect();
            return Ok(Files { dir: dir.into(), to_blame: file, paths, index });
        }
        let in_pieces = files_of(dir).filter(|name| pieces::belongs_to_pieces(name));
        let mut paths: Vec<PathBuf> = in_pieces.map(|name| dir.join(name)).collect();
        paths.sort();
        Ok(Files { dir: dir.into(), to_blame: dir.into(), paths, index: no_index })
    }

    /// What `open` makes of those files that are there. One may be missing as long as nothing needs it.
    ///
    /// # Errors
    /// What `open` says, and when all are missing.
    pub fn open<T>(
        &self,
        open: impl Fn(&Path) -> Result<Option<T>, LoadError>,
    ) -> Result<Vec<(PathBuf, T)>, LoadError> {
        let open = |path: &PathBuf| Ok(open(path)?.map(|opened| (path.clone(), opened)));
        let opened: Vec<_> =
            self.paths.iter().filter_map(|path| open(path).transpose()).collect::<Result<_, LoadError>>()?;
        if !opened.is_empty() {
            return Ok(opened);
        }
        match self.index.first_key_value() {
            Some((tensor, name)) => Err(missing_shard(self.dir.join(name), tensor)),
            None => {
                let remedy = what_to_do_without_weights(&self.dir);
                Err(LoadError::Missing { path: self.dir.join(SINGLE), remedy })
            }
        }
    }
}

/// The headers of a checkpoint's files: each file's path and its tensors. Nothing but headers is read.
///
/// # Errors
/// As [`Checkpoint::open`](super::Checkpoint::open), but for what no single file can tell.
pub(crate) fn headers(source: &ModelSource) -> Result<Vec<(PathBuf, Vec<Entry>)>, LoadError> {
    let fault = |file: &Path, fault: safetensors_header::Fault| {
        LoadError::checkpoint(file, fault.tensor.as_deref(), fault.message)
    };
    let ModelSource::Directory(dir) = source else {
        let file = source.path(SINGLE);
        let entries = safetensors_header::parse(demo::weights()).map_err(|found| fault(&file, found))?;
        return Ok(vec![(file, entries)]);
    };
    Files::of(dir)?.open(|path| {
        let Some(file) = open_regular(path)? else { return Ok(None) };
        let len = file.metadata().map_err(|error| LoadError::io(path, error))?.len();
        safetensors_header::read(file, len).map(Some).map_err(|found| fault(path, found))
    })
}

/// Tensors and the files they are in, as an index says; every file is a plain name.
fn read_index(dir: &Path, index: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let file = dir.join(INDEX);
    let Index { weight_map } = python_json::parse(index)
        .map_err(|error| LoadError::malformed(&file, format!("not a valid index: {error}")))?;
    match weight_map.values().find(|name| !is_plain_file_name(name)) {
        Some(name) => {
            let message = format!("{name:?} is not the plain name of a file in the same directory");
            Err(LoadError::checkpoint(&file, None, message))
        }
        None => Ok(weight_map),
    }
}

/// A file that the index names for a tensor is not there.
pub(super) fn missing_shard(path: PathBuf, tensor: &str) -> LoadError {
    LoadError::Missing { path, remedy: format!("{INDEX} says that tensor `{tensor}` is in it") }
}

/// Maps a file into memory; `None` when there is none.
pub(crate) fn map(path: &Path) -> Result<Option<Bytes>, LoadError> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    // SAFETY: the map is only ever read. Whoever truncates a model's file while it is in use ends the program, as
    // with any other program that maps its data; nothing else is assumed of the bytes than that they are bytes.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| LoadError::io(path, error))?;
    Ok(Some(Bytes::Mapped(Arc::new(map))))
}

/// Advice only: a file that is not in the page cache yet will be needed.
pub(crate) fn start_reading(bytes: &Bytes) {
    #[cfg(unix)]
    if let Bytes::Mapped(map) = bytes {
        let _ = map.advise(memmap2::Advice::WillNeed);
    }
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', '\0'])
}

/// Names of the files of a directory.
fn files_of(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// What helps where no weights were found.
fn what_to_do_without_weights(dir: &Path) -> String {
    let has = |end: &str| files_of(dir).any(|name| name.ends_with(end));
    if has(".safetensors") {
        format!("there are other *.safetensors files, but no {INDEX} that says what is in them")
    } else if has(".bin") || has(".pth") || has(".pt") {
        "convert the PyTorch files with transformers' save_pretrained(..., safe_serialization=True)".into()
    } else if has(".gguf") {
        "the weights are in a GGUF file: give that file".into()
    } else {
        "a model directory has config.json and model.safetensors or its shards".into()
    }
}
