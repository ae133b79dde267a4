//! The OpenAI-compatible API: wire types, and one file per endpoint.

pub mod chat;
pub mod completions;
mod endpoint;
mod generation;
mod logprobs;
mod messages;
pub mod models;
pub(crate) mod params;
mod sampling;
mod select_all;
mod sse;
pub mod tokenize;
pub(crate) mod wire;
mod writer;
