//! Text to token ids and back: a tokenizer.json, run by the `tokenizers` library, or a published vocabulary of another
//! kind, run here exactly as its reference implementation runs it.

mod added_tokens;
mod byte_level;
mod byte_pairs;
mod configured;
mod decoder_json;
mod error;
mod joining;
mod prefix_search;
mod protobuf;
mod ranks;
mod sentencepiece;
mod special_tokens;
#[cfg(test)]
mod tests;
mod token_files;
mod token_table;
mod tokenizer_config;
mod vocabulary;
mod vocabulary_class;

use std::{iter, path::Path};

use serde_json::{Map, Value, json};

use self::{
    decoder_json::{DecoderRules, fallback_byte},
    token_files::TokenFile,
    token_table::TokenTable,
    tokenizer_config::TokenizerConfig,
    vocabulary::Vocabulary,
};
use crate::{LoadError, ModelSource, source::MAX_TOKENIZER_BYTES};

pub use self::{
    error::TokenizerError,
    joining::{Joining, TextJoiner},
    special_tokens::SpecialTokens,
    token_table::TokenPiece,
};

/// What reads a vocabulary of another kind; its error says what is wrong with the file, or not supported.
type ReadVocabulary = fn(&[u8], &TokenizerConfig) -> Result<Vocabulary, String>;

/// The files that a vocabulary may be in when there is no tokenizer.json; the first that is there is read.
const VOCABULARIES: [(&str, ReadVocabulary); 5] = [
    ("tokenizer.model", Vocabulary::of_model),
    ("qwen.tiktoken", Vocabulary::of_ranks),
    ("hy.tiktoken", Vocabulary::of_ranks),
    ("tiktoken.model", Vocabulary::of_ranks),
    ("tekken.json", Vocabulary::of_tekken),
];

const FILE: &str = "tokenizer.json";

/// Other formats of a vocabulary, which we recognise only to say what to do.
const OTHER_FORMATS: [(&str, &str); 2] = [
    ("vocab.json", "a BPE vocabulary without its merges and rules"),
    ("vocab.txt", "a WordPiece vocabulary"),
];

/// A tokenizer with its added tokens, normalisation and post-processing.
///
/// Truncation and padding that tokenizer.json may ask for are switched off: they belong to training.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    /// A tokenizer.json.
    Json {
        library: Box<tokenizers::Tokenizer>,
        table: TokenTable,
        joining: Joining,
    },
    Vocabulary(Box<Vocabulary>),
}

impl Tokenizer {
    /// Reads a model's tokenizer.json, else the vocabulary that it has in its place: `tokenizer.model`, a file of
    /// ranks as tiktoken has them, or `tekken.json`; and what tokenizer_config.json says beside them.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] when the file is broken or of a kind that is not supported, [`LoadError::Missing`] when
    /// there is none.
    pub fn load(source: &ModelSource) -> Result<Tokenizer, LoadError> {
        if let Some(bytes) = source.read(FILE, MAX_TOKENIZER_BYTES)? {
            let file = source.path(FILE);
            let mut library = read_library(&bytes, &file)?;
            configured::configure(&mut library, &TokenizerConfig::load(source)?)
                .map_err(|message| LoadError::Tokenizer { file: source.path(TokenFile::CONFIG), message })?;
            return Tokenizer::of_library(library, &file);
        }
        for (file, read) in VOCABULARIES {
            if let Some(bytes) = source.read(file, MAX_TOKENIZER_BYTES)? {
                let vocabulary = read(&bytes, &TokenizerConfig::load(source)?)
                    .map_err(|message| LoadError::Tokenizer { file: source.path(file), message })?;
                return Ok(Tokenizer { inner: Inner::Vocabulary(Box::new(vocabulary)) });
            }
        }
        Err(missing(source))
    }

    /// The file that [`Tokenizer::load`] reads, if the model has any.
    pub(crate) fn file(source: &ModelSource) -> Option<&'static str> {
        if let ModelSource::Gguf(_) = source {
            return Some("tokenizer.ggml");
        }
        let names = iter::once(FILE).chain(VOCABULARIES.iter().map(|(file, _)| *file));
        names.into_iter().find(|name| source.has(name))
    }

    /// What kind of vocabulary it is.
    pub fn kind(&self) -> &'static str {
        match &self.inner {
            Inner::Json { .. } => "tokenizer.json",
            Inner::Vocabulary(vocabulary) => vocabulary.kind(),
        }
    }

    /// A stand-in for a model that has none, as random weights have: token 0 to 255 is the byte of that value.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`]; nothing that a caller does can cause one.
    pub fn of_bytes() -> Result<Tokenizer, LoadError> {
        let vocab: Map<String, Value> =
            byte_level::alphabet().map(|(c, byte)| (c.into(), byte.into())).collect();
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

    /// Reads the contents of a tokenizer.json, which alone has a say; `file` is its name in errors.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Result<Tokenizer, LoadError> {
        Tokenizer::of_library(read_library(bytes, file)?, file)
    }

    fn of_library(library: tokenizers::Tokenizer, file: &Path) -> Result<Tokenizer, LoadError> {
        let broken = |message: String| LoadError::Tokenizer { file: file.into(), message };
        let decoder =
            serde_json::to_value(library.get_decoder()).map_err(|error| broken(error.to_string()))?;
        let rules = DecoderRules::read(&decoder).map_err(broken)?;
        check_added_tokens(&library).map_err(broken)?;
        let table = rules.table(&library).map_err(broken)?;
        Ok(Tokenizer { inner: Inner::Json { library: Box::new(library), table, joining: rules.joining } })
    }

    /// The ids of `text`. Names of special tokens in the text become those tokens. `add_special_tokens` adds what
    /// begins and ends every text: commonly one token that begins it.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        match &self.inner {
            Inner::Json { library, .. } => {
                let encoding =
                    library.encode_fast(text, add_special_tokens).map_err(TokenizerError::failed)?;
                Ok(encoding.get_ids().to_vec())
            }
            Inner::Vocabulary(vocabulary) => vocabulary.encode(text, add_special_tokens),
        }
    }

    /// The text of `ids`, with U+FFFD for bytes that are not UTF-8, with or without the names of special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] when an id has no token.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        let mut joiner = TextJoiner::new(self.joining());
        let mut text = String::new();
        for &id in ids {
            let piece = self.piece(id).ok_or(TokenizerError::UnknownId { id })?;
            if !(skip_special_tokens && piece.is_special) {
                joiner.push(piece, &mut text);
            }
        }
        joiner.flush(&mut text);
        Ok(text)
    }

    /// How the pieces of tokens become text: what a [`TextJoiner`] needs.
    pub fn joining(&self) -> Joining {
        match &self.inner {
            Inner::Json { joining, .. } => *joining,
            Inner::Vocabulary(vocabulary) => vocabulary.joining(),
        }
    }

    /// The token's share of a text; `None` when no token has this id. A word that begins with a space keeps it,
    /// though decoding drops it at the beginning of a text.
    pub fn piece(&self, id: u32) -> Option<TokenPiece<'_>> {
        self.table().get(id)
    }

    /// The token's bytes as text, with U+FFFD where a character is incomplete.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.piece(id).map(|piece| String::from_utf8_lossy(piece.bytes).into_owned())
    }

    /// The bytes that the token stands for inside a text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.piece(id).map(|piece| piece.bytes)
    }

    /// Whether the token is control rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        self.piece(id).is_some_and(|piece| piece.is_special)
    }

    /// The id of a token, spelled as in the tokenizer's file.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        match &self.inner {
            Inner::Json { library, .. } => library.token_to_id(token),
            Inner::Vocabulary(vocabulary) => vocabulary.id_of(token),
        }
    }

    /// How many tokens there are, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.table().len()
    }
}

impl Tokenizer {
    fn table(&self) -> &TokenTable {
        match &self.inner {
            Inner::Json { table, .. } => table,
            Inner::Vocabulary(vocabulary) => vocabulary.table(),
        }
    }
}

fn read_library(bytes: &[u8], file: &Path) -> Result<tokenizers::Tokenizer, LoadError> {
    let broken =
        |error: tokenizers::Error| LoadError::Tokenizer { file: file.into(), message: error.to_string() };
    let mut library = tokenizers::Tokenizer::from_bytes(bytes).map_err(broken)?;
    library.with_truncation(None).map_err(broken)?;
    library.with_padding(None);
    Ok(library)
}

/// The library panics at a token of white space alone that takes more of it along, when another took it before.
fn check_added_tokens(library: &tokenizers::Tokenizer) -> Result<(), String> {
    let tokens = library.get_added_tokens_decoder();
    for (id, rules) in tokens.into_iter().filter(|(_, rules)| rules.lstrip) {
        let in_a_text = library.id_to_token(id).unwrap_or_default();
        if rules.content.trim().is_empty() || in_a_text.trim().is_empty() {
            return Err(format!("token {id}: `lstrip` of a token of white space alone is not supported"));
        }
    }
    Ok(())
}

fn missing(source: &ModelSource) -> LoadError {
    if let ModelSource::Gguf(path) = source {
        let remedy = "a GGUF file that texts can be made with has a vocabulary".into();
        return LoadError::Missing { path: path.join("tokenizer.ggml.model"), remedy };
    }
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
