//! `POST /v1/completions`

use std::sync::Arc;

use axum::{
    extract::{Request as HttpRequest, State},
    response::{IntoResponse, Response},
};
use mosu::{Finish, OutputToken, PromptInfo, Tokenizer};
use serde::Serialize;

use super::{
    endpoint::{self, Call, Prepared},
    generation::{Answer, OutputDelta},
    logprobs::{CompletionLogprobs, TextOffset},
    params::{self, Fields, Refused},
    sampling, sse,
    wire::{Reply, Usage},
    writer::{self, Common},
};
use crate::{error::ApiError, json::Json, state::App};

const PROMPT: &str = "prompt";

/// Output tokens when the client does not say; OpenAI's.
const DEFAULT_MAX_TOKENS: i64 = 16;

const REFUSED: &[Refused] = &[
    Refused {
        field: "prompt_logprobs",
        neutral: |_| false,
        reason: "send `echo` and `logprobs` for log-probabilities of the prompt",
    },
    Refused {
        field: "response_format",
        neutral: |value| value.get("type").is_some_and(|kind| kind == "text"),
        reason: "only {\"type\": \"text\"} can be promised",
    },
    Refused { field: "suffix", neutral: |value| value == "", reason: "text is continued, never filled in" },
];

/// The handler.
pub async fn create(State(app): State<Arc<App>>, http: HttpRequest) -> Result<Response, ApiError> {
    endpoint::generate(app, http, prepare).await
}

/// Everything between the body and the engine.
fn prepare(mut call: Call) -> Result<Prepared<Writer>, ApiError> {
    let body = std::mem::take(&mut call.body);
    let mut fields = Fields::of_body(&body)?;
    let (common, mut request) = call.common(&mut fields, "cmpl-")?;
    fields.refuse(REFUSED)?;
    check_best_of(&mut fields, request.n)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let max_tokens = fields.integer("max_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(DEFAULT_MAX_TOKENS);
    if max_tokens == 0 && !echo {
        return Err(ApiError::value("max_tokens", "`max_tokens` must be at least 1, unless `echo` is true"));
    }
    request.stop.max_tokens = Some(max_tokens as usize);
    request.logprobs = fields.integer("logprobs", 0..=5)?.map(|top| top as u32);
    // The engine computes a prompt alone only for its log-probabilities.
    request.prompt_logprobs = if max_tokens == 0 { request.logprobs.or(Some(0)) } else { request.logprobs };
    request.prompt_logprobs = request.prompt_logprobs.filter(|_| echo);
    let add_special_tokens = fields.flag("add_special_tokens")?.unwrap_or(true);
    let prompts = prompts(&mut fields, call.app.engine.model_info().vocab_size)?;
    let ignored = call.app.ignored(fields)?;

    call.reserve(prompts.len(), common.n)?;
    let tokenizer = call.app.engine.tokenizer();
    let prompts: Result<Vec<Prompt>, ApiError> = prompts
        .into_iter()
        .map(|prompt| prompt.resolve(tokenizer, add_special_tokens, request.skip_special_tokens, echo))
        .collect();
    let prompts = prompts?;
    let requests = prompts.iter().map(|prompt| {
        let mut request = request.clone();
        request.prompt = prompt.token_ids.clone();
        request
    });
    let requests = requests.collect();
    let offset = TextOffset::new(request.skip_special_tokens);
    let offsets = vec![offset; prompts.len() * common.n];
    let writer = Writer { common, logprobs: request.logprobs.is_some(), echo, prompts, offsets };
    Ok(Prepared { generation: call.start(requests)?, writer, ignored })
}

fn check_best_of(fields: &mut Fields, n: u32) -> Result<(), ApiError> {
    match fields.integer("best_of", 1..=128)? {
        Some(best_of) if best_of != i64::from(n) => Err(ApiError::unsupported(
            "best_of",
            "`best_of` is not supported: leave it out, or send the value of `n`",
        )),
        _ => Ok(()),
    }
}

/// A prompt as it was sent.
enum SentPrompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A prompt as the model sees it.
struct Prompt {
    token_ids: Vec<u32>,
    /// Its text, when it is to be repeated.
    text: String,
}

impl SentPrompt {
    fn resolve(
        self,
        tokenizer: &Tokenizer,
        add_special_tokens: bool,
        skip_special_tokens: bool,
        echo: bool,
    ) -> Result<Prompt, ApiError> {
        let refused = |error: mosu::TokenizerError| ApiError::value(PROMPT, error.to_string());
        let prompt = match self {
            SentPrompt::Text(text) => {
                let token_ids = tokenizer.encode(&text, add_special_tokens).map_err(refused)?;
                Prompt { token_ids, text }
            }
            SentPrompt::Tokens(token_ids) => {
                let text =
                    if echo { tokenizer.decode(&token_ids, skip_special_tokens) } else { Ok(String::new()) };
                Prompt { text: text.map_err(refused)?, token_ids }
            }
        };
        if prompt.token_ids.is_empty() {
            return Err(ApiError::value(PROMPT, "`prompt` must have at least one token"));
        }
        Ok(prompt)
    }
}

/// `prompt`: a string, a list of strings, a list of token ids, or a list of lists of token ids.
fn prompts(fields: &mut Fields, vocab_size: usize) -> Result<Vec<SentPrompt>, ApiError> {
    const EXPECTED: &str = "a string, a list of strings, a list of token ids or a list of lists of token ids";
    let Some(json) = fields.raw(PROMPT) else {
        return Err(ApiError::missing(PROMPT, format!("`prompt` is required: {EXPECTED}")));
    };
    let Some(list) = json.get().strip_prefix('[') else {
        return Ok(vec![SentPrompt::Text(params::read(json, PROMPT, EXPECTED)?)]);
    };
    match list.trim_start().as_bytes().first() {
        Some(b']') => Err(ApiError::value(PROMPT, "`prompt` must not be an empty list")),
        Some(b'"') => {
            let texts: Vec<String> = params::read(json, PROMPT, EXPECTED)?;
            Ok(texts.into_iter().map(SentPrompt::Text).collect())
        }
        Some(b'[') => {
            let lists: Vec<Vec<i64>> = params::read(json, PROMPT, EXPECTED)?;
            let checked = lists.iter().enumerate().map(|(index, ids)| {
                sampling::check_token_ids(ids, vocab_size, &format!("{PROMPT}[{index}]"))
                    .map(SentPrompt::Tokens)
            });
            checked.collect()
        }
        _ => {
            let ids: Vec<i64> = params::read(json, PROMPT, EXPECTED)?;
            Ok(vec![SentPrompt::Tokens(sampling::check_token_ids(&ids, vocab_size, PROMPT)?)])
        }
    }
}

/// Writes one answer, whole or in chunks.
struct Writer {
    common: Common,
    logprobs: bool,
    echo: bool,
    prompts: Vec<Prompt>,
    /// `[prompts * n]` where each choice's next token begins.
    offsets: Vec<TextOffset>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

impl Writer {
    fn prompt(&self, choice: usize) -> &Prompt {
        &self.prompts[choice / self.common.n]
    }

    fn prompt_token_ids(&self, choice: usize) -> Option<&[u32]> {
        self.common.return_token_ids.then(|| self.prompt(choice).token_ids.as_slice())
    }

    /// Adds the prompt's log-probabilities to those of a choice, whose text repeats it.
    fn log_prompt(&mut self, choice: usize, info: &PromptInfo, logprobs: &mut CompletionLogprobs) {
        let prompt = &self.prompts[choice / self.common.n];
        let tokenizer = self.common.app.engine.tokenizer();
        for (&id, entry) in prompt.token_ids.iter().zip(info.logprobs.iter().flatten()) {
            logprobs.push(id, entry.as_ref(), tokenizer, &mut self.offsets[choice]);
        }
    }

    fn log_output(&mut self, choice: usize, tokens: &[OutputToken], logprobs: &mut CompletionLogprobs) {
        let tokenizer = self.common.app.engine.tokenizer();
        for token in tokens {
            logprobs.push(token.id, token.logprobs.as_ref(), tokenizer, &mut self.offsets[choice]);
        }
    }

    fn chunk<'a>(&'a self, choices: Vec<Choice<'a>>, usage: Option<Option<Usage>>) -> Reply<'a, Choice<'a>> {
        Reply { head: &self.common.head, object: "text_completion", choices, usage, prompt_token_ids: None }
    }

    /// The first chunk of a choice that repeats its prompt or tells its ids.
    fn prompt_chunk(&mut self, index: usize, info: &PromptInfo, usage: mosu::Usage) -> String {
        let logprobs = (self.logprobs && self.echo).then(|| {
            let mut logprobs = CompletionLogprobs::default();
            self.log_prompt(index, info, &mut logprobs);
            logprobs
        });
        let text = if self.echo { self.prompt(index).text.clone() } else { String::new() };
        let prompt_token_ids = self.prompt_token_ids(index);
        let choice = Choice { index, text, logprobs, finish_reason: None, token_ids: None, prompt_token_ids };
        sse::line(&self.chunk(vec![choice], self.common.usage_so_far(usage)))
    }

    fn output_chunk(
        &mut self,
        index: usize,
        text: String,
        tokens: &[OutputToken],
        finish: Option<Finish>,
        usage: mosu::Usage,
    ) -> Option<String> {
        let tells_tokens = (self.logprobs || self.common.return_token_ids) && !tokens.is_empty();
        if text.is_empty() && !tells_tokens && finish.is_none() {
            return None;
        }
        let logprobs = self.logprobs.then(|| {
            let mut logprobs = CompletionLogprobs::default();
            self.log_output(index, tokens, &mut logprobs);
            logprobs
        });
        let finish_reason = finish.map(|finish| finish.to_string());
        let token_ids = self.common.token_ids(tokens);
        let choice = Choice { index, text, logprobs, finish_reason, token_ids, prompt_token_ids: None };
        Some(sse::line(&self.chunk(vec![choice], self.common.usage_so_far(usage))))
    }
}

impl writer::Writer for Writer {
    fn common(&self) -> &Common {
        &self.common
    }

    fn whole(mut self, answer: Answer) -> Response {
        let mut all_logprobs = Vec::with_capacity(answer.choices.len());
        for (index, choice) in answer.choices.iter().enumerate() {
            let mut logprobs = CompletionLogprobs::default();
            if self.echo {
                self.log_prompt(index, &answer.prompts[index / self.common.n], &mut logprobs);
            }
            self.log_output(index, &choice.tokens, &mut logprobs);
            all_logprobs.push(self.logprobs.then_some(logprobs));
        }
        let choices =
            answer.choices.into_iter().zip(all_logprobs).enumerate().map(|(index, (choice, logprobs))| {
                let echo = if self.echo { self.prompt(index).text.as_str() } else { "" };
                Choice {
                    index,
                    text: format!("{echo}{}", choice.text),
                    logprobs,
                    token_ids: self.common.token_ids(&choice.tokens),
                    finish_reason: choice.finish.map(|finish| finish.to_string()),
                    prompt_token_ids: self.prompt_token_ids(index),
                }
            });
        Json(self.chunk(choices.collect(), Some(Some(answer.usage.into())))).into_response()
    }

    fn chunks(&mut self, delta: OutputDelta, usage: mosu::Usage) -> Vec<String> {
        match delta {
            OutputDelta::Prompt { prompt, info } if self.echo || self.common.return_token_ids => {
                let choices = prompt * self.common.n..(prompt + 1) * self.common.n;
                choices.map(|index| self.prompt_chunk(index, &info, usage)).collect()
            }
            OutputDelta::Prompt { .. } => Vec::new(),
            OutputDelta::Output { choice, text, tokens, finish } => {
                self.output_chunk(choice, text, &tokens, finish, usage).into_iter().collect()
            }
        }
    }

    fn usage_chunk(&self, usage: mosu::Usage) -> String {
        sse::line(&self.chunk(Vec::new(), Some(Some(usage.into()))))
    }
}
