//! What one step computes: host arrays that name tokens, positions and KV slots, and what to do with the logits.

use mosu_kernels::ops::{SampleParams, TokenLogprobs};

/// One step's input. Rows of all sequences lie one after another; prefill chunks and decodes mix freely.
///
/// T rows in all, S sequences, G groups of layers; a sequence's rows are consecutive positions.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `[T]` input token of each row.
    pub token_ids: Vec<u32>,
    /// Rows whose token is still being sampled, in ascending order; their `token_ids` are 0.
    pub pending: Vec<PendingToken>,
    /// `[T]` position of each row in its sequence, from 0.
    pub positions: Vec<u32>,
    /// `[S + 1]` first row of each sequence, then T.
    pub cu_seqlens_q: Vec<u32>,
    /// `[S]` tokens of each sequence in the KV cache once this step's rows are written.
    pub context_lens: Vec<u32>,
    /// `[G]` where each group of layers has keys and values: see [`KvGroups`](crate::KvGroups).
    pub kv: Vec<KvPlaces>,
    /// Entries per row of all block tables.
    pub block_table_width: usize,
    /// Rows whose logits are wanted, in ascending order of row, and what for. A row may be wanted more than once.
    pub logit_rows: Vec<LogitRow>,
}

impl Batch {
    /// Empties every array, keeping its memory.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.pending.clear();
        self.positions.clear();
        self.cu_seqlens_q.clear();
        self.context_lens.clear();
        self.kv.iter_mut().for_each(KvPlaces::clear);
        self.block_table_width = 0;
        self.logit_rows.clear();
    }

    /// T, the number of rows.
    pub fn num_rows(&self) -> usize {
        self.token_ids.len()
    }

    /// S, the number of sequences.
    pub fn num_sequences(&self) -> usize {
        self.context_lens.len()
    }
}

/// Where the layers of one group have the keys and values of a step.
#[derive(Clone, Debug, Default)]
pub struct KvPlaces {
    /// `[T]` where the row's key and value go: `kv_block * block_size + offset`.
    pub slot_mapping: Vec<u32>,
    /// `[S, block_table_width]` KV blocks of each sequence in order. Entries of which no row sees anything are never
    /// read, and 0: those behind the tokens, and those that lie behind what the group's layers look back to.
    pub block_tables: Vec<u32>,
}

impl KvPlaces {
    fn clear(&mut self) {
        self.slot_mapping.clear();
        self.block_tables.clear();
    }
}

/// A row whose token the step before draws, which may not have been waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingToken {
    /// Index among the batch's rows.
    pub row: u32,
    /// Which one it is of the tokens that the step before draws, in the order of its logit rows. If nothing could be
    /// sampled there, this row's results are meaningless.
    pub sampled_by: u32,
}

/// A row whose logits are wanted.
#[derive(Clone, Debug)]
pub struct LogitRow {
    /// Index among the batch's rows.
    pub row: u32,
    /// Which token's log-probability to report, if any, and where the token comes from.
    pub token: LogitToken,
    /// Report log-probabilities: `Some(n)` gives the token's own, its rank and the `n` most probable (`n` may be 0).
    pub logprobs: Option<u32>,
}

/// Where a row's token comes from.
#[derive(Clone, Debug)]
pub enum LogitToken {
    /// Sampled from the row's distribution.
    Sampled(SampleParams),
    /// Given: the next token of the prompt, whose log-probability was asked for.
    Given(u32),
}

/// One step's results: one entry per [`Batch::logit_rows`], in order.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// The entries.
    pub rows: Vec<LogitOutput>,
}

/// What came of one [`LogitRow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitOutput {
    /// The token sampled, or the one given. Meaningless if there is a fault.
    pub token: u32,
    /// Log-probabilities of the unmodified logits, when asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// Why this row came to nothing. The step's other rows are as good as ever.
    pub fault: Option<LogitFault>,
}

/// A row of logits that is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogitFault {
    /// No token can be sampled: the logits are not finite, or every token is banned.
    #[error("no token can be sampled: the logits are not finite, or every token is banned")]
    NoToken,
    /// The logits have no softmax.
    #[error("the log-probabilities are not finite")]
    NotFinite,
}
