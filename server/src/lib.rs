//! The OpenAI-compatible server and the command line of mosu: *how people speak to it*.
//!
//! [`app::app`] makes the router from an engine; [`serve::serve`] runs it on a socket; [`cli::main`] is the
//! program. Only the engine's public API is used.

#![forbid(unsafe_code)]

pub mod app;
pub mod auth;
pub mod body;
pub mod cli;
mod client;
pub mod cors;
mod decompress;
pub mod drain;
mod front;
mod health;
pub mod metrics;
pub mod openai;
pub mod serve;
mod write_timeout;
