//! The decoder of a tokenizer.json: how it spells tokens, and how their bytes become text.
//!
//! Every decoder that models of text are published with says of each token alone which bytes it is, and one rule for
//! where characters end. Others (WordPiece's, say, which looks at neighbours) are refused by name.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    byte_level,
    joining::{Joining, Start},
    token_table::{TokenPiece, TokenTable},
};

/// What a tokenizer.json says about its tokens as text.
pub(super) struct DecoderRules {
    pub joining: Joining,
    spelling: Spelling,
}

enum Spelling {
    /// Each character is a byte.
    ByteLevel,
    /// Plain text, in which texts are replaced by others; `<0x0A>` may be a byte.
    Text { replaced: Vec<(String, String)>, byte_fallback: bool },
}

impl DecoderRules {
    /// Reads the `decoder` of a tokenizer.json. The error says what is not supported.
    pub fn read(decoder: &Value) -> Result<DecoderRules, String> {
        let steps = match &decoder["decoders"] {
            Value::Array(steps) if decoder["type"] == "Sequence" => &steps[..],
            _ => std::slice::from_ref(decoder),
        };
        match steps {
            [step] if step["type"] == "ByteLevel" => {
                Ok(DecoderRules { joining: Joining::BYTE_LEVEL, spelling: Spelling::ByteLevel })
            }
            [step] if step["type"] == "Metaspace" => metaspace(step),
            steps => sequence(steps),
        }
    }

    /// The pieces of all tokens.
    pub fn table(&self, tokenizer: &tokenizers::Tokenizer) -> Result<TokenTable, String> {
        let last = tokenizer.get_vocab(true).into_values().max();
        if let Some(id) = last.filter(|&id| id > TokenTable::MAX_ID) {
            return Err(format!("token id {id} is larger than the limit of {}", TokenTable::MAX_ID));
        }
        let mut table = TokenTable::default();
        let (added, contents) = (tokenizer.get_added_vocabulary(), tokenizer.get_added_tokens_decoder());
        for id in 0..last.map_or(0, |last| last + 1) {
            let Some(token) = tokenizer.id_to_token(id) else {
                table.skip();
                continue;
            };
            let (bytes, is_byte) = self.spelling.bytes(&token);
            let has_metaspace = self.spelling.has_metaspace(&token);
            if has_metaspace && self.joining.start == Start::SpacesOfFirstToken && token.contains(' ') {
                return Err(format!(
                    "token {id}: spaces of both kinds, U+2581 and U+0020, are not supported"
                ));
            }
            // The library spells a normalized token as a text has it, but knows special ones by their own names.
            let content = contents.get(&id).map_or(&token, |rules| &rules.content);
            let is_special = added.is_special_token(content);
            table.push(TokenPiece { bytes: &bytes, is_byte, is_special, has_metaspace });
        }
        Ok(table)
    }
}

impl Spelling {
    /// The bytes of a token, and whether it is a single byte by fallback.
    fn bytes(&self, token: &str) -> (Vec<u8>, bool) {
        match self {
            Spelling::ByteLevel => (byte_level::bytes(token), false),
            Spelling::Text { replaced, byte_fallback } => {
                let text = replaced.iter().fold(Cow::Borrowed(token), |text, (from, to)| {
                    if text.contains(from) { text.replace(from, to).into() } else { text }
                });
                match fallback_byte(&text).filter(|_| *byte_fallback) {
                    Some(byte) => (vec![byte], true),
                    None => (text.into_owned().into_bytes(), false),
                }
            }
        }
    }

    /// Whether a token has U+2581, or what stands in its place.
    fn has_metaspace(&self, token: &str) -> bool {
        match self {
            Spelling::ByteLevel => false,
            Spelling::Text { replaced, .. } => replaced.iter().any(|(from, _)| token.contains(from)),
        }
    }
}

/// The byte that a token like `<0x0A>` names.
pub(super) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn metaspace(step: &Value) -> Result<DecoderRules, String> {
    let replacement = step["replacement"].as_str().unwrap_or("\u{2581}");
    let start = if step["prepend_scheme"] == "never" { Start::Keep } else { Start::SpacesOfFirstToken };
    Ok(DecoderRules {
        joining: Joining { start, ..Joining::BYTE_FALLBACK },
        spelling: Spelling::Text { replaced: vec![(replacement.into(), " ".into())], byte_fallback: false },
    })
}

/// Any number of `Replace`, then at most one each of `ByteFallback`, `Fuse` and `Strip`, as Llama 2 has them.
fn sequence(steps: &[Value]) -> Result<DecoderRules, String> {
    let is = |index: usize, name: &str| steps.get(index).is_some_and(|step| step["type"] == name);
    let mut at = 0;
    let mut replaced = Vec::new();
    while let Some((from, to)) = steps.get(at).filter(|step| step["type"] == "Replace").and_then(replacement)
    {
        replaced.push((from, to));
        at += 1;
    }
    let byte_fallback = is(at, "ByteFallback");
    at += usize::from(byte_fallback);
    let fused = is(at, "Fuse");
    at += usize::from(fused);
    let mut start = Start::Keep;
    if let Some(spaces) = steps.get(at).filter(|_| fused).and_then(stripped_spaces) {
        start = Start::Spaces(spaces);
        at += 1;
    }
    match steps.get(at) {
        None if at > 0 => Ok(DecoderRules {
            joining: Joining { start, ..Joining::BYTE_FALLBACK },
            spelling: Spelling::Text { replaced, byte_fallback },
        }),
        step => {
            let step = step.map_or("null".into(), Value::to_string);
            Err(format!("`decoder`: {step} is not supported in this place"))
        }
    }
}

fn replacement(step: &Value) -> Option<(String, String)> {
    let pattern = step["pattern"]["String"].as_str().filter(|pattern| !pattern.is_empty())?;
    Some((pattern.into(), step["content"].as_str()?.into()))
}

/// How many spaces a `Strip` takes from the beginning, if that is all it does.
fn stripped_spaces(step: &Value) -> Option<usize> {
    let plain = step["type"] == "Strip" && step["content"] == " " && step["stop"] == 0;
    step["start"].as_u64().filter(|_| plain)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unsupported_decoders_are_named() {
        let replace = json!({"type": "Replace", "pattern": {"Regex": "x"}, "content": ""});
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 1});
        for (decoder, name) in [
            (json!(null), "null"),
            (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "WordPiece"),
            (
                json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace"}]}),
                "Metaspace",
            ),
            (json!({"type": "Sequence", "decoders": [replace]}), "Replace"),
            (json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]}), "Strip"),
            (json!({"type": "Sequence", "decoders": []}), "null"),
        ] {
            let message = DecoderRules::read(&decoder).err().unwrap();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn tokens_as_text() {
        let rules = sequence(&[
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
        ]);
        let spelling = rules.unwrap().spelling;
        assert_eq!(spelling.bytes("\u{2581}new"), (b" new".to_vec(), false));
        assert_eq!(spelling.bytes("<0xE4>"), (vec![0xe4], true));
        assert_eq!(spelling.bytes("<0xE>"), (b"<0xE>".to_vec(), false));
    }
}
