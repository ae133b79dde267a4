//! A byte-level vocabulary with merges, written back as the tokenizer.json that it came from.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{
    fault::shown,
    file::GgufFile,
    files::{kinds, tokens},
    pre_tokenizers::{self, PreTokenizer},
    special_tokens::{self, kind},
};
use crate::LoadError;

const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Model<'a> {
    r#type: &'static str,
    #[serde(serialize_with = "vocab")]
    vocab: &'a [Cow<'a, str>],
    merges: Vec<(&'a str, &'a str)>,
    ignore_merges: bool,
}

fn vocab<S: Serializer>(tokens: &&[Cow<str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// Whether a text begins with a token when the file does not say.
pub(super) fn adds_bos(file: &GgufFile) -> Result<bool, LoadError> {
    Ok(pre_tokenizer(file)?.adds_bos)
}

/// How the file says that texts are cut into words.
fn pre_tokenizer(file: &GgufFile) -> Result<&'static PreTokenizer, LoadError> {
    let name = file.text(PRE)?.unwrap_or("default");
    pre_tokenizers::find(name).ok_or_else(|| {
        let known = pre_tokenizers::names().collect::<Vec<_>>().join(", ");
        file.error(PRE, format!("{:?} is not supported; supported are {known}", shown(name)))
    })
}

/// The tokenizer.json of a file.
pub(super) fn tokenizer_json(file: &GgufFile) -> Result<Vec<u8>, LoadError> {
    let tokens = tokens(file)?;
    let kinds = kinds(file, tokens.len())?;
    let pre = pre_tokenizer(file)?;
    let added = tokens.iter().zip(&kinds).enumerate().filter_map(|(id, (content, number))| {
        let special = matches!(*number, kind::CONTROL | kind::UNKNOWN);
        (special || *number == kind::USER_DEFINED).then_some(AddedToken {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        })
    });
    let json = TokenizerJson {
        version: "1.0",
        added_tokens: added.collect(),
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre.json(),
        post_processor: ends(file, pre)?,
        decoder: pre_tokenizers::byte_level(false),
        model: Model {
            r#type: "BPE",
            vocab: &tokens,
            merges: merges(file)?,
            ignore_merges: pre.ignore_merges,
        },
    };
    serde_json::to_vec(&json).map_err(|error| file.error(special_tokens::TOKENS, error.to_string()))
}

fn merges(file: &GgufFile) -> Result<Vec<(&str, &str)>, LoadError> {
    let (_, merges) = file.required(MERGES, "a list of texts", file.texts(MERGES)?)?;
    let pairs = merges.enumerate().map(|(index, merge)| pair(merge).ok_or(index));
    let pairs: Result<Vec<_>, usize> = pairs.collect();
    pairs.map_err(|index| {
        file.error(MERGES, format!("entry {index} is not two texts with a space between them"))
    })
}

/// The two texts of a merge.
fn pair(merge: &str) -> Option<(&str, &str)> {
    // The first character may be a space itself.
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge.get(first..)?.find(' ')?;
    Some((merge.get(..space)?, merge.get(space + 1..)?))
}

/// What begins and ends every text.
fn ends(file: &GgufFile, pre: &PreTokenizer) -> Result<Value, LoadError> {
    let texts = special_tokens::texts(file)?;
    let end = |add: bool, name: &str, key: &str| match texts.get(name).and_then(Value::as_str) {
        _ if !add => Ok(None),
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(file.error(key, format!("is true, but the file names no {name}"))),
    };
    let flag = |key: &str, default: bool| Ok::<_, LoadError>(file.flag(key)?.unwrap_or(default));
    let bos = end(flag(ADD_BOS, pre.adds_bos)?, "bos_token", ADD_BOS)?;
    let eos = end(flag(ADD_EOS, false)?, "eos_token", ADD_EOS)?;
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let ids = special_tokens::named_ids(file)?;
    let id = |name: &str| ids.get(name).cloned().unwrap_or_default();
    let special = |text: &String| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let around = |sequence: &str| -> Vec<Value> {
        let sequence = json!({"Sequence": {"id": sequence, "type_id": 0}});
        bos.iter().map(special).chain([sequence]).chain(eos.iter().map(special)).collect()
    };
    let token = |(text, name): (&String, &str)| {
        (text.clone(), json!({"id": text, "ids": [id(name)], "tokens": [text]}))
    };
    let tokens = bos.iter().map(|text| (text, "bos_token")).chain(eos.iter().map(|text| (text, "eos_token")));
    let pair = [around("A"), around("B")].concat();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": Value::Object(tokens.map(token).collect()),
    }))
}
