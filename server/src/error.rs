//! Every refusal is the OpenAI error object: `{"error": {"message", "type", "param", "code"}}`.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use mosu::RequestError;
use serde::Serialize;

use crate::{decompress, json::Json};

/// Seconds after which a client may try again when the queue was full.
const RETRY_AFTER_SECONDS: u64 = 2;

/// Longest message and longest path sent: an error must not echo a megabyte of the request.
const MAX_MESSAGE_CHARS: usize = 400;
const MAX_PARAM_CHARS: usize = 100;

const UNSUPPORTED_ENCODING: &str = "unsupported_content_encoding";

/// A refusal or a failure, as the client sees it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status, before a stream has begun.
    pub status: StatusCode,
    /// What went wrong and what would be right.
    pub message: String,
    /// The JSON path of the field at fault, as `messages[0].content`.
    pub param: Option<String>,
    /// A word for programs.
    pub code: &'static str,
    retry_after: Option<u64>,
    close: bool,
}

impl ApiError {
    /// An error of the given status and code.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        let message = shortened(message.into(), MAX_MESSAGE_CHARS);
        ApiError { status, message, param: None, code, retry_after: None, close: false }
    }

    /// 400: a field is at fault.
    pub fn field(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> ApiError {
        let mut error = ApiError::new(StatusCode::BAD_REQUEST, code, message);
        error.param = Some(shortened(param.into(), MAX_PARAM_CHARS));
        error
    }

    /// 400: a field has a value that cannot be.
    pub fn value(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::field(param, "invalid_value", message)
    }

    /// 400: a required field is absent.
    pub fn missing(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::field(param, "missing_required_parameter", message)
    }

    /// 400: the field asks for something that this server does not do.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::field(param, "unsupported_parameter", message)
    }

    /// 415: the body is compressed in a way that is not understood.
    pub fn unsupported_encoding() -> ApiError {
        let message = format!(
            "the body may be compressed with one of {}, and not twice: `content-encoding` says otherwise",
            decompress::ACCEPTED
        );
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, UNSUPPORTED_ENCODING, message)
    }

    /// 500: a fault of ours. The cause goes to the log, not to the client.
    pub fn internal() -> ApiError {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server met an unexpected fault; its log has the request's x-request-id",
        )
    }

    /// 503: the server is shutting down.
    pub fn shutting_down() -> ApiError {
        let mut error = ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_is_shutting_down",
            "the server is shutting down",
        );
        error.close = true;
        error
    }

    /// The same, with the name that the client used for a field.
    pub fn renamed(mut self, from: &str, to: &str) -> ApiError {
        if self.param.as_deref() == Some(from) {
            self.param = Some(to.into());
        }
        self
    }

    /// The error object.
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            error: ErrorObject {
                message: &self.message,
                r#type: self.r#type(),
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }

    fn r#type(&self) -> &'static str {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

fn shortened(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What the engine said, in the words of the API.
impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        let message = error.to_string();
        match error {
            RequestError::Invalid { field, message } => ApiError::value(api_field(field), message),
            RequestError::ContextLength { prompt_tokens, context, .. } => {
                let field = if prompt_tokens < context { "max_tokens" } else { "prompt" };
                ApiError::field(field, "context_length_exceeded", message)
            }
            RequestError::CacheTooSmall { .. } => {
                ApiError::field("prompt", "context_length_exceeded", message)
            }
            RequestError::Overloaded { .. } => {
                let mut error =
                    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_is_overloaded", message);
                error.retry_after = Some(RETRY_AFTER_SECONDS);
                error
            }
            RequestError::ShuttingDown => ApiError::shutting_down(),
            RequestError::Internal(_) => {
                tracing::error!("{message}");
                ApiError::internal()
            }
            RequestError::Fatal(_) => {
                tracing::error!("{message}");
                ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "engine_failed",
                    "the engine failed and must be started again",
                )
            }
        }
    }
}

/// The API's name of a field that the engine calls `sampling.top_p`.
fn api_field(field: &str) -> &str {
    match field {
        "stop.strings" => "stop",
        "stop.token_ids" => "stop_token_ids",
        _ => field.rsplit('.').next().unwrap_or(field),
    }
}

/// `{"error": …}`
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.code == UNSUPPORTED_ENCODING {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(decompress::ACCEPTED));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_members_are_always_present() {
        let json = serde_json::to_value(ApiError::internal().body()).unwrap();
        let error = json["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>().len(), 4);
        assert!(error["param"].is_null());
        assert_eq!(error["type"], "server_error");
    }

    #[test]
    fn engine_fields_have_api_names() {
        let refused = |field| {
            let error = RequestError::Invalid { field, message: "no".into() };
            ApiError::from(error).renamed("prompt", "messages").param.unwrap()
        };
        assert_eq!(refused("sampling.top_p"), "top_p");
        assert_eq!(refused("stop.strings"), "stop");
        assert_eq!(refused("prompt"), "messages");
        assert_eq!(refused("n"), "n");
    }

    #[test]
    fn a_context_that_is_too_small_names_what_is_too_large() {
        let refused = |prompt_tokens, max_tokens| {
            ApiError::from(RequestError::ContextLength { prompt_tokens, max_tokens, context: 100 })
                .param
                .unwrap()
        };
        assert_eq!(refused(100, 1), "prompt");
        assert_eq!(refused(99, 2), "max_tokens");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let error = ApiError::value("速".repeat(100_000), "模".repeat(100_000));
        assert_eq!(error.message.chars().count(), MAX_MESSAGE_CHARS + 1);
        assert_eq!(error.param.unwrap().chars().count(), MAX_PARAM_CHARS + 1);
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let error = RequestError::Overloaded { waiting: 3, limit: 3, unit: "requests" };
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
