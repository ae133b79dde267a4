//! Text to token ids and back: a tokenizer.json, run by the `tokenizers` library.

mod special_tokens;
#[cfg(test)]
mod tests;
mod token_bytes;

use std::path::Path;

use serde_json::{Map, Value, json};

use self::token_bytes::Spelling;
use crate::{LoadError, ModelSource, source::MAX_TOKENIZER_BYTES};

pub use self::special_tokens::SpecialTokens;

const FILE: &str = "tokenizer.json";

/// Other formats of a vocabulary, which we recognise only to say what to do.
const OTHER_FORMATS: [(&str, &str); 6] = [
    ("tokenizer.model", "a SentencePiece or tiktoken model"),
    ("tekken.json", "a Tekken vocabulary"),
    ("tiktoken.model", "a tiktoken vocabulary"),
    ("qwen.tiktoken", "a tiktoken vocabulary"),
    ("vocab.json", "a BPE vocabulary without its merges and rules"),
    ("vocab.txt", "a WordPiece vocabulary"),
];

/// Why text could not be tokenized or detokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// No token has this id.
    #[error("token id {id} is not in the tokenizer's vocabulary")]
    UnknownId {
        /// The id.
        id: u32,
    },
    /// The tokenizer's own rules failed on the text.
    #[error("tokenizer: {message}")]
    Failed {
        /// What the library said.
        message: String,
    },
}

/// A tokenizer with its added tokens, normalisation and post-processing.
///
/// Truncation and padding that tokenizer.json may ask for are switched off: they belong to training.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
}

impl Tokenizer {
    /// Reads a model's tokenizer.json.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] when the file is broken or another format is there in its place,
    /// [`LoadError::Missing`] when there is none.
    pub fn load(source: &ModelSource) -> Result<Tokenizer, LoadError> {
        match source.read(FILE, MAX_TOKENIZER_BYTES)? {
            Some(bytes) => Tokenizer::from_bytes(&bytes, &source.path(FILE)),
            None => Err(missing(source)),
        }
    }

    /// A stand-in for a model that has none, as random weights have: token 0 to 255 is the byte of that value.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`]; nothing that a caller does can cause one.
    pub fn of_bytes() -> Result<Tokenizer, LoadError> {
        let vocab: Map<String, Value> =
            token_bytes::alphabet().map(|(c, byte)| (c.into(), byte.into())).collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Tokenizer::from_bytes(tokenizer.to_string().as_bytes(), Path::new("(bytes)"))
    }

    /// Reads the contents of a tokenizer.json; `file` is its name in errors.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Result<Tokenizer, LoadError> {
        let broken = |message: String| LoadError::Tokenizer { file: file.into(), message };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| broken(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| broken(error.to_string()))?;
        inner.with_padding(None);
        let spelling = Spelling::of(&inner).map_err(|error| broken(error.to_string()))?;
        Ok(Tokenizer { inner, spelling })
    }

    /// The ids of `text`. Names of special tokens in the text become those tokens. `add_special_tokens` adds what
    /// the post-processor of tokenizer.json adds, commonly the token that begins a text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, with U+FFFD for bytes that are not UTF-8, with or without the names of special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] when an id has no token.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(TokenizerError::UnknownId { id });
        }
        self.inner.decode(ids, skip_special_tokens).map_err(failed)
    }

    /// The token's bytes as text, with U+FFFD where a character is incomplete.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.token_bytes(id).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes that the token stands for inside a text. A word that begins with a space keeps it, though decoding
    /// strips it at the beginning of a text.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        match self.spelling {
            Spelling::ByteLevel => Some(token_bytes::byte_level(&token)),
            Spelling::Metaspace => Some(token_bytes::metaspace(&token)),
            Spelling::Other => self.inner.decode(&[id], false).ok().map(String::into_bytes),
        }
    }

    /// Whether the token is control rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The id of a token, spelled as in tokenizer.json.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many tokens there are, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

fn failed(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Failed { message: error.to_string() }
}

fn missing(source: &ModelSource) -> LoadError {
    const REMEDY: &str = "save the tokenizer with transformers' `save_pretrained` to make tokenizer.json";
    let present = OTHER_FORMATS.iter().find(|(name, _)| source.path(name).is_file());
    match present {
        Some((name, what)) => LoadError::Tokenizer {
            file: source.path(name),
            message: format!("{what}, which is not supported; {REMEDY}"),
        },
        None => LoadError::Missing { path: source.path(FILE), remedy: REMEDY.into() },
    }
}
