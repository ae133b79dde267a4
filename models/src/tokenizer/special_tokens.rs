//! The named special tokens of a tokenizer, which chat templates use as variables.

use std::path::Path;

use serde_json::{Map, Value};

use super::{token_files::TokenFiles, vocabulary_class::JsonClass};
use crate::{LoadError, ModelSource};

/// The texts of a tokenizer's named special tokens, such as `bos_token`. A token that a model has not got is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    tokens: Vec<(&'static str, String)>,
}

impl SpecialTokens {
    /// The names that there may be.
    pub const NAMES: [&str; 7] =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

    /// Reads tokenizer_config.json and, as transformers does when that lists no added tokens,
    /// special_tokens_map.json over it. Both may be absent. What neither says, the class that they name does.
    pub fn load(source: &ModelSource) -> Result<SpecialTokens, LoadError> {
        SpecialTokens::of_files(&TokenFiles::read(source)?)
    }

    pub(super) fn of_files(files: &TokenFiles) -> Result<SpecialTokens, LoadError> {
        let class = files.config.get("tokenizer_class").as_str().and_then(JsonClass::of);
        let defaults = class.map_or(&[][..], |class| class.special_tokens);
        let defaults = defaults.iter().map(|(name, text)| (*name, text.to_string()));
        let mut tokens = SpecialTokens { tokens: defaults.collect() };
        for file in files.iter() {
            tokens.update(&file.object, &file.path)?;
        }
        Ok(tokens)
    }

    /// The text of a token, by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, text)| text)
    }

    /// Every token there is: name and text.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.tokens.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// Takes what an object of one of the two files says: a text, `{"content": text, ...}`, or null for none.
    pub(crate) fn update(&mut self, object: &Map<String, Value>, file: &Path) -> Result<(), LoadError> {
        for name in SpecialTokens::NAMES {
            let Some(value) = object.get(name) else { continue };
            let text = match value {
                Value::Object(token) => token.get("content").unwrap_or(&Value::Bool(false)),
                other => other,
            };
            self.tokens.retain(|(known, _)| *known != name);
            match text {
                Value::String(text) => self.tokens.push((name, text.clone())),
                Value::Null => {}
                _ => {
                    return Err(LoadError::Config {
                        file: file.into(),
                        key: name.into(),
                        message: "must be a string, an object with `content`, or null".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(tokens: &mut SpecialTokens, value: Value) -> Result<(), LoadError> {
        tokens.update(value.as_object().unwrap(), Path::new("tokenizer_config.json"))
    }

    #[test]
    fn strings_objects_and_null() {
        let mut tokens = SpecialTokens::default();
        let config =
            json!({"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>", "other": 1});
        update(&mut tokens, config).unwrap();
        assert_eq!(tokens.get("eos_token"), Some("</s>"));
        assert_eq!(tokens.get("bos_token"), Some("<s>"));
        update(&mut tokens, json!({"bos_token": null, "pad_token": "<pad>"})).unwrap();
        assert_eq!(tokens.get("bos_token"), None);
        assert_eq!(tokens.iter().count(), 2);
    }

    #[test]
    fn wrong_types_are_named() {
        for wrong in [json!({"eos_token": 7}), json!({"eos_token": {"text": "x"}})] {
            let message = update(&mut SpecialTokens::default(), wrong).unwrap_err().to_string();
            assert!(message.contains("tokenizer_config.json") && message.contains("eos_token"), "{message}");
        }
    }
}
