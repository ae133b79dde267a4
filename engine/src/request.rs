//! What a caller asks for and what comes back.

use std::fmt;

use mosu_models::{SamplingDefaults, TokenLogprobs};

/// One request: a prompt and how to continue it. Build it with [`Request::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// When to stop.
    pub stop: StopConditions,
    /// Independent continuations of the same prompt, 1 to 128; they share its KV blocks.
    pub n: u32,
    /// Report log-probabilities of output tokens, with this many alternatives (0 to 20).
    pub logprobs: Option<u32>,
    /// Report log-probabilities of prompt tokens, with this many alternatives (0 to 20).
    pub prompt_logprobs: Option<u32>,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// A request shares cached prefixes only with requests of the same salt, or without one if it has none.
    pub cache_salt: Option<String>,
}

impl Request {
    /// A request with the defaults: sampled at temperature 1, one choice, until an end token or the context's end.
    /// What the model's publisher asks for instead is [`Engine::sampling_defaults`](crate::Engine::sampling_defaults).
    pub fn new(prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            sampling: SamplingParams::default(),
            stop: StopConditions::default(),
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            skip_special_tokens: true,
            cache_salt: None,
        }
    }
}

/// How each token is sampled. Penalties first, then bias, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 to 2; 0 (anything below 0.00001) is greedy.
    pub temperature: f32,
    /// Keep the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Over 0 to 1: keep the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// 0 to 1: drop tokens less probable than `min_p` times the most probable; 0 keeps all.
    pub min_p: f32,
    /// -2 to 2: subtracted from logits of tokens in the output.
    pub presence_penalty: f32,
    /// -2 to 2: subtracted per occurrence in the output.
    pub frequency_penalty: f32,
    /// 0.01 to 2: logits of tokens in prompt or output are divided (positive) or multiplied (negative) by it.
    pub repetition_penalty: f32,
    /// (token, -100 to 100): added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same text. Without one, the engine draws one per request.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// The model's defaults where it has any.
impl From<&SamplingDefaults> for SamplingParams {
    fn from(defaults: &SamplingDefaults) -> SamplingParams {
        let default = SamplingParams::default();
        SamplingParams {
            temperature: defaults.temperature.unwrap_or(default.temperature),
            top_k: defaults.top_k.unwrap_or(default.top_k),
            // 0 keeps the most probable token, as the smallest positive value does.
            top_p: defaults.top_p.map_or(default.top_p, |p| p.max(f32::MIN_POSITIVE)),
            min_p: defaults.min_p.unwrap_or(default.min_p),
            repetition_penalty: defaults.repetition_penalty.unwrap_or(default.repetition_penalty),
            ..default
        }
    }
}

/// When a continuation ends. The model's end tokens always count, unless `ignore_eos`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopConditions {
    /// Most output tokens per choice; `None` is as many as the context holds. 0 only with `prompt_logprobs`.
    pub max_tokens: Option<usize>,
    /// End tokens and stop tokens cannot be sampled before this many output tokens, and their text is not searched for
    /// stop strings.
    pub min_tokens: usize,
    /// Up to 16 texts that end the output, of up to 1024 bytes; they may span tokens. The name of a special token
    /// makes it a stop token too, so that it is found when special tokens have no text.
    pub strings: Vec<String>,
    /// Further tokens that end the output.
    pub token_ids: Vec<u32>,
    /// Do not stop at the model's end tokens.
    pub ignore_eos: bool,
    /// Keep in the text the stop string, or the text of the end or stop token, that ended it.
    pub include_stop_string: bool,
}

/// What a stream yields. Exactly one of `Finished` and `Failed` comes, last.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is computed. Comes once, first.
    Prompt(PromptInfo),
    /// New output of one choice. The text may be empty while a character or a possible stop string is incomplete.
    Output {
        /// Which choice, from 0 to n - 1.
        index: u32,
        /// Text that is now certain. The texts of a choice, joined, are its output.
        text: String,
        /// The tokens behind this event.
        tokens: Vec<OutputToken>,
        /// Set on the choice's last event.
        finish: Option<Finish>,
    },
    /// All choices are done. Final.
    Finished(Usage),
    /// The request could not be completed. Final.
    Failed(RequestError),
}

impl Event {
    /// No event comes after this one.
    pub fn is_final(&self) -> bool {
        matches!(self, Event::Finished(_) | Event::Failed(_))
    }
}

/// What is known once the prompt is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptInfo {
    /// Prompt tokens whose KV blocks came from the prefix cache.
    pub cached_tokens: usize,
    /// One entry per prompt token when asked for; the first token has none.
    pub logprobs: Option<Vec<Option<TokenLogprobs>>>,
}

/// One token of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputToken {
    /// Its id.
    pub id: u32,
    /// Its log-probabilities, when asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// How a choice ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    /// An end token of the model.
    EndToken(u32),
    /// One of the request's stop tokens.
    StopToken(u32),
    /// One of the request's stop strings.
    StopString(String),
    /// `max_tokens` or the context's end.
    Length,
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: usize,
    /// Tokens of all choices.
    pub completion_tokens: usize,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
}

/// Why a request was refused or could not be completed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// A field has a value outside its range.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of [`Request`], as `sampling.top_p` or `prompt`.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Prompt and output do not fit the context.
    #[error(
        "the prompt has {prompt_tokens} tokens and {max_tokens} more were asked for, but the context holds {context}"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Output tokens asked for.
        max_tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// The request needs more KV blocks than the cache has.
    #[error(
        "the request may need {needed} KV blocks but the cache has {available}; ask for fewer tokens or give the cache more memory"
    )]
    CacheTooSmall {
        /// KV blocks that the request may need.
        needed: usize,
        /// KV blocks in the cache.
        available: usize,
    },
    /// Too much is waiting. Try again later.
    #[error("the queue is full: {waiting} {unit} wait and the limit is {limit}")]
    Overloaded {
        /// How much waits.
        waiting: usize,
        /// The limit.
        limit: usize,
        /// `requests` or `tokens`.
        unit: &'static str,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// A fault in the engine hit this request alone; others go on.
    #[error("the engine could not complete this request: {0}")]
    Internal(String),
    /// The engine's device failed or its thread ended; it must be started again.
    #[error("the engine failed: {0}")]
    Fatal(String),
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finish::Length => "length",
            _ => "stop",
        })
    }
}
