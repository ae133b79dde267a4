//! One continuation of a prompt, as the scheduler sees it.

use crate::block_manager::BlockTable;

/// Number of a request, in order of arrival.
pub(crate) type RequestId = u64;

/// Names a sequence. The order of ids is the order of age: requests as they arrived, their choices as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SequenceId {
    pub request: RequestId,
    /// From 0 to n - 1.
    pub choice: u32,
}

/// Tokens and their place in the KV cache.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: SequenceId,
    /// Prompt tokens, then output tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the KV cache, or will be when the steps in flight are computed.
    pub num_computed: usize,
    /// Tokens behind `tokens` that steps in flight are drawing, and on which later steps may build.
    pub num_pending: usize,
    /// Which one the last of them is among the draws of its step.
    pub sampled_by: u32,
    /// Most tokens that may be taken from the prefix cache.
    pub max_cached: usize,
    /// Tokens found in the prefix cache when the sequence first ran.
    pub num_cached: Option<usize>,
    /// Where the device counts its tokens, as long as it runs.
    pub slot: u32,
    /// The slot has been told what to count from.
    pub slot_is_loaded: bool,
    pub kv: BlockTable,
}

impl Sequence {
    /// A sequence of which nothing is computed.
    pub fn new(id: SequenceId, prompt: Vec<u32>, kv: BlockTable) -> Sequence {
        Sequence {
            id,
            prompt_len: prompt.len(),
            tokens: prompt,
            num_computed: 0,
            num_pending: 0,
            sampled_by: 0,
            max_cached: usize::MAX,
            num_cached: None,
            slot: 0,
            slot_is_loaded: false,
            kv,
        }
    }

    /// Known and pending tokens.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len() + self.num_pending
    }

    /// Tokens still to be computed before the next one can be sampled. 1 is a decode, more are a prefill; with 0 the
    /// sequence waits for what is in flight.
    pub fn num_uncomputed(&self) -> usize {
        self.num_tokens() - self.num_computed
    }

    /// Adds a sampled token. It was pending, unless nothing could be built on it.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.num_pending = self.num_pending.saturating_sub(1);
    }
}
