//! Against the ids that the Python library gives (models/tests/text/make.py).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text").join(name)
}

fn load(name: &str) -> (Tokenizer, Value) {
    let tokenizer = Tokenizer::load(&ModelSource::Directory(directory(name))).unwrap();
    let text = std::fs::read_to_string(directory("tokens.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    (tokenizer, goldens[name].clone())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn agrees_with_python(name: &str) {
    let (tokenizer, golden) = load(name);
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids_with_special"]), "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"].as_str().unwrap());
        assert_eq!(
            tokenizer.decode(&expected, true).unwrap(),
            case["decoded_without_special"].as_str().unwrap()
        );
    }
}

#[test]
fn byte_level_agrees_with_python() {
    agrees_with_python("byte_level");
}

#[test]
fn byte_fallback_agrees_with_python() {
    agrees_with_python("byte_fallback");
}

/// The bytes of a text's tokens, joined, are the text (after NFC for the first, behind one space for the second).
#[test]
fn token_bytes_join_to_the_text() {
    for (name, prefix) in [("byte_level", ""), ("byte_fallback", " ")] {
        let (tokenizer, golden) = load(name);
        for case in golden["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            if text.contains(['<', '▁', '\u{301}']) || text.is_empty() {
                continue;
            }
            let bytes: Vec<u8> = ids(&case["ids"])
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec())
                .collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), format!("{prefix}{text}"));
        }
    }
}

#[test]
fn tokens_by_name_and_kind() {
    let (tokenizer, _) = load("byte_level");
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    let think = tokenizer.id_of("<think>").unwrap();
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(think) && !tokenizer.is_special(5));
    assert_eq!(tokenizer.token_text(end).unwrap(), "<|im_end|>");
    assert_eq!(tokenizer.id_of("no such token"), None);
    let first_byte = tokenizer.encode("한", false).unwrap()[0];
    assert_eq!(tokenizer.token_text(first_byte).unwrap(), "\u{fffd}");
    assert_eq!(tokenizer.token_bytes(first_byte).unwrap(), ["한".as_bytes()[0]]);
}

#[test]
fn unknown_ids_are_refused() {
    let (tokenizer, _) = load("byte_fallback");
    for id in [tokenizer.vocab_size() as u32, u32::MAX] {
        let error = tokenizer.decode(&[5, id], false).unwrap_err();
        assert!(matches!(error, TokenizerError::UnknownId { id: named } if named == id));
        assert_eq!(tokenizer.token_bytes(id), None);
        assert_eq!(tokenizer.token_text(id), None);
        assert!(!tokenizer.is_special(id));
    }
}

#[test]
fn broken_files_are_errors() {
    let whole = std::fs::read(directory("byte_level/tokenizer.json")).unwrap();
    let broken: [&[u8]; 6] = [
        b"",
        b"[]",
        b"{\"model\": {\"type\": \"BPE\"}}",
        b"{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\"]]}}",
        b"\xff\xfe",
        &whole[..whole.len() / 2],
    ];
    for bytes in broken {
        let error = Tokenizer::from_bytes(bytes, Path::new("dir/tokenizer.json")).unwrap_err();
        assert!(error.to_string().starts_with("dir/tokenizer.json: "), "{error}");
    }
}

#[test]
fn other_formats_are_named() {
    let dir = std::env::temp_dir().join(format!("mosu-tokenizer-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let source = ModelSource::Directory(dir.clone());
    let nothing = Tokenizer::load(&source).unwrap_err();
    std::fs::write(dir.join("vocab.json"), b"{}").unwrap();
    let other = Tokenizer::load(&source).unwrap_err();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(
        matches!(nothing, LoadError::Missing { ref path, .. } if path.ends_with("tokenizer.json")),
        "{nothing}"
    );
    assert!(
        matches!(other, LoadError::Tokenizer { ref file, .. } if file.ends_with("vocab.json")),
        "{other}"
    );
    assert!(other.to_string().contains("save_pretrained"));
}

#[test]
fn the_stand_in_has_a_token_for_each_byte() {
    let tokenizer = Tokenizer::of_bytes().unwrap();
    let text = "mosu 模速\n\u{0}";
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(tokenizer.encode(text, true).unwrap(), ids);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_bytes(0xe6)), (256, Some(&[0xe6][..])));
    assert_eq!(tokenizer.token_bytes(256), None);
}

/// A generator of test input (Steele, Lea and Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % end as u64) as usize
    }

    /// Ids of which bytes, words and special tokens are all frequent; most are no text.
    fn ids(&mut self, vocab_size: usize) -> Vec<u32> {
        let (low, high) = [(0, vocab_size), (0, 8), (0, 260), (vocab_size - 8, vocab_size)][self.below(4)];
        let len = 1 + self.below(40);
        (0..len).map(|_| (low + self.below(high - low)) as u32).collect()
    }
}

/// A tokenizer of the tests with another decoder, and with tokens that begin with a space of their own.
fn with_decoder(decoder: Value) -> Tokenizer {
    let bytes = std::fs::read(directory("byte_fallback/tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&bytes).unwrap();
    file["decoder"] = decoder;
    let added = file["added_tokens"].as_array_mut().unwrap();
    for (id, content, special) in
        [(600, " <gap>", false), (601, "  ", false), (602, " <end>", true), (603, "▁▁", true)]
    {
        let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let mut token = json!({"id": id, "content": content, "special": special});
        token.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        added.push(token);
    }
    Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("tokenizer.json")).unwrap()
}

/// Whatever the tokens: as the library, which looks at all of them at once.
#[test]
fn decodes_as_the_library() {
    let metaspace =
        |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let gemma =
        json!({"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    let tokenizers = [
        Tokenizer::load(&ModelSource::Demo).unwrap(),
        load("byte_level").0,
        load("byte_fallback").0,
        with_decoder(metaspace("always")),
        with_decoder(metaspace("never")),
        with_decoder(gemma),
    ];
    for tokenizer in tokenizers {
        let mut random = SplitMix64(5);
        for round in 0..2000 {
            let ids = random.ids(tokenizer.vocab_size());
            let skip = round % 2 == 0;
            let Inner::Json { library, .. } = &tokenizer.inner else { unreachable!() };
            let expected = library.decode(&ids, skip).unwrap();
            assert_eq!(tokenizer.decode(&ids, skip).unwrap(), expected, "{ids:?}");
        }
    }
}
