use std::{collections::BTreeMap, fs, path::Path};

use half::bf16;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    files::{INDEX, SINGLE},
    *,
};
use crate::{ModelSource, safetensors_header};

/// A file with this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A tensor of a header.
fn tensor(dtype: &str, shape: &[usize], start: usize, end: usize) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(&ModelSource::Directory(dir.into()), None)
}

fn refusal(bytes: &[u8]) -> String {
    let dir = directory(&[(SINGLE, bytes)]);
    let message = open(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(SINGLE), "names the file: {message}");
    message
}

#[test]
fn tensors_lie_in_the_file() {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a": tensor("F32", &[2], 0, 8),
        "b": tensor("BF16", &[1, 2], 8, 12),
    });
    let mut data = [1.0_f32, -2.5].map(f32::to_le_bytes).concat();
    data.extend([bf16::from_f32(3.0), bf16::from_f32(4.0)].map(bf16::to_le_bytes).concat());
    let dir = directory(&[(SINGLE, &file(&header.to_string(), &data))]);
    let mut checkpoint = open(dir.path()).unwrap();
    assert_eq!(checkpoint.totals(), (2, 12));
    let a = checkpoint.claim("a", Shape::new([2])).unwrap();
    let b = checkpoint.claim("b", Shape::new([1, 2])).unwrap();
    assert_eq!(a.as_slice::<f32>().unwrap(), [1.0, -2.5]);
    assert_eq!(b.as_slice::<bf16>().unwrap(), [bf16::from_f32(3.0), bf16::from_f32(4.0)]);
    assert_eq!(checkpoint.names(), [vec!["a", "b"], vec![]]);
}

/// The format pads headers to 8 bytes; a file that does not is still right.
#[test]
fn misaligned_tensors_are_copied() {
    let data = [0.5_f32, 7.0].map(f32::to_le_bytes).concat();
    for padding in 0..8 {
        let header = format!("{}{}", json!({"a": tensor("F32", &[2], 0, 8)}), " ".repeat(padding));
        let dir = directory(&[(SINGLE, &file(&header, &data))]);
        let a = open(dir.path()).unwrap().claim("a", Shape::new([2])).unwrap();
        assert_eq!(a.as_slice::<f32>().unwrap(), [0.5, 7.0], "{padding} bytes of padding");
    }
}

#[test]
fn lying_headers_are_refused_by_tensor() {
    let big = usize::MAX / 2;
    let cases = [
        (tensor("F32", &[3], 0, 8), "tensor `a`: its 8 bytes do not fit its type F32 and its shape [3]"),
        (tensor("F32", &[2], 0, 12), "tensor `a`: its bytes 0..12 lie outside the data, which has 8 bytes"),
        (tensor("F32", &[2], 8, 0), "tensor `a`: its bytes end (0) before they start (8)"),
        (tensor("F32", &[1], 4, 8), "tensor `a`: bytes 0..4 before it belong to no tensor"),
        (tensor("F32", &[1], 0, 4), "the tensors end at byte 4 of the data, which has 8 bytes"),
        (tensor("F32", &[big, big, big], 0, 8), "do not fit its type"),
        (tensor("F32", &[2], big, big + 8), "lie outside the data"),
        (tensor("F4", &[1], 0, 0), "do not fit its type F4"),
        (tensor("F12", &[2], 0, 8), "tensor `a`: unknown variant `F12`"),
        (
            json!({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}),
            "tensor `a`: invalid value: integer `-2`",
        ),
        (json!({"dtype": "F32", "shape": [2]}), "tensor `a`: missing field `data_offsets`"),
        (json!(7), "tensor `a`: invalid type"),
    ];
    for (entry, expected) in cases {
        let message = refusal(&file(&json!({ "a": entry }).to_string(), &[0; 8]));
        assert!(message.contains(expected), "{entry}: {message}");
    }
    let overlap = json!({"a": tensor("F32", &[2], 0, 8), "b": tensor("F32", &[1], 4, 8)});
    assert!(refusal(&file(&overlap.to_string(), &[0; 8])).contains("tensor `b`: its bytes 4..8 overlap"));
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert!(refusal(&file(twice, &[0; 2])).contains("`a` appears twice"));
}

#[test]
fn headers_that_are_no_headers_are_refused() {
    assert!(refusal(&[]).contains("truncated"));
    assert!(refusal(&[1, 2, 3]).contains("truncated"));
    assert!(refusal(&u64::MAX.to_le_bytes()).contains("the header claims 18446744073709551615 bytes"));
    assert!(refusal(&100_000_001_u64.to_le_bytes()).contains("the limit is 100000000"));
    assert!(refusal(&1000_u64.to_le_bytes()).contains("truncated"));
    assert!(refusal(&file("[]", &[])).contains("the header is not valid"));
    assert!(refusal(&file("{\"a\":", &[])).contains("the header is not valid"));
    assert!(refusal(&file(&"[".repeat(100_000), &[])).contains("the header is not valid"));
    assert!(refusal(&file("\u{0}", &[])).contains("the header is not valid"));
}

/// Every prefix of a real file is an error, and so is a file with bytes behind its end.
#[test]
fn truncation_anywhere_is_an_error() {
    let whole = fixture();
    assert!(safetensors_header::parse(&whole).is_ok());
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let lengths = (0..header_end + 16).chain((header_end..whole.len()).step_by(97));
    for len in lengths {
        assert!(safetensors_header::parse(&whole[..len]).is_err(), "{len} of {} bytes", whole.len());
    }
    let longer = [whole, vec![0]].concat();
    assert!(safetensors_header::parse(&longer).is_err());
}

/// Random damage to the header: an error, or tensors that lie within the file. Never a panic.
#[test]
fn damaged_headers_never_panic() {
    let whole = fixture();
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut random = 1_u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..1 + below(3) {
            let place = below(header_end);
            damaged[place] = match below(3) {
                0 => below(256) as u8,
                1 => b"0123456789[]{},:\"-"[below(18)],
                _ => damaged[place] ^ (1 << below(8)),
            };
        }
        match safetensors_header::parse(&damaged) {
            Err(_) => refused += 1,
            Ok(entries) => {
                for entry in entries {
                    assert!(entry.start >= header_end && entry.start + entry.len <= damaged.len());
                }
            }
        }
    }
    assert!(refused > 10_000, "the damage does damage: {refused} refused");
}

fn fixture() -> Vec<u8> {
    fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama/model.safetensors")).unwrap()
}

fn shard(name: &str) -> Vec<u8> {
    file(&json!({ name: tensor("F32", &[1], 0, 4) }).to_string(), &[0; 4])
}

fn index(weight_map: &[(&str, &str)]) -> Vec<u8> {
    let weight_map: BTreeMap<_, _> = weight_map.iter().copied().collect();
    json!({ "metadata": {}, "weight_map": weight_map }).to_string().into_bytes()
}

#[test]
fn shards_make_one_checkpoint() {
    let index = index(&[("a", "1.safetensors"), ("b", "2.safetensors")]);
    let dir = directory(&[(INDEX, &index), ("1.safetensors", &shard("a")), ("2.safetensors", &shard("b"))]);
    let mut checkpoint = open(dir.path()).unwrap();
    checkpoint.claim("a", Shape::new([1])).unwrap();
    assert_eq!(checkpoint.names(), [["a"], ["b"]]);
    assert!(checkpoint.file_of("b").ends_with("2.safetensors") && checkpoint.file_of("c").ends_with(INDEX));
}

/// Whatever an index says, a tensor is where a header has it; only one that is needed and nowhere is an error.
#[test]
fn headers_decide_where_a_tensor_is() {
    let (one, two) = ("1.safetensors", "2.safetensors");
    let cases = [
        (vec![("a", one), ("b", two)], "b", None),
        (vec![("a", two), ("b", one)], "b", None),
        (vec![("x", two), ("y", one)], "b", None),
        (vec![("a", one), ("c", two)], "a", None),
        (vec![("a", one), ("c", "3.safetensors")], "a", None),
        (
            vec![("a", one), ("b", one)],
            "b",
            Some(
                "tensor `b`: said to be in 1.safetensors, but in no file of the index; config.json implies it",
            ),
        ),
        (
            vec![("a", one)],
            "b",
            Some("index.json: tensor `b`: not in the checkpoint, but config.json implies it"),
        ),
        (
            vec![("a", one), ("b", "3.safetensors")],
            "b",
            Some("3.safetensors: not found; model.safetensors.index.json says that tensor `b` is in it"),
        ),
        (
            vec![("x", "3.safetensors"), ("b", "4.safetensors")],
            "b",
            Some("4.safetensors: not found; model.safetensors.index.json says that tensor `b` is in it"),
        ),
    ];
    for (weight_map, name, expected) in cases {
        let dir = directory(&[(INDEX, &index(&weight_map)), (one, &shard("a")), (two, &shard("b"))]);
        let claimed = open(dir.path()).and_then(|mut checkpoint| checkpoint.claim(name, Shape::new([1])));
        match (claimed.map_err(|error| error.to_string()), expected) {
            (Ok(_), None) => {}
            (Err(message), Some(expected)) => assert!(message.contains(expected), "{message}"),
            (claimed, _) => panic!("{weight_map:?}: {claimed:?}"),
        }
    }
}

/// As transformers does it, which reads the files in the order of their names.
#[test]
fn the_last_of_two_equal_names_counts() {
    let value =
        |value: f32| file(&json!({ "a": tensor("F32", &[1], 0, 4) }).to_string(), &value.to_le_bytes());
    for said in ["1.safetensors", "2.safetensors"] {
        let index = index(&[("a", said), ("b", "1.safetensors"), ("c", "2.safetensors")]);
        let dir =
            directory(&[(INDEX, &index), ("1.safetensors", &value(1.0)), ("2.safetensors", &value(2.0))]);
        let mut checkpoint = open(dir.path()).unwrap();
        assert_eq!(checkpoint.totals(), (1, 4));
        assert!(checkpoint.file_of("a").ends_with("2.safetensors"));
        assert_eq!(checkpoint.claim("a", Shape::new([1])).unwrap().as_slice::<f32>().unwrap(), [2.0]);
    }
}

#[test]
fn an_index_names_files_beside_it() {
    let one = "1.safetensors";
    for name in ["../1.safetensors", "/etc/passwd", "sub/1.safetensors", "sub\\1.safetensors", "..", "", "."]
    {
        let dir = directory(&[(INDEX, &index(&[("a", name)])), (one, &shard("a"))]);
        let message = open(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(&format!("{name:?} is not the plain name")), "{message}");
    }
    for broken in ["", "[]", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 3}}", "{\"weight_map\": {}}"] {
        let dir = directory(&[(INDEX, broken.as_bytes()), (one, &shard("a"))]);
        assert!(open(dir.path()).is_err(), "{broken}");
    }
}

#[test]
fn missing_weights_come_with_a_remedy() {
    let cases = [
        ("other.safetensors", "no model.safetensors.index.json that says what is in them"),
        ("pytorch_model.bin", "save_pretrained"),
        ("model.gguf", "the weights are in a GGUF file: give that file"),
        ("readme.txt", "a model directory has config.json and model.safetensors"),
    ];
    for (name, expected) in cases {
        let dir = directory(&[(name, b"")]);
        let message = open(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("model.safetensors: not found") && message.contains(expected), "{message}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(SINGLE)).unwrap();
    let message = open(dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
}

#[test]
fn claims_are_checked() {
    let header = json!({
        "a": tensor("F32", &[2, 1], 0, 8),
        "packed": tensor("U8", &[4], 8, 12),
        "x.rotary_emb.inv_freq": tensor("F32", &[1], 12, 16),
        "lm_head.weight": tensor("F32", &[1], 16, 20),
    });
    let dir = directory(&[(SINGLE, &file(&header.to_string(), &[0; 20]))]);
    let mut checkpoint = open(dir.path()).unwrap();
    let mut claim = |name: &str, shape: Shape| match checkpoint.claim(name, shape) {
        Ok(_) => "fine".to_string(),
        Err(error) => error.to_string(),
    };
    let cases = [
        (
            claim("b", Shape::new([3])),
            "tensor `b`: not in the checkpoint, but config.json implies it, with shape [3]",
        ),
        (claim("packed", Shape::new([4])), "tensor `packed`: has type U8; supported are F32, F16 and BF16"),
        (claim("a", Shape::new([1, 2])), "tensor `a`: has shape [2, 1], but config.json implies [1, 2]"),
        (claim("a", Shape::new([2, 1])), "tensor `a`: claimed twice"),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(checkpoint.names()[1], ["lm_head.weight", "x.rotary_emb.inv_freq"]);
}

/// Its length was asked for before it was cut.
#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let header = json!({"a": tensor("F32", &[1], 0, 4)}).to_string();
    let whole = file(&header, &[0; 4]);
    assert!(safetensors_header::read(&whole[..], whole.len() as u64).is_ok());
    for len in 0..whole.len() {
        assert!(safetensors_header::read(&whole[..], len as u64).is_err(), "{len} bytes");
    }
}
