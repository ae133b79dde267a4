//! tokenizer_config.json and its older companions, as far as they matter to a vocabulary that is not a tokenizer.json.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{TokenTable, added_tokens::AddedToken, special_tokens::SpecialTokens};
use crate::{LoadError, ModelSource};

const FILE: &str = "tokenizer_config.json";
/// Names and ids, from the time before `added_tokens_decoder`.
const OLD_ADDED_TOKENS: &str = "added_tokens.json";

/// What the files say; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenizerConfig {
    /// `tokenizer_class`, without `Fast` at its end.
    pub class: String,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    /// Whether every stretch of text between special tokens gets the space that a text begins with; else the first.
    pub legacy: Option<bool>,
    pub added_tokens: Vec<AddedToken>,
    pub special_tokens: SpecialTokens,
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
}

impl TokenizerConfig {
    /// Reads the files of a model, any of which may be absent.
    pub fn load(source: &ModelSource) -> Result<TokenizerConfig, LoadError> {
        let special_tokens = SpecialTokens::load(source)?;
        let config = source.read_json(FILE)?.unwrap_or_default();
        let error = |key: &str, message: &str| LoadError::Config {
            file: source.path(FILE),
            key: key.into(),
            message: message.into(),
        };
        let flag = |key: &str| match &config[key] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            _ => Err(error(key, "expected true, false or null")),
        };
        let class = config["tokenizer_class"].as_str().unwrap_or_default();
        let added_tokens = match &config["added_tokens_decoder"] {
            Value::Null => old_added_tokens(source, &special_tokens)?,
            Value::Object(entries) => {
                added_tokens(entries).map_err(|what| error("added_tokens_decoder", &what))?
            }
            _ => return Err(error("added_tokens_decoder", "expected an object")),
        };
        Ok(TokenizerConfig {
            class: class.strip_suffix("Fast").unwrap_or(class).into(),
            add_bos_token: flag("add_bos_token")?,
            add_eos_token: flag("add_eos_token")?,
            legacy: flag("legacy")?,
            added_tokens,
            special_tokens,
        })
    }
}

fn added_tokens(entries: &Map<String, Value>) -> Result<Vec<AddedToken>, String> {
    let read = |(id, entry): (&String, &Value)| {
        let id: u32 = id.parse().map_err(|_| format!("{id:?} is not a token id"))?;
        let Entry { content, special, lstrip, rstrip, single_word } =
            Entry::deserialize(entry).map_err(|error| format!("token {id}: {error}"))?;
        checked(AddedToken { id, content, special, lstrip, rstrip, single_word })
    };
    entries.iter().map(read).collect()
}

fn old_added_tokens(source: &ModelSource, special: &SpecialTokens) -> Result<Vec<AddedToken>, LoadError> {
    let entries = source.read_json(OLD_ADDED_TOKENS)?.unwrap_or_default();
    let read = |(name, id): (&String, &Value)| {
        let id = id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| format!("{name:?}: expected a token id"))?;
        let special = special.iter().any(|(_, text)| text == name);
        checked(AddedToken { special, ..AddedToken::special(id, name) })
    };
    let tokens = entries.as_object().into_iter().flatten().map(read).collect::<Result<_, String>>();
    tokens.map_err(|message| LoadError::Malformed { path: source.path(OLD_ADDED_TOKENS), message })
}

fn checked(token: AddedToken) -> Result<AddedToken, String> {
    const MAX_NAME_BYTES: usize = 1024;
    if token.id > TokenTable::MAX_ID {
        return Err(format!("token id {} is larger than the limit of {}", token.id, TokenTable::MAX_ID));
    }
    if token.content.is_empty() || token.content.len() > MAX_NAME_BYTES {
        return Err(format!("token {}: expected a name of 1 to {MAX_NAME_BYTES} bytes", token.id));
    }
    Ok(token)
}
