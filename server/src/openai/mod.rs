//! The OpenAI-compatible API: wire types, and one file per endpoint.

pub mod chat;
pub mod completions;
mod endpoint;
pub mod error;
mod generation;
mod logprobs;
mod merged;
mod messages;
pub mod models;
pub(crate) mod params;
mod sampling;
mod sse;
pub mod tokenize;
pub(crate) mod wire;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

pub(crate) use endpoint::blocking;
pub use error::ApiError;

/// A JSON response.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => {
                ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
            }
            Err(error) => {
                tracing::error!("a response could not be written as JSON: {error}");
                axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}
