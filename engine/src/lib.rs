//! mosu: a native LLM inference engine. *Whose turn it is.*
//!
//! [`Engine::load`] maps a model into memory and starts one thread that owns all state. [`Engine::generate`] hands it
//! a [`Request`] and returns a [`GenerationStream`] of [`Event`]s, to be read blocking or async; dropping the stream
//! aborts the request. All running requests advance together, one token each per step, over a KV cache in blocks
//! which requests of the same prefix share.
//!
//! ```no_run
//! use mosu::{Engine, EngineOptions, Event, Request};
//!
//! let engine = Engine::load(EngineOptions::default())?;
//! let prompt = engine.tokenizer().encode("What is mosu?", true)?;
//! for event in engine.generate(Request::new(prompt))? {
//!     if let Event::Output { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate's README.md tells a request's life in eight steps, who owns what, and what always holds.

#![forbid(unsafe_code)]

mod active_request;
mod block_manager;
mod block_table;
mod build_batch;
mod core;
mod detokenizer;
mod engine;
mod engine_thread;
mod free_list;
mod prefix_hash;
mod queue;
mod request;
mod sampling;
mod scheduler;
mod sequence;
mod stats;
mod step_loop;
mod stop;
mod stream;
mod validate;

// They test the crate's inside, and stand in tests/ with the others.
#[cfg(test)]
#[path = "../tests/scripted.rs"]
mod scripted;
#[cfg(test)]
#[path = "../tests/simulation.rs"]
mod simulation;
#[cfg(test)]
#[path = "../tests/stops.rs"]
mod stops;
#[cfg(test)]
#[path = "../tests/streams.rs"]
mod streams;

pub use engine::{Engine, EngineOptions, load_sampling_defaults};
pub use engine_thread::Admission;
pub use mosu_models::{
    ChatRequest, ChatTemplate, ChatTemplateError, DType, Gpu, Inspection, KvGroups, KvReach, LoadError,
    LoadFormat, LoadProgress, MemoryPlan, ModelInfo, ModelOptions, ModelSource, SamplingDefaults,
    TokenLogprobs, Tokenizer, TokenizerError, gpus, inspect, limits,
};
pub use request::{
    Event, Finish, OutputToken, PromptInfo, Request, RequestError, SamplingParams, StopConditions, Usage,
};
pub use stats::Stats;
pub use stream::GenerationStream;
