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

use crate::{
    LoadError, demo,
    safetensors_header::{self, Entry},
    source::{MAX_CONFIG_BYTES, ModelSource, open_regular},
};

/// The only file of a small checkpoint.
pub(super) const SINGLE: &str = "model.safetensors";
/// Says which tensor is in which file of a large one.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The headers of a checkpoint's files: each file's path and its tensors. Nothing but headers is read.
///
/// # Errors
/// As [`Checkpoint::open`], but for what no single file can tell.
pub(crate) fn headers(source: &ModelSource) -> Result<Vec<(PathBuf, Vec<Entry>)>, LoadError> {
    let fault = |file: &Path, fault: safetensors_header::Fault| {
        LoadError::checkpoint(file, fault.tensor.as_deref(), fault.message)
    };
    let ModelSource::Directory(dir) = source else {
        let file = source.path(SINGLE);
        let entries = safetensors_header::parse(demo::weights()).map_err(|found| fault(&file, found))?;
        return Ok(vec![(file, entries)]);
    };
    let paths = match source.read(INDEX, MAX_CONFIG_BYTES)? {
        Some(index) if !source.has(SINGLE) => shard_paths(dir, &read_index(dir, &index)?),
        _ => vec![dir.join(SINGLE)],
    };
    let read = |path: PathBuf| {
        let missing = || match source.has(INDEX) {
            true => missing_shard(&path),
            false => LoadError::Missing { path: path.clone(), remedy: what_to_do_without_weights(dir) },
        };
        let file = open_regular(&path)?.ok_or_else(missing)?;
        let len = file.metadata().map_err(|error| LoadError::io(&path, error))?.len();
        let entries = safetensors_header::read(file, len).map_err(|found| fault(&path, found))?;
        Ok((path, entries))
    };
    paths.into_iter().map(read).collect()
}

/// Tensors and the files they are in, as an index says; every file is a plain name.
pub(super) fn read_index(dir: &Path, index: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let file = dir.join(INDEX);
    let Index { weight_map } = serde_json::from_slice(index)
        .map_err(|error| LoadError::malformed(&file, format!("not a valid index: {error}")))?;
    match weight_map.values().find(|name| !is_plain_file_name(name)) {
        Some(name) => {
            let message = format!("{name:?} is not the plain name of a file in the same directory");
            Err(LoadError::checkpoint(&file, None, message))
        }
        None => Ok(weight_map),
    }
}

/// The files that an index names, each once.
pub(super) fn shard_paths(dir: &Path, weight_map: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let names: BTreeSet<&String> = weight_map.values().collect();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// A file that the index names is not there.
pub(super) fn missing_shard(path: &Path) -> LoadError {
    LoadError::Missing { path: path.into(), remedy: format!("{INDEX} names it") }
}

/// Maps a file into memory; `None` when there is none.
pub(super) fn map(path: &Path) -> Result<Option<Bytes>, LoadError> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    // SAFETY: the map is only ever read. Whoever truncates a model's file while it is in use ends the program, as
    // with any other program that maps its data; nothing else is assumed of the bytes than that they are bytes.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| LoadError::io(path, error))?;
    Ok(Some(Bytes::Mapped(Arc::new(map))))
}

/// Advice only: a file that is not in the page cache yet will be needed.
pub(super) fn start_reading(bytes: &Bytes) {
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
pub(super) fn files_of(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// What helps where no weights were found.
pub(super) fn what_to_do_without_weights(dir: &Path) -> String {
    let has = |end: &str| files_of(dir).any(|name| name.ends_with(end));
    if has(".safetensors") {
        format!("there are other *.safetensors files, but no {INDEX} that says what is in them")
    } else if has(".bin") || has(".pth") || has(".pt") {
        "convert the PyTorch files with transformers' save_pretrained(..., safe_serialization=True)".into()
    } else if has(".gguf") {
        "GGUF is not supported; use the checkpoint in Hugging Face layout".into()
    } else {
        "a model directory has config.json and model.safetensors or its shards".into()
    }
}
