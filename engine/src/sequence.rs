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
    /// Tokens whose keys and values are in the KV cache; always fewer than `tokens`, but at a sequence's end.
    pub num_computed: usize,
    /// Most tokens that may be taken from the prefix cache.
    pub max_cached: usize,
    /// Tokens found in the prefix cache when the sequence first ran.
    pub num_cached: Option<usize>,
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
            max_cached: usize::MAX,
            num_cached: None,
            kv,
        }
    }

    /// Tokens still to be computed before the next one can be drawn. 1 is a decode, more are a prefill.
    pub fn num_uncomputed(&self) -> usize {
        self.tokens.len() - self.num_computed
    }
}
