//! A batch's arrays where the device reads them. They lie in one buffer, so that one copy brings them, and at places
//! that depend on their lengths alone, so that captured launches find those of other steps of the same shape.

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
    /// u32: all of them.
    words: View<'a>,
    places: Places,
    /// `[S, M]`: of each group's block tables.
    table_shape: [usize; 2],
}

impl<'a> Inputs<'a> {
    /// u32 `[T]`: where keys and values of the rows go in a group's KV blocks.
    pub fn slots(&self, group: usize) -> Result<View<'a>> {
        self.view(&self.places.slots.of(group))
    }

    /// Which rows are whose, and which of a group's KV blocks.
    pub fn sequences(&self, group: usize) -> Result<PagedSequences<'a>> {
        Ok(PagedSequences {
            cu_seqlens_q: self.view(&self.places.cu_seqlens_q)?,
            context_lens: self.view(&self.places.context_lens)?,
            block_tables: self.view(&self.places.block_tables.of(group))?.prefix(self.table_shape)?,
        })
    }

    fn view(&self, place: &Range<usize>) -> Result<View<'a>> {
        self.words.slice(place.start, place.len())
    }
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
    slots: OfGroups,
    cu_seqlens_q: Range<usize>,
    context_lens: Range<usize>,
    block_tables: OfGroups,
    /// Last, since captured launches do not read it.
    pending: Range<usize>,
}

/// Where the arrays of all groups lie that are of one kind: one behind the other, each aligned.
struct OfGroups {
    first: Range<usize>,
    stride: usize,
}

impl OfGroups {
    fn of(&self, group: usize) -> Range<usize> {
        let Range { start, end } = self.first;
        start + group * self.stride..end + group * self.stride
    }
}

/// Lengths of the arrays of a step.
struct Lengths {
    rows: usize,
    sequences: usize,
    groups: usize,
    /// Entries of the block tables of one group.
    table_entries: usize,
    pending: usize,
}

impl Places {
    fn new(lengths: &Lengths) -> Places {
        let Lengths { rows, sequences, groups, table_entries, pending } = *lengths;
        let mut cursor = Cursor(0);
        Places {
            token_ids: cursor.place(rows),
            positions: cursor.place(rows),
            slots: cursor.place_of(groups, rows),
            cu_seqlens_q: cursor.place(sequences + 1),
            context_lens: cursor.place(sequences),
            block_tables: cursor.place_of(groups, table_entries),
            pending: cursor.place(2 * pending),
        }
    }
}

/// The end of what has a place.
struct Cursor(usize);

impl Cursor {
    fn place(&mut self, len: usize) -> Range<usize> {
        let start = aligned(self.0);
        self.0 = start.saturating_add(len);
        start..self.0
    }

    fn place_of(&mut self, groups: usize, len: usize) -> OfGroups {
        let stride = aligned(len);
        let start = self.place(stride.saturating_mul(groups)).start;
        OfGroups { first: start..start.saturating_add(len), stride }
    }
}

fn aligned(len: usize) -> usize {
    len.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}

impl InputBuffer {
    /// Memory of `to` for steps of `max_rows` rows and, in each of `groups`, block tables of `table_entries` KV blocks.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        to: &Allocator<'_>,
        max_rows: usize,
        groups: usize,
        table_entries: usize,
    ) -> Result<InputBuffer> {
        let (rows, sequences, pending) = (max_rows, max_rows, max_rows);
        let words = Places::new(&Lengths { rows, sequences, groups, table_entries, pending }).pending.end;
        Ok(InputBuffer { words: to.zeros([words], DType::U32)?, packed: Vec::new() })
    }

    /// Copies a checked batch; tokens that are pending are taken from those `sampled`, u32 `[D]`, by the step before.
    ///
    /// # Errors
    /// When its block tables are larger than planned, or the device failed.
    pub fn load(&mut self, device: &Device, batch: &Batch, sampled: View<'_>) -> Result<Inputs<'_>> {
        let (rows, sequences) = (batch.num_rows(), batch.num_sequences());
        let table_shape = [sequences, batch.block_table_width];
        let places = Places::new(&Lengths {
            rows,
            sequences,
            groups: batch.kv.len(),
            table_entries: sequences * batch.block_table_width,
            pending: batch.pending.len(),
        });
        self.pack(batch, &places);
        if self.packed.len() > self.words.shape().elements() {
            let reason =
                format!("block tables of {table_shape:?} entries, more than planned (max_sequences)");
            return Err(KernelError::Argument { op: "inputs", reason });
        }
        self.words.copy_from(device, &self.packed)?;
        if !batch.pending.is_empty() {
            let (words, rest) = self.words.view_mut()?.split(rows)?;
            let pairs = rest.as_view().slice(places.pending.start - rows, places.pending.len())?;
            ops::gather_token_ids(device, words, sampled, pairs.prefix([batch.pending.len(), 2])?)?;
        }
        let words = self.words.view();
        let view = |place: &Range<usize>| words.slice(place.start, place.len());
        let (token_ids, positions) = (view(&places.token_ids)?, view(&places.positions)?);
        Ok(Inputs { rows, token_ids, positions, words, places, table_shape })
    }

    fn pack(&mut self, batch: &Batch, places: &Places) {
        self.packed.clear();
        let mut add = |place: Range<usize>, words: &mut dyn Iterator<Item = u32>| {
            self.packed.resize(place.start, 0);
            self.packed.extend(words);
        };
        add(places.token_ids.clone(), &mut batch.token_ids.iter().copied());
        add(places.positions.clone(), &mut batch.positions.iter().copied());
        for (group, kv) in batch.kv.iter().enumerate() {
            add(places.slots.of(group), &mut kv.slot_mapping.iter().copied());
        }
        add(places.cu_seqlens_q.clone(), &mut batch.cu_seqlens_q.iter().copied());
        add(places.context_lens.clone(), &mut batch.context_lens.iter().copied());
        for (group, kv) in batch.kv.iter().enumerate() {
            add(places.block_tables.of(group), &mut kv.block_tables.iter().copied());
        }
        let pairs = batch.pending.iter().flat_map(|pending| [pending.row, pending.sampled_by]);
        add(places.pending.clone(), &mut { pairs });
    }
}
