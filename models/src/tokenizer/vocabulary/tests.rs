//! Against SentencePiece and tiktoken (models/tests/text/make_vocabularies.py), and against files that are broken.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{LoadError, ModelSource, Tokenizer};

const NAMES: [&str; 9] = [
    "spm_bpe",
    "spm_bpe_first_prefix",
    "spm_bpe_unknown",
    "spm_unigram",
    "spm_unigram_bytes",
    "qwen_ranks",
    "glm4_ranks",
    "hunyuan_ranks",
    "tekken",
];

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text").join(name)
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&ModelSource::Directory(directory(name))).unwrap()
}

fn goldens() -> Value {
    serde_json::from_slice(&fs::read(directory("vocabularies.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_become_the_ids_of_the_reference() {
    let goldens = goldens();
    let texts = goldens["texts"].as_array().unwrap();
    assert!(texts.len() > 150);
    for name in NAMES {
        let tokenizer = load(name);
        let golden = &goldens["vocabularies"][name];
        assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap(), "{name}");
        for (text, expected) in texts.iter().zip(golden["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(expected), "{name}: {text:?}");
        }
    }
}

#[test]
fn ids_become_the_text_of_the_reference() {
    let goldens = goldens();
    for name in NAMES {
        let tokenizer = load(name);
        let cases = goldens["vocabularies"][name]["decoded"].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let text = case[1].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids(&case[0]), false).unwrap(), text, "{name}: {}", case[0]);
        }
    }
}

/// Whatever a vocabulary can spell comes back: all bytes, or, where SentencePiece changes texts, what it made of them.
#[test]
fn texts_survive_a_round_trip() {
    let goldens = goldens();
    let texts: Vec<&str> =
        goldens["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for name in ["spm_bpe", "glm4_ranks", "tekken"] {
        let tokenizer = load(name);
        // U+2581 is a space to SentencePiece, and these names are tokens of its own.
        let changed = |text: &&&str| name == "spm_bpe" && text.contains(['▁', '<']);
        for text in texts.iter().filter(|text| !changed(text)) {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), **text, "{name}");
        }
    }
}

#[test]
fn what_begins_and_ends_every_text() {
    let begins = |name: &str| {
        let tokenizer = load(name);
        let (with, without) = (tokenizer.encode("a", true).unwrap(), tokenizer.encode("a", false).unwrap());
        let added = with.iter().filter(|id| !without.contains(id));
        (added.map(|&id| tokenizer.token_text(id).unwrap()).collect::<Vec<_>>(), with[0] == without[0])
    };
    assert_eq!(begins("spm_bpe"), (vec!["<s>".to_string()], false));
    assert_eq!(begins("spm_bpe_unknown"), (vec!["</s>".to_string()], true));
    assert_eq!(begins("glm4_ranks"), (vec!["[gMASK]".to_string(), "<sop>".to_string()], false));
    assert_eq!(begins("tekken"), (vec!["<s>".to_string()], false));
    assert_eq!(begins("qwen_ranks"), (vec![], true));
}

#[test]
fn special_tokens_have_names_and_are_skipped() {
    let tokenizer = load("spm_bpe_first_prefix");
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    assert!(tokenizer.is_special(end) && tokenizer.is_special(0) && !tokenizer.is_special(5));
    let ids = tokenizer.encode("<s>engine<|im_end|>", false).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (1, end));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "engine");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>engine<|im_end|>");
    assert!(tokenizer.decode(&[end + 1], false).is_err());
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mosu-vocabulary-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// ChatGLM2 lists no added tokens: its class knows them.
#[test]
fn a_class_knows_its_tokens() {
    let dir = scratch("chatglm");
    fs::copy(directory("spm_bpe/tokenizer.model"), dir.join("tokenizer.model")).unwrap();
    fs::write(dir.join("tokenizer_config.json"), r#"{"tokenizer_class": "ChatGLMTokenizer"}"#).unwrap();
    let tokenizer = Tokenizer::load(&ModelSource::Directory(dir.clone())).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let size = load("spm_bpe").vocab_size() as u32;
    let ids = tokenizer.encode("[gMASK]sop<|user|>", false).unwrap();
    assert_eq!(ids, [size + 1, size + 3, size + 6]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [size + 1, size + 3]);
    assert!(tokenizer.encode("soprano", false).unwrap().iter().all(|&id| id < size));
}

/// Every file cut anywhere, and every byte of one changed: an error that names the file, or a tokenizer; no panic.
#[test]
fn broken_files_are_errors() {
    for (name, file) in [
        ("spm_bpe", "tokenizer.model"),
        ("spm_unigram", "tokenizer.model"),
        ("qwen_ranks", "qwen.tiktoken"),
        ("tekken", "tekken.json"),
    ] {
        let whole = fs::read(directory(name).join(file)).unwrap();
        let dir = scratch(name);
        fs::copy(directory(name).join("tokenizer_config.json"), dir.join("tokenizer_config.json")).ok();
        let source = ModelSource::Directory(dir.clone());
        let check = |bytes: &[u8]| {
            fs::write(dir.join(file), bytes).unwrap();
            match Tokenizer::load(&source) {
                Ok(tokenizer) => drop(tokenizer.encode("a text of engine tokens 推理 ﬁ①", true)),
                Err(error) => assert!(error.to_string().contains(file), "{error}"),
            }
        };
        for part in 0..40 {
            check(&whole[..whole.len() * part / 40]);
            let mut changed = whole.clone();
            let at = whole.len() * part / 40 + part;
            changed[at] ^= 1 << (part % 8);
            check(&changed);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let dir = scratch("refused");
    let source = ModelSource::Directory(dir.clone());
    let message = |file: &str, content: &[u8], config: &str| {
        fs::write(dir.join(file), content).unwrap();
        fs::write(dir.join("tokenizer_config.json"), config).unwrap();
        let error = Tokenizer::load(&source).unwrap_err();
        fs::remove_file(dir.join(file)).unwrap();
        error.to_string()
    };
    let model = fs::read(directory("spm_bpe/tokenizer.model")).unwrap();
    // Fields behind the others replace them.
    let with = |fields: &[u8]| [&model[..], fields].concat();
    for (fields, what) in [
        (&b"\x12\x02\x18\x03"[..], "model type 3"),
        (b"\x12\x03\xc0\x01\x01", "treat_whitespace_as_suffix"),
        (b"\x2a\x03\x12\x01x", "denormalizer_spec"),
        (b"\x0a\x05\x0a\x01a\x18\x05", "is there twice"),
        (b"\x0a\x06\x0a\x02ab\x18\x05", "is unused"),
        (b"\x0a\x06\x0a\x02ab\x18\x02", "expected one unknown piece, found 2"),
        (b"\x0a\x02\x0a\x00", "has 0 bytes"),
        (b"\x1a\x04\x12\x02zz", "precompiled_charsmap is broken"),
    ] {
        let message = message("tokenizer.model", &with(fields), "{}");
        assert!(message.contains(what) && message.contains("tokenizer.model"), "{message}");
    }
    let ranks = fs::read(directory("qwen_ranks/qwen.tiktoken")).unwrap();
    let of_class = |class: &str| message("qwen.tiktoken", &ranks, class);
    assert!(of_class(r#"{"tokenizer_class": "X"}"#).contains("supported are QWenTokenizer"));
    let absurd =
        r#"{"tokenizer_class": "QWenTokenizer", "added_tokens_decoder": {"4000000000": {"content": "x"}}}"#;
    assert!(of_class(absurd).contains("4000000000"));
    let absurd = r#"{"tokenizer_class": "QWenTokenizer", "added_tokens_decoder": {"1": {"content": 1}}}"#;
    assert!(of_class(absurd).contains("token 1"));
    assert!(matches!(Tokenizer::load(&source), Err(LoadError::Missing { .. })));
    fs::remove_dir_all(&dir).unwrap();
}

/// The cost of a text grows with its length, also where every character could merge with the next.
#[test]
fn long_texts_take_no_longer_than_their_length() {
    for name in NAMES {
        let tokenizer = load(name);
        for text in ["a".repeat(200_000), " ".repeat(200_000), "engine<sep>推".repeat(20_000)] {
            let start = Instant::now();
            assert!(!tokenizer.encode(&text, false).unwrap().is_empty() || text.starts_with(' '));
            // A tenth of it in an optimised build.
            assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        }
    }
}
