//! tokenizer_config.json and the older files beside it, as objects.

use std::{iter, path::PathBuf};

use serde_json::{Map, Value};

use crate::{LoadError, ModelSource};

/// The files that name special tokens.
#[derive(Clone, Debug)]
pub(super) struct TokenFiles {
    /// tokenizer_config.json, empty when there is none.
    pub config: TokenFile,
    /// special_tokens_map.json, where it has a say.
    map: Option<TokenFile>,
}

impl TokenFiles {
    pub fn read(source: &ModelSource) -> Result<TokenFiles, LoadError> {
        let config = TokenFile::read(source, TokenFile::CONFIG)?;
        let lists_tokens = config.object.contains_key("added_tokens_decoder");
        let map = if lists_tokens { None } else { Some(TokenFile::read(source, TokenFile::MAP)?) };
        Ok(TokenFiles { config, map })
    }

    /// The files, each of which has the last word on those before it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &TokenFile> {
        iter::once(&self.config).chain(&self.map)
    }
}

/// A file that describes tokens.
#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    pub path: PathBuf,
    pub object: Map<String, Value>,
}

impl TokenFile {
    pub const CONFIG: &str = "tokenizer_config.json";
    const MAP: &str = "special_tokens_map.json";

    /// The value of a key, `null` when it is absent.
    pub fn get(&self, key: &str) -> &Value {
        self.object.get(key).unwrap_or(&Value::Null)
    }

    /// What is wrong with the value of a key.
    pub fn error(&self, key: &str, message: &str) -> LoadError {
        LoadError::Config { file: self.path.clone(), key: key.into(), message: message.into() }
    }

    /// Reads a JSON object, empty when there is no such file.
    pub fn read(source: &ModelSource, file: &str) -> Result<TokenFile, LoadError> {
        let path = source.path(file);
        match source.read_json(file)? {
            None => Ok(TokenFile { path, object: Map::new() }),
            Some(Value::Object(object)) => Ok(TokenFile { path, object }),
            Some(_) => Err(LoadError::Malformed { path, message: "not a JSON object".into() }),
        }
    }
}
