//! The special tokens of a model, by their ids: those that begin and end texts, and those that templates name.

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use crate::LoadError;

/// The list of tokens, by id.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
/// What each token is for.
pub(super) const KINDS: &str = "tokenizer.ggml.token_type";

const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";

/// A token's kind, as files write it.
pub(super) mod kind {
    pub const NORMAL: u64 = 1;
    pub const UNKNOWN: u64 = 2;
    pub const CONTROL: u64 = 3;
    pub const USER_DEFINED: u64 = 4;
    pub const BYTE: u64 = 6;
}

/// Keys of ids, and what tokenizer_config.json calls those tokens.
const NAMED: [(&str, &str); 6] = [
    (BOS, "bos_token"),
    (EOS, "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.seperator_token_id", "sep_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
    ("tokenizer.ggml.mask_token_id", "mask_token"),
];

/// Control tokens that end a turn, in files that do not name the token that does. Many converters knew of `eos` only.
const ENDS_OF_TURNS: [&str; 8] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
];

/// `bos_token_id` and `eos_token_id` as config.json has them.
pub(super) fn ids(file: &GgufFile) -> Result<Map<String, Value>, LoadError> {
    let mut ends: Vec<u64> = Vec::new();
    for key in [EOS, EOT, EOM] {
        ends.extend(file.count(key)?);
    }
    if !file.has(EOT) {
        ends.extend(ends_of_turns(file)?);
    }
    let mut found = Map::new();
    if let Some(bos) = file.count(BOS)? {
        found.insert("bos_token_id".into(), bos.into());
    }
    if !ends.is_empty() {
        found.insert("eos_token_id".into(), json!(ends));
    }
    Ok(found)
}

fn ends_of_turns(file: &GgufFile) -> Result<Vec<u64>, LoadError> {
    let (Some((_, tokens)), Some(kinds)) = (file.texts(TOKENS)?, file.counts(KINDS)?) else {
        return Ok(Vec::new());
    };
    let of_kind = (0..).zip(tokens).zip(kinds).filter(|(_, found)| *found == kind::CONTROL);
    let ends = of_kind.filter(|((_, token), _)| ENDS_OF_TURNS.contains(token));
    Ok(ends.map(|((id, _), _)| id).collect())
}

/// The texts of the named tokens, as tokenizer_config.json has them. Null where there is none: a class may not add one.
pub(super) fn texts(file: &GgufFile) -> Result<Map<String, Value>, LoadError> {
    let mut found = Map::new();
    for (key, name) in NAMED {
        let text = match (file.count(key)?, file.texts(TOKENS)?) {
            (Some(id), Some((_, mut tokens))) => {
                usize::try_from(id).ok().and_then(|id| tokens.nth(id)).map_or(Value::Null, Value::from)
            }
            _ => Value::Null,
        };
        found.insert(name.into(), text);
    }
    Ok(found)
}

/// The ids of the named tokens, as numbers.
pub(super) fn named_ids(file: &GgufFile) -> Result<Map<String, Value>, LoadError> {
    let mut found = Map::new();
    for (key, name) in NAMED {
        found.extend(file.count(key)?.map(|id| (name.into(), id.into())));
    }
    Ok(found)
}
