//! The files of a model directory, made from metadata when they are asked for.

use std::{borrow::Cow, collections::HashSet, path::Path};

use serde_json::{Map, Value, json};

use super::{
    bpe, config,
    file::GgufFile,
    model::GgufModel,
    pieces, shards,
    special_tokens::{self, TOKENS},
};
use crate::LoadError;

const MODEL: &str = "tokenizer.ggml.model";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Keys of `general.sampling` and what generation_config.json calls them.
const SAMPLING: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];

/// The contents of a file; `None` where a model would not have it.
pub(crate) fn read(path: &Path, file: &str) -> Result<Option<Vec<u8>>, LoadError> {
    let text = |object: Map<String, Value>| Some(Value::from(object).to_string().into_bytes());
    Ok(match file {
        "config.json" => text(config::config(&GgufModel::open(path)?)?),
        "generation_config.json" => text(sampling(&shards::open_first(path)?)?),
        "tokenizer_config.json" => text(tokenizer_config(&shards::open_first(path)?)?),
        "tokenizer.json" | "tokenizer.model" => {
            let of = shards::open_first(path)?;
            match (vocabulary(&of)?, file) {
                (Some(Vocabulary::Bpe), "tokenizer.json") => Some(bpe::tokenizer_json(&of)?),
                (Some(Vocabulary::Pieces), "tokenizer.model") => Some(pieces::tokenizer_model(&of)?),
                _ => None,
            }
        }
        _ => None,
    })
}

/// Whether [`read`] gives such a file.
pub(crate) fn has(path: &Path, file: &str) -> bool {
    let is = |expected| {
        let found = shards::open_first(path).and_then(|of| vocabulary(&of));
        found.is_ok_and(|found| found == Some(expected))
    };
    match file {
        "config.json" | "generation_config.json" | "tokenizer_config.json" => true,
        "tokenizer.json" => is(Vocabulary::Bpe),
        "tokenizer.model" => is(Vocabulary::Pieces),
        _ => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vocabulary {
    /// Byte-level, with merges.
    Bpe,
    /// SentencePiece's, with scores.
    Pieces,
}

/// What kind of vocabulary a file has; `None` when it has none.
fn vocabulary(file: &GgufFile) -> Result<Option<Vocabulary>, LoadError> {
    match file.text(MODEL)? {
        Some("gpt2") => Ok(Some(Vocabulary::Bpe)),
        Some("llama") => Ok(Some(Vocabulary::Pieces)),
        None | Some("none" | "no_vocab") => Ok(None),
        Some(other) => {
            let other = super::fault::shown(other);
            Err(file.error(MODEL, format!("{other:?} is not supported; supported are gpt2, llama")))
        }
    }
}

fn sampling(file: &GgufFile) -> Result<Map<String, Value>, LoadError> {
    let mut found = Map::new();
    for (suffix, name) in SAMPLING {
        let key = format!("general.sampling.{suffix}");
        if let Some(number) = file.number(&key)? {
            let value = if number.fract() == 0.0 { json!(number as i64) } else { json!(number) };
            found.insert(name.into(), value);
        }
    }
    Ok(found)
}

fn tokenizer_config(file: &GgufFile) -> Result<Map<String, Value>, LoadError> {
    let mut found = special_tokens::texts(file)?;
    let adds_bos = match vocabulary(file)? {
        Some(Vocabulary::Pieces) => true,
        Some(Vocabulary::Bpe) => bpe::adds_bos(file)?,
        None => false,
    };
    let flag = |key: &str, default: bool| Ok::<_, LoadError>(file.flag(key)?.unwrap_or(default));
    found.insert("add_bos_token".into(), flag("tokenizer.ggml.add_bos_token", adds_bos)?.into());
    found.insert("add_eos_token".into(), flag("tokenizer.ggml.add_eos_token", false)?.into());
    found.extend(templates(file)?.map(|templates| ("chat_template".into(), templates)));
    Ok(found)
}

/// The chat template, or all of them by their names.
fn templates(file: &GgufFile) -> Result<Option<Value>, LoadError> {
    let named = |name: &str, text: &str| json!({"name": name, "template": text});
    let mut templates: Vec<Value> = Vec::new();
    if let Some(text) = file.text(TEMPLATE)? {
        templates.push(named("default", text));
    }
    for key in file.keys() {
        let name = key.strip_prefix(TEMPLATE).and_then(|rest| rest.strip_prefix('.'));
        if let (Some(name), Ok(Some(text))) = (name, file.text(key)) {
            templates.push(named(name, text));
        }
    }
    Ok((!templates.is_empty()).then(|| templates.into()))
}

/// The tokens, by id; one without a text has a name that no text has.
pub(super) fn tokens(file: &GgufFile) -> Result<Vec<Cow<'_, str>>, LoadError> {
    let tokens = file.texts(TOKENS)?.map(|(_, tokens)| tokens);
    let tokens = file.required(TOKENS, "a list of texts", tokens)?;
    let named = |(id, token): (usize, _)| match token {
        "" => format!("[EMPTY_{id}]").into(),
        token => Cow::Borrowed(token),
    };
    let tokens: Vec<_> = tokens.enumerate().map(named).collect();
    let mut seen = HashSet::new();
    match tokens.iter().find(|token| !seen.insert(&***token)) {
        Some(token) => {
            let token = super::fault::shown(token);
            Err(file.error(TOKENS, format!("{token:?} is there twice")))
        }
        None => Ok(tokens),
    }
}

/// What each of `count` tokens is for.
pub(super) fn kinds(file: &GgufFile, count: usize) -> Result<Vec<u64>, LoadError> {
    let Some(kinds) = file.counts(special_tokens::KINDS)? else {
        return Ok(vec![special_tokens::kind::NORMAL; count]);
    };
    match kinds.len() == count {
        true => Ok(kinds),
        false => {
            let message = format!("expected {count} entries, one per token, found {}", kinds.len());
            Err(file.error(special_tokens::KINDS, message))
        }
    }
}
