//! A batch's arrays where the device reads them: in buffers that stay in place, so that recorded launches find them.

use mosu_kernels::{
    Allocator, DType, Device, KernelError, Result, Tensor, View,
    ops::{self, PagedSequences},
};

use crate::Batch;

/// The batch as tensors. T rows, S sequences.
pub(crate) struct Inputs<'a> {
    /// T
    pub rows: usize,
    /// u32 `[T]`
    pub token_ids: View<'a>,
    /// u32 `[T]`
    pub positions: View<'a>,
    /// u32 `[T]`
    pub slots: View<'a>,
    /// Which rows and KV blocks are whose.
    pub sequences: PagedSequences<'a>,
}

/// Memory for the inputs of any step.
pub(crate) struct InputBuffers {
    /// u32 `[max_rows]`
    token_ids: Tensor,
    /// u32 `[max_rows]`
    positions: Tensor,
    /// u32 `[max_rows]`
    slots: Tensor,
    /// u32 `[max_rows + 1]`
    cu_seqlens_q: Tensor,
    /// u32 `[max_rows]`
    context_lens: Tensor,
    /// u32, tables of all sequences.
    block_tables: Tensor,
}

impl InputBuffers {
    /// Memory of `to` for steps of `max_rows` rows and block tables of `table_entries` KV blocks in all.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(to: &Allocator<'_>, max_rows: usize, table_entries: usize) -> Result<InputBuffers> {
        let zeros = |n: usize| to.zeros([n], DType::U32);
        Ok(InputBuffers {
            token_ids: zeros(max_rows)?,
            positions: zeros(max_rows)?,
            slots: zeros(max_rows)?,
            cu_seqlens_q: zeros(max_rows + 1)?,
            context_lens: zeros(max_rows)?,
            block_tables: zeros(table_entries)?,
        })
    }

    /// Copies a checked batch; tokens that are pending are taken from those `drawn`, u32 `[D]`, by the step before.
    ///
    /// # Errors
    /// When its block tables are larger than planned, or the device failed.
    pub fn load(&mut self, device: &Device, batch: &Batch, drawn: View<'_>) -> Result<Inputs<'_>> {
        let (rows, sequences) = (batch.num_rows(), batch.num_sequences());
        let available = self.block_tables.shape().elements();
        if batch.block_tables.len() > available {
            let found = batch.block_tables.len();
            let reason = format!("block tables of {found} entries, planned are {available} (max_sequences)");
            return Err(KernelError::Argument { op: "inputs", reason });
        }
        self.token_ids.copy_from(device, &batch.token_ids)?;
        if !batch.pending.is_empty() {
            let pairs = batch.pending.iter().map(|pending| [pending.row, pending.drawn_by]);
            ops::take_tokens(device, self.token_ids.view_mut()?, drawn, &pairs.collect::<Vec<_>>())?;
        }
        self.positions.copy_from(device, &batch.positions)?;
        self.slots.copy_from(device, &batch.slot_mapping)?;
        self.cu_seqlens_q.copy_from(device, &batch.cu_seqlens_q)?;
        self.context_lens.copy_from(device, &batch.context_lens)?;
        self.block_tables.copy_from(device, &batch.block_tables)?;
        Ok(Inputs {
            rows,
            token_ids: self.token_ids.rows(rows)?,
            positions: self.positions.rows(rows)?,
            slots: self.slots.rows(rows)?,
            sequences: PagedSequences {
                cu_seqlens_q: self.cu_seqlens_q.rows(sequences + 1)?,
                context_lens: self.context_lens.rows(sequences)?,
                block_tables: self.block_tables.view().prefix([sequences, batch.block_table_width])?,
            },
        })
    }
}
