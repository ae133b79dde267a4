//! A batch's arrays where the device reads them. They lie in one buffer, so that one copy brings them, and at places
//! that depend on their lengths alone, so that recorded launches find those of other steps of the same shape.

use std::ops::Range;

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

/// Arrays start at multiples of so many elements: a cache line.
const ALIGNMENT: usize = 32;

/// Memory for the inputs of any step.
pub(crate) struct InputBuffer {
    /// u32: the arrays, one behind the other.
    words: Tensor,
    /// The same, as the host packs them.
    packed: Vec<u32>,
}

/// Where the arrays of a step lie.
struct Places {
    token_ids: Range<usize>,
    positions: Range<usize>,
    slots: Range<usize>,
    cu_seqlens_q: Range<usize>,
    context_lens: Range<usize>,
    block_tables: Range<usize>,
    /// Last, since recorded launches do not read it.
    pending: Range<usize>,
}

impl Places {
    fn new(rows: usize, sequences: usize, table_entries: usize, pending: usize) -> Places {
        let mut end = 0usize;
        let mut place = |len: usize| {
            let start = end.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
            end = start.saturating_add(len);
            start..end
        };
        Places {
            token_ids: place(rows),
            positions: place(rows),
            slots: place(rows),
            cu_seqlens_q: place(sequences + 1),
            context_lens: place(sequences),
            block_tables: place(table_entries),
            pending: place(2 * pending),
        }
    }
}

impl InputBuffer {
    /// Memory of `to` for steps of `max_rows` rows and block tables of `table_entries` KV blocks in all.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(to: &Allocator<'_>, max_rows: usize, table_entries: usize) -> Result<InputBuffer> {
        let words = Places::new(max_rows, max_rows, table_entries, max_rows).pending.end;
        Ok(InputBuffer { words: to.zeros([words], DType::U32)?, packed: Vec::new() })
    }

    /// Copies a checked batch; tokens that are pending are taken from those `drawn`, u32 `[D]`, by the step before.
    ///
    /// # Errors
    /// When its block tables are larger than planned, or the device failed.
    pub fn load(&mut self, device: &Device, batch: &Batch, drawn: View<'_>) -> Result<Inputs<'_>> {
        let (rows, sequences) = (batch.num_rows(), batch.num_sequences());
        let places = Places::new(rows, sequences, batch.block_tables.len(), batch.pending.len());
        self.pack(batch, &places);
        if self.packed.len() > self.words.shape().elements() {
            let found = batch.block_tables.len();
            let reason = format!("block tables of {found} entries, more than planned (max_sequences)");
            return Err(KernelError::Argument { op: "inputs", reason });
        }
        self.words.copy_from(device, &self.packed)?;
        if !batch.pending.is_empty() {
            let (words, rest) = self.words.view_mut()?.split(rows)?;
            let pairs = rest.as_view().slice(places.pending.start - rows, places.pending.len())?;
            ops::take_tokens(device, words, drawn, pairs.prefix([batch.pending.len(), 2])?)?;
        }
        let words = self.words.view();
        let view = |place: &Range<usize>| words.slice(place.start, place.len());
        Ok(Inputs {
            rows,
            token_ids: view(&places.token_ids)?,
            positions: view(&places.positions)?,
            slots: view(&places.slots)?,
            sequences: PagedSequences {
                cu_seqlens_q: view(&places.cu_seqlens_q)?,
                context_lens: view(&places.context_lens)?,
                block_tables: view(&places.block_tables)?.prefix([sequences, batch.block_table_width])?,
            },
        })
    }

    fn pack(&mut self, batch: &Batch, places: &Places) {
        self.packed.clear();
        let mut add = |place: &Range<usize>, words: &mut dyn Iterator<Item = u32>| {
            self.packed.resize(place.start, 0);
            self.packed.extend(words);
        };
        add(&places.token_ids, &mut batch.token_ids.iter().copied());
        add(&places.positions, &mut batch.positions.iter().copied());
        add(&places.slots, &mut batch.slot_mapping.iter().copied());
        add(&places.cu_seqlens_q, &mut batch.cu_seqlens_q.iter().copied());
        add(&places.context_lens, &mut batch.context_lens.iter().copied());
        add(&places.block_tables, &mut batch.block_tables.iter().copied());
        add(&places.pending, &mut batch.pending.iter().flat_map(|pending| [pending.row, pending.drawn_by]));
    }
}
