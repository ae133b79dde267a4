//! What a batch must satisfy before any op sees it. After this check every index in it is in range.

use mosu_kernels::{
    KernelError,
    ops::{MAX_BANNED, MAX_BIASED_TOKENS},
};

use crate::{
    Batch, KvGroups, KvPlaces, KvReach, LogitRow, LogitToken, PendingToken, SampleParams, SeenTokens,
    kv_cache::BLOCK_SIZE,
};

/// Why a step was not computed. The KV cache may hold the rows of a step that failed on the device.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The batch contradicts itself or the model.
    #[error("batch: {field}: {message}")]
    Batch {
        /// The field of [`Batch`].
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A step was started with two in flight, or waited for with none.
    #[error("{0}")]
    InFlight(&'static str),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] KernelError),
}

fn wrong(field: &'static str, message: String) -> StepError {
    StepError::Batch { field, message }
}

/// The model's limits.
#[derive(Clone, Debug)]
pub(crate) struct BatchLimits {
    pub max_rows: usize,
    pub max_sequences: usize,
    pub vocab_size: usize,
    pub max_model_len: usize,
    pub num_blocks: usize,
    pub kv_groups: KvGroups,
}

impl BatchLimits {
    /// Checks every field of a batch, before which a step sampled `num_sampled` tokens.
    ///
    /// # Errors
    /// [`StepError::Batch`] naming the first field that is wrong.
    pub fn check(&self, batch: &Batch, num_sampled: usize) -> Result<(), StepError> {
        self.check_lengths(batch)?;
        for sequence in 0..batch.num_sequences() {
            self.check_sequence(batch, sequence)?;
        }
        self.check_tokens("token_ids", batch.token_ids.iter().copied())?;
        self.check_pending(batch, num_sampled)?;
        let (mut previous, mut draws) = (0, 0);
        for logit_row in &batch.logit_rows {
            self.check_logit_row(logit_row, previous, batch.num_rows())?;
            previous = logit_row.row;
            draws += usize::from(matches!(logit_row.token, LogitToken::Sampled(_)));
        }
        if draws > self.max_rows {
            return Err(wrong("logit_rows", format!("{draws} draws, at most {}", self.max_rows)));
        }
        Ok(())
    }

    fn check_pending(&self, batch: &Batch, num_sampled: usize) -> Result<(), StepError> {
        let mut next = 0;
        for PendingToken { row, sampled_by } in &batch.pending {
            if *row < next || *row as usize >= batch.num_rows() {
                let message = format!("row {row} of {}, expected {next} or more", batch.num_rows());
                return Err(wrong("pending.row", message));
            }
            if *sampled_by as usize >= num_sampled {
                let message = format!("{sampled_by}: the step before sampled {num_sampled} tokens");
                return Err(wrong("pending.sampled_by", message));
            }
            next = row + 1;
        }
        Ok(())
    }

    fn check_lengths(&self, batch: &Batch) -> Result<(), StepError> {
        let (rows, sequences) = (batch.num_rows(), batch.num_sequences());
        if rows == 0 || rows > self.max_rows {
            return Err(wrong("token_ids", format!("{rows} rows, expected 1 to {}", self.max_rows)));
        }
        let lengths = [
            ("positions", batch.positions.len(), Some(rows)),
            ("cu_seqlens_q", batch.cu_seqlens_q.len(), Some(sequences + 1)),
            ("kv", batch.kv.len(), Some(self.kv_groups.count())),
        ];
        let table_entries = sequences.checked_mul(batch.block_table_width);
        let of_groups = batch.kv.iter().flat_map(|places| {
            let KvPlaces { slot_mapping, block_tables } = places;
            let tables = ("block_tables", block_tables.len(), table_entries);
            [("slot_mapping", slot_mapping.len(), Some(rows)), tables]
        });
        for (field, found, expected) in lengths.into_iter().chain(of_groups) {
            if Some(found) != expected {
                return Err(wrong(field, format!("{found} entries, expected {expected:?}")));
            }
        }
        let cu = &batch.cu_seqlens_q;
        let ascends = cu.windows(2).all(|pair| pair[0] < pair[1]);
        if cu.first() != Some(&0) || cu.last().map(|&end| end as usize) != Some(rows) || !ascends {
            return Err(wrong("cu_seqlens_q", format!("does not ascend from 0 to {rows}")));
        }
        Ok(())
    }

    /// A sequence's rows are its last positions, and lie where its block tables say.
    fn check_sequence(&self, batch: &Batch, sequence: usize) -> Result<(), StepError> {
        let rows = batch.cu_seqlens_q[sequence] as usize..batch.cu_seqlens_q[sequence + 1] as usize;
        let context_len = batch.context_lens[sequence] as usize;
        if context_len < rows.len() || context_len > self.max_model_len {
            let message = format!(
                "sequence {sequence} has {} rows and {context_len} tokens, at most {}",
                rows.len(),
                self.max_model_len
            );
            return Err(wrong("context_lens", message));
        }
        let width = batch.block_table_width;
        if context_len > width.saturating_mul(BLOCK_SIZE) {
            let message = format!("{width} is too short for {context_len} tokens");
            return Err(wrong("block_table_width", message));
        }
        for (row, position) in rows.clone().zip(context_len - rows.len()..) {
            if batch.positions[row] as usize != position {
                let message =
                    format!("row {row} is at {}, expected position {position}", batch.positions[row]);
                return Err(wrong("positions", message));
            }
        }
        for (group, (places, reach)) in batch.kv.iter().zip(self.kv_groups.reaches()).enumerate() {
            let table = &places.block_tables[sequence * width..][..width];
            let slots = &places.slot_mapping[rows.clone()];
            self.check_places(table, slots, context_len, *reach).map_err(|(field, message)| {
                wrong(field, format!("group {group}: sequence {sequence}: {message}"))
            })?;
        }
        Ok(())
    }

    /// One group's block table `[width]` of a sequence, and the slots of its rows, which are its last tokens.
    fn check_places(
        &self,
        table: &[u32],
        slots: &[u32],
        context_len: usize,
        reach: KvReach,
    ) -> Result<(), (&'static str, String)> {
        let first = context_len - slots.len();
        let seen = &table[reach.first_visible(first) / BLOCK_SIZE..context_len.div_ceil(BLOCK_SIZE)];
        if let Some(block) = seen.iter().find(|&&block| block as usize >= self.num_blocks) {
            return Err(("block_tables", format!("KV block {block}: there are {}", self.num_blocks)));
        }
        for (slot, position) in slots.iter().zip(first..) {
            let expected = table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
            if *slot as usize != expected {
                let message = format!("position {position} has slot {slot}, expected {expected}");
                return Err(("slot_mapping", message));
            }
        }
        Ok(())
    }

    fn check_tokens(&self, field: &'static str, ids: impl Iterator<Item = u32>) -> Result<(), StepError> {
        let size = self.vocab_size;
        match ids.into_iter().find(|&id| id as usize >= size) {
            None => Ok(()),
            Some(id) => Err(wrong(field, format!("token {id}: the vocabulary has {size} tokens"))),
        }
    }

    fn check_logit_row(&self, logit_row: &LogitRow, previous: u32, rows: usize) -> Result<(), StepError> {
        let row = logit_row.row;
        if row < previous || row as usize >= rows {
            let message = format!("row {row} after row {previous} of {rows}");
            return Err(wrong("logit_rows.row", message));
        }
        match &logit_row.token {
            LogitToken::Given(id) => self.check_tokens("logit_rows.token", [*id].into_iter()),
            LogitToken::Sampled(params) => self.check_params(params),
        }
    }

    fn check_params(&self, params: &SampleParams) -> Result<(), StepError> {
        let SampleParams { temperature, top_p, min_p, repetition_penalty, .. } = *params;
        let numbers = [
            ("temperature", temperature, temperature >= 0.0),
            ("top_p", top_p, top_p > 0.0 && top_p <= 1.0),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p)),
            ("presence_penalty", params.presence_penalty, true),
            ("frequency_penalty", params.frequency_penalty, true),
            ("repetition_penalty", repetition_penalty, repetition_penalty > 0.0),
        ];
        for (field, value, in_range) in numbers {
            if !(value.is_finite() && in_range) {
                return Err(wrong(field, format!("{value} is out of range")));
            }
        }
        if let Some((id, bias)) = params.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(wrong("logit_bias", format!("{bias} for token {id} is not finite")));
        }
        let lengths = [
            ("logit_bias", params.logit_bias.len(), MAX_BIASED_TOKENS),
            ("banned", params.banned.len(), MAX_BANNED),
        ];
        if let Some((field, found, most)) = lengths.into_iter().find(|(_, found, most)| found > most) {
            return Err(wrong(field, format!("{found} entries, at most {most}")));
        }
        self.check_tokens("logit_bias", params.logit_bias.iter().map(|(id, _)| *id))?;
        self.check_tokens("banned", params.banned.iter().copied())?;
        params.seen.as_ref().map_or(Ok(()), |seen| self.check_seen(seen))
    }

    /// That no two draws share a slot is checked where it matters, by the op.
    fn check_seen(&self, seen: &SeenTokens) -> Result<(), StepError> {
        if seen.slot as usize >= self.max_sequences {
            return Err(wrong("seen.slot", format!("{}: there are {}", seen.slot, self.max_sequences)));
        }
        self.check_tokens("seen.load", seen.load.iter().flatten().map(|token| token.id))
    }
}
