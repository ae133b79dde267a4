//! How the tokens of a vocabulary spell bytes.

use serde_json::Value;

/// What the tokenizer's decoder says about the spelling of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Every byte is one character of GPT-2's alphabet.
    ByteLevel,
    /// U+2581 is a space, and `<0x0A>` is a byte that no other token covers.
    Metaspace,
    /// Anything else: ask the decoder.
    Other,
}

impl Spelling {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Spelling, serde_json::Error> {
        let decoder = serde_json::to_value(tokenizer.get_decoder())?;
        Ok(if has_decoder(&decoder, &["ByteLevel"]) {
            Spelling::ByteLevel
        } else if has_decoder(&decoder, &["ByteFallback", "Metaspace"]) {
            Spelling::Metaspace
        } else {
            Spelling::Other
        })
    }
}

/// Whether a decoder, or one in its sequence, is of one of the types.
fn has_decoder(decoder: &Value, types: &[&str]) -> bool {
    decoder["type"].as_str().is_some_and(|name| types.contains(&name))
        || decoder["decoders"].as_array().is_some_and(|list| list.iter().any(|one| has_decoder(one, types)))
}

/// The bytes of a token of a byte-level vocabulary. One with any other character (an added token) is plain text.
pub(super) fn byte_level(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character stands for in GPT-2's alphabet: printable Latin-1 characters stand for themselves, and
/// the 68 other bytes, in ascending order, are the characters from U+0100.
fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// GPT-2's alphabet: every character of it, and its byte.
pub(super) fn alphabet() -> impl Iterator<Item = (char, u8)> {
    (0..=0x143).filter_map(char::from_u32).filter_map(|character| Some((character, byte_of(character)?)))
}

/// The bytes of a token of a SentencePiece-like vocabulary.
pub(super) fn metaspace(token: &str) -> Vec<u8> {
    match fallback_byte(token) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = alphabet().map(|(_, byte)| byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn byte_level_tokens() {
        assert_eq!(byte_level("Ġnew"), b" new");
        assert_eq!(byte_level("Ċ"), b"\n");
        assert_eq!(byte_level("你好"), "你好".as_bytes());
    }

    #[test]
    fn metaspace_tokens() {
        assert_eq!(metaspace("▁new"), b" new");
        assert_eq!(metaspace("<0xE4>"), [0xe4]);
        assert_eq!(metaspace("<0xE>"), b"<0xE>");
    }
}
