//! Against what transformers' AutoTokenizer makes of the same files (models/tests/text/make_auto_tokenizer.py).

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{LoadError, ModelSource, SpecialTokens, Tokenizer};

fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A directory with a tokenizer.json of the tests, some of its parts replaced, and other files by name.
fn directory(base: &str, parts: &Map<String, Value>, files: &Map<String, Value>) -> TempDir {
    let mut tokenizer = read(&format!("{base}/tokenizer.json"));
    for (part, content) in parts {
        tokenizer[part] = content.clone();
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files.iter().chain([(&"tokenizer".to_owned(), &tokenizer)]) {
        fs::write(dir.path().join(format!("{name}.json")), content.to_string()).unwrap();
    }
    dir
}

fn load(dir: &TempDir) -> Result<Tokenizer, LoadError> {
    Tokenizer::load(&ModelSource::Directory(dir.path().into()))
}

/// The tokenizer of a case, with more keys in its tokenizer_config.json.
fn load_case(case: &Value, flags: &Map<String, Value>) -> Tokenizer {
    let mut files = case["files"].as_object().unwrap().clone();
    if !flags.is_empty() {
        files["tokenizer_config"].as_object_mut().unwrap().extend(flags.clone());
    }
    load(&directory(case["base"].as_str().unwrap(), case["parts"].as_object().unwrap(), &files)).unwrap()
}

/// As the script records it.
fn record(case: &Value, texts: &[&str], ends: &[&str]) -> Value {
    let tokenizer = load_case(case, &Map::new());
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, false).unwrap()).collect();
    let decode = |skip| ids.iter().map(|ids| tokenizer.decode(ids, skip).unwrap()).collect::<Vec<_>>();
    let mut recording = json!({
        "ids": ids,
        "decoded": decode(false),
        "skipped": decode(true),
        "tokens": tokenizer.vocab_size(),
    });
    if case["with_ends"] == true {
        let flags = [Value::Null, Value::Bool(true), Value::Bool(false)];
        let pairs = flags.iter().flat_map(|bos| flags.iter().map(move |eos| (bos, eos)));
        let with_flags = |(bos, eos): (&Value, &Value)| {
            let flags = [("add_bos_token", bos), ("add_eos_token", eos)].into_iter();
            let flags = flags.filter(|(_, flag)| !flag.is_null());
            let flags = flags.map(|(key, flag)| (key.to_owned(), flag.clone())).collect();
            let tokenizer = load_case(case, &flags);
            ends.iter().map(|text| tokenizer.encode(text, true).unwrap()).collect::<Vec<_>>()
        };
        recording["ends"] = pairs.map(with_flags).collect();
    }
    recording
}

/// Which version of transformers a checkpoint means where the two disagree.
fn meant(case: &str, part: &str) -> usize {
    match (case, part) {
        // It was saved by version 5.
        ("version_5", _) => 5,
        // A class's default that the vocabulary has not got was never trained; version 4 adds it with a new id.
        ("class_defaults", _) => 5,
        // No file says that tokenizer.json is wrong; version 4 takes the key's absence for `false`.
        ("prefix_unsaid", _) => 5,
        // The spelling of a normalized token is the `tokenizers` library's, of which ours is the newer version.
        ("normalized", _) | ("normalized_special", "decoded") => 5,
        // All others were published for version 4: what begins and ends a text is the class's and its flags', where 5
        // has tokenizer.json's, and the words are tokenizer.json's, where 5 has the class's. A token listed as special
        // is one, where 5 asks its flags.
        _ => 4,
    }
}

#[test]
fn ids_and_texts_are_those_of_auto_tokenizer() {
    let content = read("auto_tokenizer/cases.json");
    let recordings = [4, 5].map(|version| read(&format!("auto_tokenizer/transformers-{version}.json")));
    let texts = |key: &str| content[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let (texts, ends): (Vec<&str>, Vec<&str>) = (texts("texts").collect(), texts("ends").collect());
    let cases = content["cases"].as_object().unwrap();
    assert!(cases.len() > 40 && texts.len() > 20);
    for (name, case) in cases {
        let ours = record(case, &texts, &ends);
        let [four, five] = [0, 1].map(|index| &recordings[index]["recordings"][name]);
        for (part, ours) in ours.as_object().unwrap() {
            // One that a version refuses is null there.
            let theirs = match (four, five) {
                (Value::Null, other) | (other, Value::Null) => &other[part],
                (four, five) if four[part] == five[part] => &four[part],
                (four, _) if meant(name, part) == 4 => &four[part],
                (_, five) => &five[part],
            };
            let differences = || -> Vec<String> {
                let pairs =
                    ours.as_array().into_iter().flatten().zip(theirs.as_array().into_iter().flatten());
                let different = pairs.enumerate().filter(|(_, (ours, theirs))| ours != theirs);
                different.map(|(index, (ours, theirs))| format!("{index}: {ours}, not {theirs}")).collect()
            };
            assert!(ours == theirs, "{name}, {part}:\n{}", differences().join("\n"));
        }
    }
}

fn with_config(config: Value) -> Result<Tokenizer, LoadError> {
    let files = json!({"tokenizer_config": config});
    load(&directory("byte_level", &Map::new(), files.as_object().unwrap()))
}

#[test]
fn broken_files_are_named() {
    let dir = directory("byte_level", &Map::new(), &Map::new());
    for file in ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        for content in ["{\"bos_token\": ", "[]", "\u{feff}{", ""] {
            fs::write(dir.path().join(file), content).unwrap();
            let message = load(&dir).unwrap_err().to_string();
            assert!(message.contains(file), "{content:?}: {message}");
        }
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    load(&dir).unwrap();
}

#[test]
fn wrong_values_are_named() {
    let token = |content: &str| json!({"content": content});
    for (config, expected) in [
        (json!({"add_bos_token": "yes"}), "`add_bos_token`"),
        (json!({"split_special_tokens": 1}), "`split_special_tokens`"),
        (json!({"added_tokens_decoder": []}), "`added_tokens_decoder`"),
        (json!({"added_tokens_decoder": {"one": token("<a>")}}), "\"one\""),
        (json!({"added_tokens_decoder": {"-1": token("<a>")}}), "\"-1\""),
        (json!({"added_tokens_decoder": {"4194304": token("<a>")}}), "4194304"),
        (json!({"added_tokens_decoder": {"601": {"special": true}}}), "content"),
        (json!({"added_tokens_decoder": {"601": 5}}), "601"),
        (json!({"added_tokens_decoder": {"601": token(&"a".repeat(2000))}}), "601"),
        (json!({"additional_special_tokens": "<a>"}), "`additional_special_tokens`"),
        (json!({"extra_special_tokens": [7]}), "`extra_special_tokens`"),
        (json!({"eos_token": 7}), "`eos_token`"),
    ] {
        let message = with_config(config).unwrap_err().to_string();
        assert!(message.contains("tokenizer_config.json") && message.contains(expected), "{message}");
    }
}

/// Whatever white space tokens are made of and take along, a text is tokenized or refused.
#[test]
fn no_token_ends_the_program() {
    let names = [" ", "a", " a", "a ", "\u{3000}", "▁"];
    for index in 0..names.len() * names.len() * 16 {
        let (first, second) = (names[index % names.len()], names[index / names.len() % names.len()]);
        let flags = index / names.len() / names.len();
        let token = |content: &str, flags: usize| {
            let (lstrip, rstrip) = (flags & 1 == 1, flags & 2 == 2);
            json!({"content": content, "lstrip": lstrip, "rstrip": rstrip, "normalized": index % 5 == 0})
        };
        let listed = json!({"601": token(first, flags & 3), "602": token(second, flags >> 2)});
        let tokenizer = match with_config(json!({"added_tokens_decoder": listed})) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("lstrip") || message.contains("uplicate"), "{message}");
                continue;
            }
        };
        for text in ["a   a  \n a", "  aa    ", " \u{3000} a é▁ ", "   ", "a"] {
            let _ = tokenizer.encode(text, true);
        }
    }
}

/// Version 4 refuses a class that adds a `bos_token` to a model that has none, 5 adds none.
#[test]
fn no_bos_begins_no_text() {
    for bos in [json!({"bos_token": null}), json!({})] {
        let mut config =
            json!({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true, "unk_token": null});
        config.as_object_mut().unwrap().extend(bos.as_object().unwrap().clone());
        let tokenizer = with_config(config).unwrap();
        assert_eq!(tokenizer.encode("hi", true).unwrap(), tokenizer.encode("hi", false).unwrap());
    }
}

#[test]
fn a_class_names_special_tokens() {
    let special_tokens = |config: Value| {
        let files = json!({"tokenizer_config": config});
        let dir = directory("byte_level", &Map::new(), files.as_object().unwrap());
        SpecialTokens::load(&ModelSource::Directory(dir.path().into())).unwrap()
    };
    let llama = special_tokens(json!({"tokenizer_class": "LlamaTokenizerFast", "eos_token": null}));
    assert_eq!((llama.get("bos_token"), llama.get("eos_token")), (Some("<s>"), None));
    let other = special_tokens(json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    assert_eq!(other.iter().count(), 0);
}
