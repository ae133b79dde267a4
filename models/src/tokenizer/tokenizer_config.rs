//! tokenizer_config.json and its older companions, as far as they matter to tokens.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken as TokenRules;

use super::{
    TokenTable,
    added_tokens::AddedToken,
    special_tokens::SpecialTokens,
    token_files::{TokenFile, TokenFiles},
};
use crate::{LoadError, ModelSource};

/// Names and ids, from the time before `added_tokens_decoder`.
const OLD_ADDED_TOKENS: &str = "added_tokens.json";

/// Special tokens that have no name: lists of them, or objects whose values they are.
const UNNAMED: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What the files say; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenizerConfig {
    /// `tokenizer_class`, without `Fast` at its end.
    pub class: String,
    /// transformers 5 wrote the file.
    pub is_of_version_5: bool,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_prefix_space: Option<bool>,
    /// Whether every stretch of text between special tokens gets the space that a text begins with; else the first.
    pub legacy: Option<bool>,
    /// Whether the name of a special token in a text is text like any other.
    pub split_special_tokens: Option<bool>,
    pub added_tokens: Vec<AddedToken>,
    pub special_tokens: SpecialTokens,
    /// The special tokens, named and unnamed, which may have no id yet.
    pub special_rules: Vec<TokenRules>,
}

#[derive(Deserialize)]
struct Entry {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    normalized: Option<bool>,
}

impl TokenizerConfig {
    /// Reads the files of a model, any of which may be absent.
    pub fn load(source: &ModelSource) -> Result<TokenizerConfig, LoadError> {
        let files = TokenFiles::read(source)?;
        let special_tokens = SpecialTokens::of_files(&files)?;
        let config = &files.config;
        let flag = |key: &str| match config.get(key) {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            _ => Err(config.error(key, "expected true, false or null")),
        };
        let special_rules = special_rules(&files, &special_tokens)?;
        let class = config.get("tokenizer_class").as_str().unwrap_or_default();
        let added_tokens = match config.get("added_tokens_decoder") {
            Value::Null => old_added_tokens(source, &special_rules)?,
            Value::Object(entries) => {
                added_tokens(entries).map_err(|what| config.error("added_tokens_decoder", &what))?
            }
            _ => return Err(config.error("added_tokens_decoder", "expected an object")),
        };
        Ok(TokenizerConfig {
            class: class.strip_suffix("Fast").unwrap_or(class).into(),
            // The backend that it says is the only one there is.
            is_of_version_5: config.get("backend").is_string(),
            add_bos_token: flag("add_bos_token")?,
            add_eos_token: flag("add_eos_token")?,
            add_prefix_space: flag("add_prefix_space")?,
            legacy: flag("legacy")?,
            split_special_tokens: flag("split_special_tokens")?,
            added_tokens,
            special_tokens,
            special_rules,
        })
    }
}

fn added_tokens(entries: &Map<String, Value>) -> Result<Vec<AddedToken>, String> {
    let mut tokens = Vec::new();
    for (id, entry) in entries {
        let id: u32 = id.parse().map_err(|_| format!("{id:?} is not a token id"))?;
        let rules = rules(entry).map_err(|message| format!("token {id}: {message}"))?;
        tokens.extend(checked(AddedToken { id, rules })?);
    }
    Ok(tokens)
}

fn old_added_tokens(source: &ModelSource, special: &[TokenRules]) -> Result<Vec<AddedToken>, LoadError> {
    let file = TokenFile::read(source, OLD_ADDED_TOKENS)?;
    let special: HashSet<&str> = special.iter().map(|rules| rules.content.as_str()).collect();
    let mut tokens = Vec::new();
    for (name, id) in &file.object {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| file.error(name, "expected a token id"))?;
        let rules = TokenRules::from(name, special.contains(name.as_str()));
        let token = AddedToken { id, rules };
        tokens.extend(checked(token).map_err(|message| file.error(name, &message))?);
    }
    Ok(tokens)
}

fn special_rules(files: &TokenFiles, named: &SpecialTokens) -> Result<Vec<TokenRules>, LoadError> {
    let mut tokens = Vec::new();
    for name in SpecialTokens::NAMES {
        let Some(text) = named.get(name) else { continue };
        let rules = match files.iter().rev().find(|file| !file.get(name).is_null()) {
            Some(file) => rules(file.get(name)).map_err(|message| file.error(name, &message))?,
            None => TokenRules::from(text, true),
        };
        tokens.push(rules);
    }
    for (file, key) in files.iter().flat_map(|file| UNNAMED.map(|key| (file, key))) {
        let values: Vec<&Value> = match file.get(key) {
            Value::Null => continue,
            Value::Array(list) => list.iter().collect(),
            Value::Object(named) => named.values().collect(),
            _ => return Err(file.error(key, "expected a list or an object of tokens")),
        };
        let values: Result<Vec<TokenRules>, String> = values.into_iter().map(rules).collect();
        tokens.extend(values.map_err(|message| file.error(key, &message))?);
    }
    tokens.retain(|rules| !rules.content.is_empty());
    Ok(tokens.into_iter().map(|rules| rules.special(true)).collect())
}

/// Reads a special token's text, or the object that says of a token how it is found in a text.
fn rules(value: &Value) -> Result<TokenRules, String> {
    const MAX_BYTES: usize = 1024;
    let rules = match value {
        Value::String(text) => TokenRules::from(text, true),
        _ => {
            let Entry { content, special, lstrip, rstrip, single_word, normalized } =
                Entry::deserialize(value).map_err(|error| error.to_string())?;
            TokenRules {
                content,
                special,
                lstrip,
                rstrip,
                single_word,
                normalized: normalized.unwrap_or(!special),
            }
        }
    };
    if rules.content.len() > MAX_BYTES {
        return Err(format!("a token of more than {MAX_BYTES} bytes is not supported"));
    }
    Ok(rules)
}

/// A token of no text is none.
fn checked(token: AddedToken) -> Result<Option<AddedToken>, String> {
    if token.id > TokenTable::MAX_ID {
        return Err(format!("token id {} is larger than the limit of {}", token.id, TokenTable::MAX_ID));
    }
    Ok(Some(token).filter(|token| !token.rules.content.is_empty()))
}
