//! What chat and text completions have in common on the wire.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// A whole answer, or one chunk of a streamed one; `C` is the endpoint's choice.
#[derive(Debug, Serialize)]
pub struct Reply<'a, C> {
    #[serde(flatten)]
    pub head: &'a Head,
    /// `chat.completion`, `text_completion`, …
    pub object: &'static str,
    pub choices: Vec<C>,
    /// `Some(None)` is `null`: chunks before the last, when usage was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
}

/// What is the same in all chunks of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client used.
    pub model: String,
    pub system_fingerprint: String,
    /// Only when the client asked for a tier; there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
}

/// Tokens of a whole request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

impl From<mosu::Usage> for Usage {
    fn from(usage: mosu::Usage) -> Usage {
        Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A name that no other answer has: `prefix` and 128 random bits.
pub fn unique_id(prefix: &str) -> String {
    // Each `RandomState` has keys of its own, from the system's randomness.
    let random = || RandomState::new().build_hasher().finish();
    format!("{prefix}{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let ids: HashSet<String> = (0..10_000).map(|_| unique_id("cmpl-")).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
