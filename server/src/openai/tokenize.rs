//! `POST /tokenize` and `POST /detokenize`

use std::sync::Arc;

use axum::{
    extract::{Request as HttpRequest, State},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{chat, endpoint::with_ignored, logprobs::token_string, params::Fields, sampling};
use crate::{blocking::blocking, body, error::ApiError, json::Json, state::App};

#[derive(Serialize)]
struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Text {
    prompt: String,
}

/// Text or messages to token ids.
pub async fn tokenize(State(app): State<Arc<App>>, http: HttpRequest) -> Result<Response, ApiError> {
    let body = body::read_json(http, &app.limits).await?;
    blocking(move || {
        let mut fields = Fields::of_body(&body)?;
        app.model_name(fields.text("model")?)?;
        let add_special_tokens = fields.flag("add_special_tokens")?;
        let return_token_strs = fields.flag("return_token_strs")?.unwrap_or(false);
        let prompt = fields.text("prompt")?;
        let tokenizer = app.engine.tokenizer();
        let (tokens, ignored) = match prompt {
            Some(text) => {
                let ignored = app.ignored(fields)?;
                let tokens = tokenizer.encode(&text, add_special_tokens.unwrap_or(true));
                (tokens.map_err(|error| ApiError::value("prompt", error.to_string()))?, ignored)
            }
            None => {
                let chat = chat::chat_request(&mut fields).map_err(|error| match error.param.as_deref() {
                    Some("messages") if error.code == "missing_required_parameter" => {
                        ApiError::missing("prompt", "`prompt` (a string) or `messages` is required")
                    }
                    _ => error,
                })?;
                let ignored = app.ignored(fields)?;
                (app.tokenize_chat(&chat, add_special_tokens.unwrap_or(false))?, ignored)
            }
        };
        let token_strs =
            return_token_strs.then(|| tokens.iter().map(|&id| token_string(id, tokenizer)).collect());
        let answer =
            Tokens { count: tokens.len(), max_model_len: app.engine.max_model_len(), tokens, token_strs };
        Ok(with_ignored(Json(answer).into_response(), &ignored))
    })
    .await
}

/// Token ids to text, special tokens included.
pub async fn detokenize(State(app): State<Arc<App>>, http: HttpRequest) -> Result<Response, ApiError> {
    let body = body::read_json(http, &app.limits).await?;
    blocking(move || {
        let mut fields = Fields::of_body(&body)?;
        app.model_name(fields.text("model")?)?;
        let tokens = sampling::token_ids(&mut fields, "tokens", app.engine.model_info().vocab_size)?
            .ok_or_else(|| ApiError::missing("tokens", "`tokens` is required: a list of token ids"))?;
        let ignored = app.ignored(fields)?;
        let prompt = app.engine.tokenizer().decode(&tokens, false);
        let prompt = prompt.map_err(|error| ApiError::value("tokens", error.to_string()))?;
        Ok(with_ignored(Json(Text { prompt }).into_response(), &ignored))
    })
    .await
}
