//! From a planned step to the arrays that the model reads.

use std::collections::BTreeMap;

use mosu_models::{Batch, LogitRow, LogitToken};

use crate::{
    active_request::ActiveRequest,
    scheduler::Scheduled,
    sequence::{RequestId, Sequence},
};

/// Fills `batch` with the rows of `plan`, in its order.
pub(crate) fn build_batch(
    batch: &mut Batch,
    plan: &[Scheduled],
    running: &[Sequence],
    block_size: usize,
    requests: &mut BTreeMap<RequestId, ActiveRequest>,
) {
    batch.clear();
    let tables = plan.iter().map(|scheduled| running[scheduled.index].kv.blocks().len());
    batch.block_table_width = tables.max().unwrap_or(0);
    batch.cu_seqlens_q.push(0);
    for scheduled in plan {
        let sequence = &running[scheduled.index];
        let first_row = batch.num_rows();
        add_rows(batch, sequence, scheduled.num_tokens, block_size);
        if let Some(request) = requests.get_mut(&sequence.id.request) {
            add_logit_rows(batch, sequence, first_row, request);
        }
    }
}

/// The sequence's next `num_tokens` tokens, their places in the KV cache, and its block table.
fn add_rows(batch: &mut Batch, sequence: &Sequence, num_tokens: usize, block_size: usize) {
    let blocks = sequence.kv.blocks();
    let end = sequence.num_computed + num_tokens;
    for position in sequence.num_computed..end {
        let slot = blocks[position / block_size] as usize * block_size + position % block_size;
        batch.token_ids.push(sequence.tokens[position]);
        batch.positions.push(position as u32);
        batch.slot_mapping.push(slot as u32);
    }
    batch.cu_seqlens_q.push(batch.num_rows() as u32);
    batch.context_lens.push(end as u32);
    batch.block_tables.extend_from_slice(blocks);
    batch.block_tables.resize(batch.num_sequences() * batch.block_table_width, 0);
}

/// Asks for the log-probabilities of prompt tokens, and for a token to be drawn behind the sequence's last one.
fn add_logit_rows(batch: &mut Batch, sequence: &Sequence, first_row: usize, request: &mut ActiveRequest) {
    let end = sequence.num_computed + batch.num_rows() - first_row;
    let row_of = |position: usize| (first_row + position - sequence.num_computed) as u32;
    if let Some(known) = request.known_prompt_logprobs(sequence.id.choice) {
        for position in sequence.num_computed.max(known)..end.min(sequence.prompt_len - 1) {
            let token = LogitToken::Given(sequence.tokens[position + 1]);
            batch.logit_rows.push(LogitRow {
                row: row_of(position),
                token,
                logprobs: request.prompt_logprobs(),
            });
        }
    }
    if end == sequence.tokens.len() && request.draws_tokens() {
        let token = LogitToken::Sampled(request.lend_sample_params(sequence.id.choice, end));
        batch.logit_rows.push(LogitRow { row: row_of(end - 1), token, logprobs: request.logprobs() });
    }
}
