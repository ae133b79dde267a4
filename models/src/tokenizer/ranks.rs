//! Byte-pair vocabularies as tiktoken has them: every token's bytes with its rank, which is its id, and a regular
//! expression that cuts a text into words first.

use std::collections::{HashMap, HashSet};

use fancy_regex::Regex;
use serde::Deserialize;
use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};

use super::{
    byte_pairs::{self, Part},
    error::TokenizerError,
    token_table::{MAX_PIECE_BYTES, TokenTable},
};
use crate::python_json;

/// Which id a line of a rank file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// The one that it states.
    Stated,
    /// The number of tokens before it; a token that is there already is passed over.
    ByLine,
}

#[derive(Clone, Debug)]
pub(super) struct Ranks {
    ids: HashMap<Box<[u8]>, u32>,
    words: Regex,
    /// Bring the text to Unicode's normal form C first.
    nfc: bool,
}

impl Ranks {
    /// A vocabulary of `ids` for texts cut by `pattern`. The error says what is wrong with it.
    pub fn new(ids: HashMap<Box<[u8]>, u32>, pattern: &str, nfc: bool) -> Result<Ranks, String> {
        if let Some(byte) = (0..=u8::MAX).find(|&byte| !ids.contains_key(&[byte][..])) {
            return Err(format!("byte {byte:#04x} has no token"));
        }
        let mut seen = HashSet::new();
        if let Some(id) = ids.values().find(|&&id| !seen.insert(id)) {
            return Err(format!("two tokens have the rank {id}"));
        }
        let words = Regex::new(pattern).map_err(|error| format!("the pattern that cuts words: {error}"))?;
        Ok(Ranks { ids, words, nfc })
    }

    /// The ids of `text`. What the pattern finds no word in has none, as in tiktoken.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut normalized = NormalizedString::from(text);
        if self.nfc {
            NFC.normalize(&mut normalized).map_err(TokenizerError::failed)?;
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        for word in self.words.find_iter(normalized.get()) {
            let word = word.map_err(TokenizerError::failed)?;
            self.encode_word(word.as_str().as_bytes(), &mut ids);
        }
        Ok(ids)
    }

    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        if let Some(&id) = self.ids.get(word) {
            ids.push(id);
            return;
        }
        let bytes: Vec<Part> = (1..=word.len()).map(|end| Part { end, frozen: false }).collect();
        let rank = |bytes: &[u8]| self.ids.get(bytes).copied();
        let spans = byte_pairs::merge(word, &bytes, rank);
        ids.extend(spans.into_iter().filter_map(|span| rank(&word[span])));
    }

    /// Every token's bytes and id, in no order.
    pub fn tokens(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.ids.iter().map(|(bytes, &id)| (&**bytes, id))
    }

    /// The first id behind all of them.
    pub fn next_id(&self) -> u32 {
        self.ids.values().max().map_or(0, |last| last + 1)
    }
}

/// Whether a file is one of ranks: its first line is base64, a space and a number.
pub(super) fn is_rank_file(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').next().and_then(line).is_some()
}

/// The tokens of a rank file. The error names the line.
pub(super) fn read_rank_file(bytes: &[u8], numbering: Numbering) -> Result<HashMap<Box<[u8]>, u32>, String> {
    let mut ids = HashMap::new();
    for (number, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let error = |what: &str| Err(format!("line {}: {what}", number + 1));
        let Some((token, stated)) = line(text) else {
            return error("expected a token in base64 and its rank");
        };
        if token.is_empty() || token.len() > MAX_PIECE_BYTES || stated > TokenTable::MAX_ID {
            return error(&format!(
                "supported are tokens of 1 to {MAX_PIECE_BYTES} bytes and ranks up to {}",
                TokenTable::MAX_ID
            ));
        }
        let next = ids.len() as u32;
        match numbering {
            Numbering::ByLine => {
                ids.entry(token.into()).or_insert(next);
            }
            Numbering::Stated => {
                if ids.insert(token.into(), stated).is_some() {
                    return error("the token is there twice");
                }
            }
        }
    }
    Ok(ids)
}

fn line(text: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (token, rank) = str::from_utf8(text.trim_ascii()).ok()?.split_once(' ')?;
    Some((decode_base64(token)?, rank.trim_start().parse().ok()?))
}

/// RFC 4648, section 4.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// A `tekken.json`, as Mistral AI publishes them: special tokens first, then the tokens by rank, of which a model uses
/// the first ones.
#[derive(Deserialize)]
pub(super) struct Tekken {
    config: TekkenConfig,
    vocab: Vec<TekkenToken>,
    #[serde(default)]
    special_tokens: Vec<TekkenSpecial>,
}

#[derive(Deserialize)]
struct TekkenConfig {
    pattern: String,
    default_vocab_size: u32,
    default_num_special_tokens: u32,
}

#[derive(Deserialize)]
struct TekkenToken {
    rank: u32,
    token_bytes: String,
}

#[derive(Deserialize)]
struct TekkenSpecial {
    rank: u32,
    token_str: String,
}

impl Tekken {
    /// The error says what is wrong with the file.
    pub fn read(bytes: &[u8]) -> Result<Tekken, String> {
        let tekken: Tekken = python_json::parse(bytes).map_err(|error| error.to_string())?;
        let TekkenConfig { default_vocab_size: size, default_num_special_tokens: special, .. } =
            tekken.config;
        if special > size || size > TokenTable::MAX_ID {
            return Err(format!("config: {special} special tokens of {size} are not possible"));
        }
        Ok(tekken)
    }

    pub fn ranks(&self) -> Result<Ranks, String> {
        let TekkenConfig { pattern, default_vocab_size, default_num_special_tokens } = &self.config;
        let mut ids = HashMap::new();
        for token in
            self.vocab.iter().filter(|token| token.rank < default_vocab_size - default_num_special_tokens)
        {
            let bytes = decode_base64(&token.token_bytes)
                .filter(|bytes| (1..=MAX_PIECE_BYTES).contains(&bytes.len()));
            let bytes = bytes.ok_or_else(|| format!("vocab: rank {}: not a token in base64", token.rank))?;
            if ids.insert(bytes.into(), token.rank + default_num_special_tokens).is_some() {
                return Err(format!("vocab: rank {}: the token is there twice", token.rank));
            }
        }
        Ranks::new(ids, pattern, false)
    }

    /// The names of the special tokens by their ids: those of the first version of the format, which did not list
    /// them, and fillers for those without one.
    pub fn special_tokens(&self) -> Vec<String> {
        const OF_FIRST_VERSION: [&str; 14] = [
            "<unk>",
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
            "[TOOL_CALLS]",
            "[IMG]",
            "<pad>",
            "[IMG_BREAK]",
            "[IMG_END]",
        ];
        let count = self.config.default_num_special_tokens;
        let mut names: Vec<String> = (0..count).map(|id| format!("<SPECIAL_{id}>")).collect();
        if self.special_tokens.is_empty() {
            names.iter_mut().zip(OF_FIRST_VERSION).for_each(|(name, known)| *name = known.into());
        }
        for token in &self.special_tokens {
            if let Some(name) = names.get_mut(token.rank as usize) {
                name.clone_from(&token.token_str);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        let cases = [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("5qih6YCf", "模速")];
        for (text, decoded) in cases {
            assert_eq!(decode_base64(text).as_deref(), Some(decoded.as_bytes()), "{text}");
        }
        for broken in ["Zg", "Zg=", "Z===", "Zm9v=", "Zm9-", "Zm 9"] {
            assert_eq!(decode_base64(broken), None, "{broken}");
        }
    }

    #[test]
    fn broken_rank_files_are_named() {
        assert!(is_rank_file(b"Zg== 0\nx") && !is_rank_file(b"\n\x0c\n\x05<unk>") && !is_rank_file(b""));
        let message = |file: &str| read_rank_file(file.as_bytes(), Numbering::Stated).unwrap_err();
        assert!(message("Zg== 0\nZg= 1").contains("line 2"));
        assert!(message("Zg== 0\n\nZg== 1").contains("line 3: the token is there twice"));
        assert!(message("Zg== 4294967295").contains("line 1: supported are"));
        let by_line = read_rank_file(b"Zg== 7\nZg== 8\nZm8= 9\r\n", Numbering::ByLine).unwrap();
        assert_eq!((by_line[&b"f"[..]], by_line[&b"fo"[..]]), (0, 1));
        assert!(Ranks::new(by_line, r"\S+", false).unwrap_err().contains("0x00"));
    }
}
