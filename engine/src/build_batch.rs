//! From a planned step to the arrays that the model reads.

use std::{collections::BTreeMap, ops::Range};

use mosu_models::{Batch, KvPlaces, LogitRow, LogitToken, PendingToken};

use crate::{
    active_request::ActiveRequest,
    scheduler::{Scheduled, Scheduler},
    sequence::{RequestId, Sequence},
};

/// Fills `batch` with the rows of `plan`, in its order: sequence i of the batch is entry i of the plan.
///
/// # Errors
/// When a sequence is planned that does not run: results would go to others.
pub(crate) fn build_batch(
    batch: &mut Batch,
    plan: &[Scheduled],
    scheduler: &mut Scheduler,
    requests: &BTreeMap<RequestId, ActiveRequest>,
) -> Result<(), String> {
    batch.clear();
    batch.cu_seqlens_q.push(0);
    batch.kv.resize_with(scheduler.blocks.num_groups(), KvPlaces::default);
    let block_size = scheduler.blocks.block_size();
    for Scheduled { id, .. } in plan {
        let width = scheduler.running_mut(*id).map_or(0, |sequence| sequence.kv.width());
        batch.block_table_width = batch.block_table_width.max(width);
    }
    let mut num_draws = 0;
    for Scheduled { id, positions } in plan {
        let (Some(sequence), Some(request)) = (scheduler.running_mut(*id), requests.get(&id.request)) else {
            return Err(format!("{id:?} is planned but does not run"));
        };
        add_rows(batch, sequence, positions.clone(), block_size);
        add_prompt_logprobs(batch, sequence, positions.clone(), request);
        if positions.end == sequence.num_tokens() && request.draws_tokens() {
            add_draw(batch, sequence, num_draws, request);
            num_draws += 1;
        }
    }
    Ok(())
}

/// The sequence's tokens at `positions`, their places in the KV cache, and its block tables.
fn add_rows(batch: &mut Batch, sequence: &Sequence, positions: Range<usize>, block_size: usize) {
    batch.context_lens.push(positions.end as u32);
    let table_entries = batch.num_sequences() * batch.block_table_width;
    for (places, blocks) in batch.kv.iter_mut().zip(sequence.kv.groups()) {
        let slot = |position: usize| {
            blocks.ids()[position / block_size] as usize * block_size + position % block_size
        };
        places.slot_mapping.extend(positions.clone().map(|position| slot(position) as u32));
        places.block_tables.extend_from_slice(blocks.ids());
        places.block_tables.resize(table_entries, 0);
    }
    for position in positions {
        let token = sequence.tokens.get(position);
        if token.is_none() {
            batch
                .pending
                .push(PendingToken { row: batch.num_rows() as u32, sampled_by: sequence.sampled_by });
        }
        batch.token_ids.push(token.copied().unwrap_or(0));
        batch.positions.push(position as u32);
    }
    batch.cu_seqlens_q.push(batch.num_rows() as u32);
}

/// Asks for the log-probabilities of the prompt's tokens that follow those at `positions`, the batch's last rows.
fn add_prompt_logprobs(
    batch: &mut Batch,
    sequence: &Sequence,
    positions: Range<usize>,
    request: &ActiveRequest,
) {
    let Some(known) = request.known_prompt_logprobs(sequence.id.choice) else { return };
    let first_row = batch.num_rows() - positions.len();
    for position in positions.start.max(known)..positions.end.min(sequence.prompt_len - 1) {
        let row = (first_row + position - positions.start) as u32;
        let token = LogitToken::Given(sequence.tokens[position + 1]);
        batch.logit_rows.push(LogitRow { row, token, logprobs: request.prompt_logprobs() });
    }
}

/// Asks for a token, the step's `number`, to be sampled behind the sequence's last one, the batch's last row. The next
/// step can build on it, unless it is the choice's last.
fn add_draw(batch: &mut Batch, sequence: &mut Sequence, number: u32, request: &ActiveRequest) {
    let (row, token) = (batch.num_rows() as u32 - 1, LogitToken::Sampled(request.sample_params(sequence)));
    batch.logit_rows.push(LogitRow { row, token, logprobs: request.logprobs() });
    if request.may_go_on(sequence) {
        sequence.num_pending += 1;
        sequence.sampled_by = number;
    }
}

#[cfg(test)]
mod tests {
    use mosu_models::{KvGroups, KvReach};

    use super::*;
    use crate::{block_manager::BlockManager, sequence::SequenceId};

    #[test]
    fn a_sequence_that_does_not_run_is_an_error() {
        let mut scheduler =
            Scheduler::new(BlockManager::new(4, KvGroups::new(vec![KvReach::Full], 16, 64)), 64, 8);
        let plan = [Scheduled { id: SequenceId { request: 7, choice: 0 }, positions: 0..3 }];
        let error = build_batch(&mut Batch::default(), &plan, &mut scheduler, &BTreeMap::new()).unwrap_err();
        assert!(error.contains("request: 7") && error.ends_with("is planned but does not run"), "{error}");
    }
}
