//! The sequences of a step, checked and cut into tiles.

use super::{TILE, mask::AttentionMask};
use crate::{DType, Result, View, ops::check::Check};

/// The sequences that the rows of a step belong to.
#[derive(Clone, Copy)]
pub struct PagedSequences<'a> {
    /// u32 `[S + 1]`: first row of each sequence, then T. A sequence's rows are its last positions.
    pub cu_seqlens_q: View<'a>,
    /// u32 `[S]`: tokens in the cache, those of this step included.
    pub context_lens: View<'a>,
    /// u32 `[S, M]`: KV blocks in order of position; entries that no visible key needs may hold anything.
    pub block_tables: View<'a>,
}

impl PagedSequences<'_> {
    pub(in crate::ops) fn check(&self, check: Check) -> Result<()> {
        let [count] = check.dims("context_lens", &self.context_lens)?;
        let [_, table_width] = check.dims("block_tables", &self.block_tables)?;
        check.is("cu_seqlens_q", &self.cu_seqlens_q, [count + 1], DType::U32)?;
        check.dtype("context_lens", &self.context_lens, DType::U32)?;
        check.is("block_tables", &self.block_tables, [count, table_width], DType::U32)
    }
}

/// The sequences, checked.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sequences<'a> {
    cu_seqlens_q: &'a [u32],
    context_lens: &'a [u32],
    block_tables: &'a [u32],
    table_width: usize,
}

impl<'a> Sequences<'a> {
    pub(in crate::ops) fn new(
        check: Check,
        views: PagedSequences<'a>,
        mask: AttentionMask,
        rows: usize,
        block_size: usize,
        blocks: usize,
    ) -> Result<Sequences<'a>> {
        let [count, table_width] = [0, 1].map(|i| views.block_tables.shape().dims()[i]);
        let sequences = Sequences {
            cu_seqlens_q: views.cu_seqlens_q.as_slice()?,
            context_lens: views.context_lens.as_slice()?,
            block_tables: views.block_tables.as_slice()?,
            table_width,
        };
        let ends = (sequences.cu_seqlens_q[0], sequences.cu_seqlens_q[count] as usize);
        check.that(ends == (0, rows), || {
            format!("cu_seqlens_q runs from {} to {}, expected 0 to {rows}", ends.0, ends.1)
        })?;
        for i in 0..count {
            let (start, end) = (sequences.cu_seqlens_q[i], sequences.cu_seqlens_q[i + 1]);
            let context = sequences.context_lens[i] as usize;
            check.that(start <= end && (end - start) as usize <= context, || {
                format!("sequence {i} has rows {start}..{end} and {context} tokens in the cache")
            })?;
            check.that(context <= table_width * block_size, || {
                format!(
                    "sequence {i} has {context} tokens, its block table holds {}",
                    table_width * block_size
                )
            })?;
            if start < end {
                let first = mask.first_visible(context - (end - start) as usize);
                let table = &sequences.table(i)[first / block_size..context.div_ceil(block_size)];
                check.indices("block_tables", table, blocks)?;
            }
        }
        Ok(sequences)
    }

    /// First row in the step of a sequence.
    pub(in crate::ops) fn first_row(&self, sequence: usize) -> usize {
        self.cu_seqlens_q[sequence] as usize
    }

    /// Position of a sequence's first row in the step.
    pub(in crate::ops) fn first_position(&self, sequence: usize) -> usize {
        self.context_lens[sequence] as usize - self.rows(sequence)
    }

    /// No sequence has more than `positions` tokens.
    pub(in crate::ops) fn end_within(&self, check: Check, positions: usize) -> Result<()> {
        let beyond = self.context_lens.iter().position(|&context| context as usize > positions);
        check.that(beyond.is_none(), || {
            let sequence = beyond.unwrap_or_default();
            let context = self.context_lens[sequence];
            format!("sequence {sequence} has {context} tokens, temperatures end at {positions}")
        })
    }

    pub(in crate::ops) fn table(&self, sequence: usize) -> &'a [u32] {
        &self.block_tables[sequence * self.table_width..(sequence + 1) * self.table_width]
    }

    pub(in crate::ops) fn rows(&self, sequence: usize) -> usize {
        (self.cu_seqlens_q[sequence + 1] - self.cu_seqlens_q[sequence]) as usize
    }

    /// Tiles of each key/value head.
    pub(in crate::ops) fn tiles(&self, group: usize) -> usize {
        (0..self.context_lens.len()).map(|i| (self.rows(i) * group).div_ceil(TILE)).sum()
    }

    /// The sequence of a tile, and its first query in it.
    pub(in crate::ops) fn locate(&self, mut tile: usize, group: usize) -> (usize, usize) {
        for i in 0..self.context_lens.len() {
            let tiles = (self.rows(i) * group).div_ceil(TILE);
            if tile < tiles {
                return (i, tile * TILE);
            }
            tile -= tiles;
        }
        (self.context_lens.len(), 0)
    }
}
