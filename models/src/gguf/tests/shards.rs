//! A model in several files.

use std::{fs, path::Path};

use super::{Writer, text, value};
use crate::{LoadError, ModelSource, gguf::GgufModel, inspect};

fn shard(number: u16, count: u16, tensor: &str) -> Writer {
    let number16 = |number: u16| value(2, &number.to_le_bytes());
    let file = Writer::new()
        .pair("split.no", number16(number))
        .pair("split.count", number16(count))
        .pair("split.tensors.count", value(5, &3_i32.to_le_bytes()));
    let file = match number {
        0 => file.pair("general.architecture", value(8, &text(b"llama"))),
        _ => file,
    };
    file.tensor(tensor, &[4, 2], 0, 0).data(32)
}

fn write(dir: &Path, number: u16, file: &Writer) {
    fs::write(dir.join(format!("m-{:05}-of-00003.gguf", number + 1)), file.bytes()).unwrap();
}

/// A directory of three shards, which `change` may spoil.
fn opened(change: impl FnOnce(&Path)) -> Result<GgufModel, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    for (number, tensor) in [(0, "token_embd.weight"), (1, "b"), (2, "c")] {
        write(dir.path(), number, &shard(number, 3, tensor));
    }
    change(dir.path());
    GgufModel::open(&dir.path().join("m-00001-of-00003.gguf"))
}

#[test]
fn all_shards_are_one_model() {
    let model = opened(|_| {}).unwrap();
    assert_eq!(model.files().len(), 3);
    for (name, number) in [("token_embd.weight", 1), ("b", 2), ("c", 3)] {
        let (file, _) = model.tensor(name).unwrap();
        assert!(file.path.ends_with(format!("m-0000{number}-of-00003.gguf")));
    }
    assert!(model.tensor("d").is_none());
    assert_eq!(model.embedding().unwrap().0, [2, 4]);
}

/// Whichever shard is named, and their directory too.
#[test]
fn any_of_them_names_the_model() {
    let dir = tempfile::tempdir().unwrap();
    for (number, tensor) in [(0, "token_embd.weight"), (1, "b"), (2, "c")] {
        write(dir.path(), number, &shard(number, 3, tensor));
    }
    for path in [dir.path().to_path_buf(), dir.path().join("m-00003-of-00003.gguf")] {
        let weights = inspect(&ModelSource::at(&path)).weights.unwrap();
        assert_eq!((weights.files, weights.tensors), (3, 3));
        assert_eq!(ModelSource::at(path).name(), "m");
    }
}

#[test]
fn what_is_missing_or_does_not_belong_is_named() {
    type Change = fn(&Path);
    let cases: [(Change, &str); 7] = [
        (
            |dir| fs::remove_file(dir.join("m-00002-of-00003.gguf")).unwrap(),
            "m-00002-of-00003.gguf: not found; m-00001-of-00003.gguf says that there are 3 shards",
        ),
        (
            |dir| fs::remove_file(dir.join("m-00001-of-00003.gguf")).unwrap(),
            "m-00001-of-00003.gguf: not found; a GGUF model is one file or all its shards",
        ),
        (|dir| write(dir, 1, &shard(2, 3, "b")), "m-00002-of-00003.gguf: `split.no`: expected 1, found 2"),
        (
            |dir| write(dir, 2, &shard(2, 4, "c")),
            "m-00003-of-00003.gguf: `split.count`: is 4, but the file's name",
        ),
        (
            |dir| write(dir, 1, &Writer::new()),
            "m-00002-of-00003.gguf: `split.count`: expected the number of shards",
        ),
        (
            |dir| write(dir, 2, &shard(2, 3, "b")),
            "m-00003-of-00003.gguf: tensor `b`: is in m-00002-of-00003.gguf too",
        ),
        (
            |dir| write(dir, 2, &shard(2, 3, "c").tensor("d", &[1], 0, 32).data(36)),
            "m-00001-of-00003.gguf: `split.tensors.count`: is 3, but the shards have 4 tensors",
        ),
    ];
    for (change, expected) in cases {
        let message = opened(change).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
}
