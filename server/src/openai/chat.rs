//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::{
    extract::{Request as HttpRequest, State},
    response::{IntoResponse, Response},
};
use mosu::{ChatRequest, Finish, OutputToken};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    endpoint::{self, Call, Prepared},
    generation::{Answer, OutputDelta},
    logprobs::{ChatLogprobs, ChatToken},
    messages,
    params::{Fields, Refused},
    sse,
    wire::{Reply, Usage},
    writer::{self, Common},
};
use crate::{error::ApiError, json::Json, state::App};

const REFUSED: &[Refused] = &[
    Refused { field: "audio", neutral: |_| false, reason: "the models answer with text" },
    Refused {
        field: "function_call",
        neutral: |value| value == "none",
        reason: "tool calls are not supported; leave it out",
    },
    Refused { field: "functions", neutral: |_| false, reason: "tool calls are not supported; leave it out" },
    Refused {
        field: "modalities",
        neutral: |value| *value == Value::from(vec!["text"]),
        reason: "the models answer with text; leave it out or send [\"text\"]",
    },
    Refused {
        field: "prompt_logprobs",
        neutral: |_| false,
        reason: "/v1/completions gives them, with `echo` and `logprobs`",
    },
    Refused {
        field: "response_format",
        neutral: |value| value.get("type").is_some_and(|kind| kind == "text"),
        reason: "only {\"type\": \"text\"} can be promised",
    },
    Refused {
        field: "tool_choice",
        neutral: |value| value == "none",
        reason: "tool calls are not supported; leave it out or send \"none\"",
    },
    Refused { field: "tools", neutral: |_| false, reason: "tool calls are not supported; leave it out" },
    Refused {
        field: "web_search_options",
        neutral: |_| false,
        reason: "there is no web search; leave it out",
    },
];

/// The handler.
pub async fn create(State(app): State<Arc<App>>, http: HttpRequest) -> Result<Response, ApiError> {
    endpoint::generate(app, http, prepare).await
}

/// Everything between the body and the engine: blocking, as templates and tokenizers take their time.
fn prepare(mut call: Call) -> Result<Prepared<Writer>, ApiError> {
    let body = std::mem::take(&mut call.body);
    let mut fields = Fields::of_body(&body)?;
    let (common, mut request) = call.common(&mut fields, "chatcmpl-")?;
    fields.refuse(REFUSED)?;
    let (max_tokens, max_tokens_field) = max_tokens(&mut fields)?;
    request.stop.max_tokens = max_tokens;
    request.logprobs = logprobs(&mut fields)?;
    let chat = chat_request(&mut fields)?;
    let ignored = call.app.ignored(fields)?;

    request.prompt = call.app.tokenize_chat(&chat, false)?;
    if !request.stop.ignore_eos {
        request.stop.token_ids.extend(call.app.chat_end_tokens()?);
    }
    let prompt_token_ids = common.return_token_ids.then(|| request.prompt.clone());
    let writer = Writer { common, logprobs: request.logprobs.is_some(), prompt_token_ids };
    let generation = call.start(vec![request]);
    let generation = generation
        .map_err(|error| error.renamed("prompt", "messages").renamed("max_tokens", max_tokens_field))?;
    Ok(Prepared { generation, writer, ignored })
}

/// `max_completion_tokens` or its old name, and which of the two it was.
fn max_tokens(fields: &mut Fields) -> Result<(Option<usize>, &'static str), ApiError> {
    let mut take = |name| {
        let tokens = fields.integer(name, 1..=i64::from(u32::MAX))?;
        Ok::<_, ApiError>(tokens.map(|tokens| tokens as usize))
    };
    let old = take("max_tokens")?;
    match take("max_completion_tokens")? {
        Some(tokens) => Ok((Some(tokens), "max_completion_tokens")),
        None => Ok((old, "max_tokens")),
    }
}

/// `logprobs` and `top_logprobs`: how many alternatives to report, if any.
fn logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=20)?;
    if !wanted && top.is_some_and(|top| top > 0) {
        return Err(ApiError::value("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
    }
    Ok(wanted.then(|| top.unwrap_or(0) as u32))
}

/// The fields that the chat template sees. `/tokenize` has them too.
pub fn chat_request(fields: &mut Fields) -> Result<ChatRequest, ApiError> {
    let messages: Vec<&RawValue> = fields
        .take("messages", "a list of messages")?
        .ok_or_else(|| ApiError::missing("messages", "`messages` is required: a list of {role, content}"))?;
    let add_generation_prompt = fields.flag("add_generation_prompt")?;
    let continue_final_message = fields.flag("continue_final_message")?.unwrap_or(false);
    if continue_final_message && add_generation_prompt == Some(true) {
        return Err(ApiError::value(
            "continue_final_message",
            "`continue_final_message` and `add_generation_prompt` exclude each other",
        ));
    }
    let mut kwargs: Map<String, Value> =
        fields.free_json("chat_template_kwargs", "an object")?.unwrap_or_default();
    messages::check_kwargs(&kwargs)?;
    if let Some(effort) = fields.text("reasoning_effort")? {
        kwargs.entry("reasoning_effort").or_insert(Value::String(effort));
    }
    Ok(ChatRequest {
        messages: messages::read_all(&messages)?,
        tools: None,
        add_generation_prompt: add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs,
    })
}

/// Writes one answer, whole or in chunks.
struct Writer {
    common: Common,
    logprobs: bool,
    prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct Choice<M> {
    index: usize,
    #[serde(flatten)]
    content: M,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct Message {
    message: MessageBody,
}

#[derive(Serialize)]
struct MessageBody {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

#[derive(Default, Serialize)]
struct Delta {
    delta: DeltaBody,
}

#[derive(Default, Serialize)]
struct DeltaBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Writer {
    fn logprobs(&self, tokens: &[OutputToken]) -> Option<ChatLogprobs> {
        let tokenizer = self.common.app.engine.tokenizer();
        let entry = |token: &OutputToken| Some(ChatToken::new(token.id, token.logprobs.as_ref()?, tokenizer));
        self.logprobs
            .then(|| ChatLogprobs { content: tokens.iter().filter_map(entry).collect(), refusal: None })
    }

    fn chunk(&self, choices: Vec<Choice<Delta>>, usage: Option<Option<Usage>>) -> Reply<'_, Choice<Delta>> {
        Reply {
            head: &self.common.head,
            object: "chat.completion.chunk",
            choices,
            usage,
            prompt_token_ids: None,
        }
    }

    /// The first chunk of a choice: its role.
    fn role_chunk(&self, index: usize, usage: mosu::Usage) -> String {
        let delta = DeltaBody { role: Some("assistant"), content: Some(String::new()) };
        let choice =
            Choice { index, content: Delta { delta }, logprobs: None, finish_reason: None, token_ids: None };
        let mut chunk = self.chunk(vec![choice], self.common.usage_so_far(usage));
        chunk.prompt_token_ids = if index == 0 { self.prompt_token_ids.as_deref() } else { None };
        sse::line(&chunk)
    }

    /// New text, unless there is nothing to say yet.
    fn content_chunk(
        &self,
        index: usize,
        text: String,
        tokens: &[OutputToken],
        usage: mosu::Usage,
    ) -> Option<String> {
        let tells_tokens = (self.logprobs || self.common.return_token_ids) && !tokens.is_empty();
        if text.is_empty() && !tells_tokens {
            return None;
        }
        let choice = Choice {
            index,
            content: Delta { delta: DeltaBody { role: None, content: Some(text) } },
            logprobs: self.logprobs(tokens),
            finish_reason: None,
            token_ids: self.common.token_ids(tokens),
        };
        Some(sse::line(&self.chunk(vec![choice], self.common.usage_so_far(usage))))
    }

    /// The last chunk of a choice: why it ended.
    fn finish_chunk(&self, index: usize, finish: &Finish, usage: mosu::Usage) -> String {
        let finish_reason = Some(finish.to_string());
        let choice =
            Choice { index, content: Delta::default(), logprobs: None, finish_reason, token_ids: None };
        sse::line(&self.chunk(vec![choice], self.common.usage_so_far(usage)))
    }
}

impl writer::Writer for Writer {
    fn common(&self) -> &Common {
        &self.common
    }

    fn whole(self, answer: Answer) -> Response {
        let choices = answer.choices.into_iter().enumerate().map(|(index, choice)| Choice {
            index,
            logprobs: self.logprobs(&choice.tokens),
            token_ids: self.common.token_ids(&choice.tokens),
            finish_reason: choice.finish.map(|finish| finish.to_string()),
            content: Message {
                message: MessageBody { role: "assistant", content: choice.text, refusal: None },
            },
        });
        let reply = Reply {
            head: &self.common.head,
            object: "chat.completion",
            choices: choices.collect(),
            usage: Some(Some(answer.usage.into())),
            prompt_token_ids: self.prompt_token_ids.as_deref(),
        };
        Json(reply).into_response()
    }

    fn chunks(&mut self, delta: OutputDelta, usage: mosu::Usage) -> Vec<String> {
        match delta {
            OutputDelta::Prompt { .. } => {
                (0..self.common.n).map(|index| self.role_chunk(index, usage)).collect()
            }
            OutputDelta::Output { choice, text, tokens, finish } => {
                let content = self.content_chunk(choice, text, &tokens, usage);
                let finish = finish.map(|finish| self.finish_chunk(choice, &finish, usage));
                content.into_iter().chain(finish).collect()
            }
        }
    }

    fn usage_chunk(&self, usage: mosu::Usage) -> String {
        sse::line(&self.chunk(Vec::new(), Some(Some(usage.into()))))
    }
}
