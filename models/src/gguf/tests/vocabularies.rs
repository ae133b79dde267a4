//! Vocabularies in GGUF files against their originals (models/tests/text/make_gguf.py): every id as those have it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Writer, list, text, value};
use crate::{ChatRequest, ChatTemplate, ModelSource, SamplingDefaults, Tokenizer};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text").join(name)
}

fn source(name: &str) -> ModelSource {
    ModelSource::at(directory("gguf").join(format!("{name}.gguf")))
}

fn json_of(file: &str) -> Value {
    serde_json::from_slice(&fs::read(directory(file)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_become_the_ids_of_the_original() {
    let goldens = json_of("vocabularies.json");
    let texts = goldens["texts"].as_array().unwrap();
    for name in ["spm_bpe", "qwen_ranks", "glm4_ranks", "hunyuan_ranks", "tekken"] {
        let tokenizer = Tokenizer::load(&source(name)).unwrap();
        let golden = &goldens["vocabularies"][name];
        for (text, expected) in texts.iter().zip(golden["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(expected), "{name}: {text:?}");
        }
        for case in golden["decoded"].as_array().unwrap() {
            let text = case[1].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids(&case[0]), false).unwrap(), text, "{name}: {}", case[0]);
        }
    }
}

#[test]
fn a_tokenizer_json_comes_back() {
    let tokenizer = Tokenizer::load(&source("byte_level")).unwrap();
    let golden = &json_of("tokens.json")["byte_level"];
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        // The original brings texts to a normal form, which this rule does not.
        if text.contains('\u{301}') {
            continue;
        }
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"].as_str().unwrap());
        let without = case["decoded_without_special"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&expected, true).unwrap(), without);
    }
    let think = tokenizer.id_of("<think>").unwrap();
    assert!(!tokenizer.is_special(think) && tokenizer.is_special(tokenizer.id_of("<|im_end|>").unwrap()));
}

#[test]
fn what_begins_and_ends_texts() {
    let tokenizer = Tokenizer::load(&source("spm_bpe")).unwrap();
    let (with, without) = (tokenizer.encode("a", true).unwrap(), tokenizer.encode("a", false).unwrap());
    assert_eq!((with[0], &with[1..]), (1, &without[..]));
    let file = small().pair("tokenizer.ggml.add_bos_token", value(7, &[1]));
    let file = file.pair("tokenizer.ggml.add_eos_token", value(7, &[1]));
    let dir = tempfile::tempdir().unwrap();
    let with_both = Tokenizer::load(&written(dir.path(), &file)).unwrap();
    assert_eq!(with_both.encode("ab", true).unwrap(), [3, 2, 4]);
    assert_eq!(with_both.encode("ab", false).unwrap(), [2]);
}

#[test]
fn templates_and_sampling_are_read() {
    let file = small()
        .pair("tokenizer.chat_template", value(8, &text(b"{{ bos_token }}plain")))
        .pair("tokenizer.chat_template.tool_use", value(8, &text(b"tools{{ tools | length }}")))
        .pair("general.sampling.temp", value(6, &0.5_f32.to_le_bytes()))
        .pair("general.sampling.top_k", value(5, &20_i32.to_le_bytes()));
    let dir = tempfile::tempdir().unwrap();
    let source = written(dir.path(), &file);
    let template = ChatTemplate::load(&source).unwrap().unwrap();
    let mut request =
        ChatRequest { messages: vec![json!({"role": "user", "content": "x"})], ..Default::default() };
    assert_eq!(template.render(&request).unwrap(), "<s>plain");
    request.tools = Some(vec![json!({"type": "function"})]);
    assert_eq!(template.render(&request).unwrap(), "tools1");
    assert_eq!(SamplingDefaults::load(&source).unwrap().to_string(), "temperature 0.5, top_k 20");
}

/// Tokens a, b, ab, a beginning and an end.
fn small() -> Writer {
    let tokens = ["a", "b", "ab", "<s>", "</s>"].map(|token| text(token.as_bytes())).concat();
    Writer::new()
        .pair("general.architecture", value(8, &text(b"llama")))
        .pair("tokenizer.ggml.model", value(8, &text(b"gpt2")))
        .pair("tokenizer.ggml.pre", value(8, &text(b"gpt-2")))
        .pair("tokenizer.ggml.tokens", list(8, 5, &tokens))
        .pair("tokenizer.ggml.token_type", list(5, 5, &[1_i32, 1, 1, 3, 3].map(i32::to_le_bytes).concat()))
        .pair("tokenizer.ggml.merges", list(8, 1, &text(b"a b")))
        .pair("tokenizer.ggml.bos_token_id", value(4, &3_u32.to_le_bytes()))
        .pair("tokenizer.ggml.eos_token_id", value(4, &4_u32.to_le_bytes()))
}

fn written(dir: &Path, file: &Writer) -> ModelSource {
    let path = dir.join("m.gguf");
    fs::write(&path, file.bytes()).unwrap();
    ModelSource::at(path)
}

/// A token without a row of the embedding could not be met.
#[test]
fn every_token_has_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let of_rows = |rows: u64| {
        let file = small()
            .pair("llama.block_count", value(4, &1_u32.to_le_bytes()))
            .tensor("token_embd.weight", &[8, rows], 0, 0)
            .data(32 * rows as usize);
        written(dir.path(), &file).read_config().map(|_| ()).map_err(|error| error.to_string())
    };
    let expected = "`tokenizer.ggml.tokens`: are 5, but `token_embd.weight` has 4 rows";
    assert!(of_rows(4).unwrap_err().contains(expected));
    assert_eq!((of_rows(5), of_rows(6)), (Ok(()), Ok(())));
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let number = |number: u32| value(4, &number.to_le_bytes());
    let texts = |texts: &[&str]| {
        let bytes: Vec<u8> = texts.iter().flat_map(|of| text(of.as_bytes())).collect();
        list(8, texts.len() as u64, &bytes)
    };
    let cases = [
        (
            "tokenizer.ggml.model",
            value(8, &text(b"t5")),
            "\"t5\" is not supported; supported are gpt2, llama",
        ),
        ("tokenizer.ggml.model", number(1), "expected a text, found 1"),
        (
            "tokenizer.ggml.pre",
            value(8, &text(b"viking")),
            "\"viking\" is not supported; supported are default, gpt-2",
        ),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "a", "c", "d"]), "\"a\" is there twice"),
        ("tokenizer.ggml.tokens", number(1), "expected a list of texts, found 1"),
        (
            "tokenizer.ggml.token_type",
            list(5, 1, &1_i32.to_le_bytes()),
            "expected 5 entries, one per token, found 1",
        ),
        (
            "tokenizer.ggml.token_type",
            list(5, 1, &(-1_i32).to_le_bytes()),
            "expected an integer of 0 or more",
        ),
        ("tokenizer.ggml.merges", texts(&["ab"]), "entry 0 is not two texts with a space between them"),
        ("tokenizer.ggml.bos_token_id", number(77), "names no bos_token"),
    ];
    for (key, wrong, expected) in cases {
        let mut file = small().pair("tokenizer.ggml.add_bos_token", value(7, &[1]));
        file.pairs.retain(|(known, _)| known != key.as_bytes());
        let message = Tokenizer::load(&written(dir.path(), &file.pair(key, wrong))).unwrap_err().to_string();
        assert!(
            message.contains("m.gguf: `tokenizer.ggml.") && message.contains(expected),
            "{key}: {message}"
        );
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let mut file = small();
        file.pairs.retain(|(known, _)| known != key.as_bytes());
        let message = Tokenizer::load(&written(dir.path(), &file)).unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}`: expected a list of texts, found nothing")), "{message}");
    }
}

/// Whatever stands in a vocabulary, it is read or refused, and what is read can be used.
#[test]
fn spoilt_vocabularies_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for name in ["byte_level", "spm_bpe"] {
        let whole = fs::read(directory("gguf").join(format!("{name}.gguf"))).unwrap();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut refused, mut read) = (0, 0);
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            fs::write(&path, bytes).unwrap();
            match Tokenizer::load(&ModelSource::at(&path)) {
                Err(error) => {
                    assert!(error.to_string().contains("m.gguf"), "{error}");
                    refused += 1;
                }
                Ok(tokenizer) => {
                    let ids = tokenizer.encode("a text, 模速 <s><|im_end|>", true).unwrap();
                    tokenizer.decode(&ids, true).unwrap();
                    read += 1;
                }
            }
        }
        assert!(refused > 10 && read > 10, "{name}: {refused} refused, {read} read");
    }
}
