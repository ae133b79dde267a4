//! How the generating endpoints write their answers, and what these have in common.

use std::sync::Arc;

use axum::response::Response;
use mosu::OutputToken;

use super::{
    generation::{Answer, OutputDelta},
    sampling::StreamOptions,
    wire::{Head, Usage},
};
use crate::state::App;

/// How an endpoint writes its answer.
pub trait Writer: Send + 'static {
    /// What was asked for.
    fn common(&self) -> &Common;
    /// The whole answer.
    fn whole(self, answer: Answer) -> Response;
    /// The lines of JSON for a part of the answer; `usage` is that so far.
    fn chunks(&mut self, delta: OutputDelta, usage: mosu::Usage) -> Vec<String>;
    /// The last line, when usage was asked for.
    fn usage_chunk(&self, usage: mosu::Usage) -> String;
}

/// What was asked of both endpoints alike, and is answered alike.
pub struct Common {
    /// The server.
    pub app: Arc<App>,
    /// Id, model and so on.
    pub head: Head,
    /// Whether and how to stream.
    pub stream: StreamOptions,
    /// Choices per prompt.
    pub n: usize,
    /// Tell the ids of prompt and output.
    pub return_token_ids: bool,
}

impl Common {
    /// The ids, when asked for.
    pub fn token_ids(&self, tokens: &[OutputToken]) -> Option<Vec<u32>> {
        self.return_token_ids.then(|| tokens.iter().map(|token| token.id).collect())
    }

    /// The `usage` of a chunk that is not the last.
    pub fn usage_so_far(&self, usage: mosu::Usage) -> Option<Option<Usage>> {
        match self.stream {
            StreamOptions { continuous_usage: true, .. } => Some(Some(usage.into())),
            StreamOptions { include_usage: true, .. } => Some(None),
            _ => None,
        }
    }
}
