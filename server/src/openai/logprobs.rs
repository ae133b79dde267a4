//! Log-probabilities in the shapes of the two endpoints.

use mosu::{TokenLogprobs, Tokenizer};
use serde::{Serialize, Serializer, ser::SerializeMap};

/// JSON has no infinities: a token that cannot be sampled has this log-probability.
const FLOOR: f32 = -9999.0;

/// `choices[].logprobs` of a chat completion.
#[derive(Debug, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatToken>,
    /// Always null: a model that declines does so in its text.
    pub refusal: Option<()>,
}

/// A token of a chat completion.
#[derive(Debug, Serialize)]
pub struct ChatToken {
    #[serde(flatten)]
    token: Candidate,
    top_logprobs: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Candidate {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

impl ChatToken {
    /// One token and its alternatives.
    pub fn new(id: u32, logprobs: &TokenLogprobs, tokenizer: &Tokenizer) -> ChatToken {
        let candidate = |id, logprob: f32| Candidate {
            token: token_string(id, tokenizer),
            logprob: logprob.max(FLOOR),
            bytes: tokenizer.token_bytes(id).map(<[u8]>::to_vec),
        };
        ChatToken {
            token: candidate(id, logprobs.logprob),
            top_logprobs: logprobs.top.iter().map(|&(id, logprob)| candidate(id, logprob)).collect(),
        }
    }
}

/// `choices[].logprobs` of a text completion: parallel lists, one entry per token.
#[derive(Debug, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Alternatives>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token; `offset` counts the characters of the choice's text, and moves on.
    pub fn push(
        &mut self,
        id: u32,
        logprobs: Option<&TokenLogprobs>,
        tokenizer: &Tokenizer,
        offset: &mut TextOffset,
    ) {
        let token = token_string(id, tokenizer);
        self.text_offset.push(offset.characters);
        offset.advance(id, tokenizer);
        self.token_logprobs.push(logprobs.map(|logprobs| logprobs.logprob.max(FLOOR)));
        self.top_logprobs.push(logprobs.map(|logprobs| Alternatives::new(&token, logprobs, tokenizer)));
        self.tokens.push(token);
    }
}

/// Where the next token begins, in characters of the text.
#[derive(Clone, Copy, Debug)]
pub struct TextOffset {
    characters: usize,
    skip_special_tokens: bool,
}

impl TextOffset {
    /// The beginning of a text. Special tokens may have no text.
    pub fn new(skip_special_tokens: bool) -> TextOffset {
        TextOffset { characters: 0, skip_special_tokens }
    }

    fn advance(&mut self, id: u32, tokenizer: &Tokenizer) {
        if self.skip_special_tokens && tokenizer.is_special(id) {
            return;
        }
        // A character begins where a byte is not a continuation of UTF-8, whatever token has the rest.
        let begins = |byte: &&u8| **byte & 0xC0 != 0x80;
        self.characters += tokenizer.token_bytes(id).map_or(0, |bytes| bytes.iter().filter(begins).count());
    }
}

/// Tokens and log-probabilities as one JSON object, the most probable first, each text once.
#[derive(Debug)]
struct Alternatives(Vec<(String, f32)>);

impl Alternatives {
    fn new(token: &str, logprobs: &TokenLogprobs, tokenizer: &Tokenizer) -> Alternatives {
        let mut all: Vec<(String, f32)> = Vec::with_capacity(logprobs.top.len() + 1);
        let top = logprobs.top.iter().map(|&(id, logprob)| (token_string(id, tokenizer), logprob));
        for (text, logprob) in top.chain([(token.to_string(), logprobs.logprob)]) {
            if !all.iter().any(|(known, _)| *known == text) {
                all.push((text, logprob.max(FLOOR)));
            }
        }
        Alternatives(all)
    }
}

impl Serialize for Alternatives {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            map.serialize_entry(token, logprob)?;
        }
        map.end()
    }
}

/// A token's text. Bytes that are no text alone are written as `bytes:\xe4\xbd`, so that no two tokens look alike.
pub fn token_string(id: u32, tokenizer: &Tokenizer) -> String {
    let Some(bytes) = tokenizer.token_bytes(id) else { return format!("token_id:{id}") };
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{escaped}")
        }
    }
}
