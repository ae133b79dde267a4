//! The OpenAI-compatible server and the command line of mosu: *how people speak to it*.
//!
//! [`router::router`] makes the router from an engine; [`serve::serve`] runs it on a socket; [`cli::main`] is the
//! program. Only the engine's public API is used.

#![forbid(unsafe_code)]

pub mod auth;
mod blocking;
pub mod body;
pub mod cli;
mod client;
pub mod cors;
mod decompress;
pub mod drain;
pub mod error;
mod json;
pub mod metrics;
mod middleware;
mod monitoring;
pub mod openai;
pub mod router;
pub mod serve;
pub mod state;
mod write_timeout;
