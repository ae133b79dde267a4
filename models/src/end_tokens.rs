//! The tokens that begin and end a text, from generation_config.json, config.json and the tokenizer's files.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    LoadError, ModelSource, SpecialTokens, Tokenizer, config_json::ConfigJson, source::MAX_TOKENIZER_BYTES,
};

/// With the stop tokens of a request they must fit [`MAX_BANNED`](crate::MAX_BANNED): all are until `min_tokens`.
const MAX_END_TOKENS: usize = 512;

/// Token ids that begin and end a text.
pub(crate) struct EndTokens {
    /// generation_config.json's, else config.json's, and the tokenizer's own; ascending.
    pub eos: Vec<u32>,
    pub bos: Option<u32>,
}

impl EndTokens {
    /// Reads them; ids outside the vocabulary can never be sampled and are left out.
    pub fn read(
        source: &ModelSource,
        config: &ConfigJson,
        vocab_size: usize,
    ) -> Result<EndTokens, LoadError> {
        let file = source.path("generation_config.json");
        let generation =
            source.read_json("generation_config.json")?.unwrap_or_else(|| Value::Object(Default::default()));
        let generation = ConfigJson::new(&file, &generation)?;
        // Multimodal files say it of their text model.
        let text = config.section("text_config")?;
        let first_of = |key: &str| {
            for at in [Some(&generation), Some(config), text.as_ref()].into_iter().flatten() {
                let ids = at.token_ids(key)?;
                if !ids.is_empty() {
                    return Ok(ids);
                }
            }
            Ok::<_, LoadError>(Vec::new())
        };
        let mut eos = first_of("eos_token_id")?;
        eos.extend(tokenizer_eos(source)?);
        eos.sort_unstable();
        eos.dedup();
        eos.retain(|&id| (id as usize) < vocab_size);
        if eos.len() > MAX_END_TOKENS {
            let message = format!("names {} tokens; at most {MAX_END_TOKENS} can end a text", eos.len());
            return Err(config.error("eos_token_id", message));
        }
        Ok(EndTokens { eos, bos: first_of("bos_token_id")?.first().copied() })
    }
}

/// The id of the tokenizer's own `eos_token`. It commonly stands among tokenizer.json's added tokens: making that
/// tokenizer would take longer than loading the model. Vocabularies of other kinds are quick.
fn tokenizer_eos(source: &ModelSource) -> Result<Option<u32>, LoadError> {
    #[derive(Deserialize)]
    struct TokenizerJson {
        #[serde(default)]
        added_tokens: Vec<AddedToken>,
    }
    #[derive(Deserialize)]
    struct AddedToken {
        id: u32,
        content: String,
    }

    // Its config.json is made of what its tokenizer says.
    if let ModelSource::Gguf(_) = source {
        return Ok(None);
    }
    let special_tokens = SpecialTokens::load(source)?;
    let Some(eos) = special_tokens.get("eos_token") else { return Ok(None) };
    if let Some(bytes) = source.read("tokenizer.json", MAX_TOKENIZER_BYTES)? {
        let not_valid = |error| not_valid(&source.path("tokenizer.json"), &error);
        let TokenizerJson { added_tokens } = serde_json::from_slice(&bytes).map_err(not_valid)?;
        if let Some(token) = added_tokens.into_iter().find(|token| token.content == eos) {
            return Ok(Some(token.id));
        }
    }
    match Tokenizer::load(source) {
        Err(LoadError::Missing { .. }) => Ok(None),
        tokenizer => Ok(tokenizer?.id_of(eos)),
    }
}

fn not_valid(file: &Path, error: &serde_json::Error) -> LoadError {
    LoadError::Tokenizer { file: file.into(), message: format!("not valid: {error}") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_tokenizers_own_end_token_is_found_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let source = ModelSource::Directory(dir.path().into());
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text/byte_level/tokenizer.json");
        fs::copy(tokenizer, dir.path().join("tokenizer.json")).unwrap();
        for (eos, id) in [("<|im_end|>", 598), ("<end>", 601), ("!", 0)] {
            let listed = json!({"601": {"content": "<end>", "special": true}});
            let config = json!({"eos_token": eos, "added_tokens_decoder": listed});
            fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            assert_eq!(tokenizer_eos(&source).unwrap(), Some(id), "{eos}");
        }
    }

    #[test]
    fn more_end_tokens_than_a_draw_can_ban_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = ModelSource::Directory(dir.path().into());
        let read = |count: u32| {
            let config = json!({"eos_token_id": (0..count).collect::<Vec<_>>()});
            EndTokens::read(&source, &ConfigJson::new(Path::new("config.json"), &config)?, 1000)
        };
        assert_eq!(read(512).unwrap().eos.len(), 512);
        let message = read(513).map(|ends| ends.eos).unwrap_err().to_string();
        assert!(message.contains("`eos_token_id`: names 513 tokens; at most 512"), "{message}");
    }
}
