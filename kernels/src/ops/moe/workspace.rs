//! What `moe` needs between its steps.

use crate::{
    Allocator, DType, Device, Result, Tensor,
    ops::{check::Check, experts::Experts},
};

/// Words of a tile in the table of tiles.
const TILE_WORDS: usize = 3;
/// The fewest pairs that a tile holds, which bounds the number of tiles.
const FEWEST: usize = 8;

/// What [`moe`](super::moe) needs between its steps, for up to a number of rows. A *pair* is one of a row and one of its experts (a slot); pairs
/// are sorted by expert.
#[derive(Debug)]
pub struct MoeWorkspace {
    max_rows: usize,
    pub(super) chosen: usize,
    hidden: usize,
    intermediate: usize,
    experts: usize,
    compute: DType,
    /// `[E + 1]` first pair of each expert, then their number.
    pub(super) starts: Vec<u32>,
    /// `[E]` experts that have pairs.
    pub(super) active: Vec<u32>,
    /// `[max_rows · k]` the row of each pair.
    pub(super) rows: Vec<u32>,
    /// `[max_rows · k]` which pair stands at each place, as `row · k + slot`.
    pub(super) pair_ids: Vec<u32>,
    /// `[max_rows · k]` where each pair stands.
    pub(super) places: Vec<u32>,
    /// The same on a CUDA device, u32: see [`index_words`].
    pub(super) indices: Tensor,
    /// f32 `[max_rows · k, 2I]`; on a CUDA device none, whose kernels activate at once.
    pub(super) gate_up: Tensor,
    /// compute `[max_rows · k, I]`
    pub(super) activated: Tensor,
    /// f32 `[max_rows · k, H]`
    pub(super) down: Tensor,
}

impl MoeWorkspace {
    /// A workspace in the memory of `to` for up to `max_rows` rows with `chosen` of `experts` experts each, whose weights
    /// have the given sizes and type.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        to: &Allocator<'_>,
        max_rows: usize,
        chosen: usize,
        hidden: usize,
        intermediate: usize,
        experts: usize,
        dtype: DType,
    ) -> Result<MoeWorkspace> {
        let pairs = max_rows.saturating_mul(chosen);
        // The sorted pairs lie where the device sorts them.
        let (on_host, on_device) = match to.device() {
            Device::Cpu(_) => (pairs, 0),
            Device::Cuda(_) => (0, index_words(pairs, experts)),
        };
        Ok(MoeWorkspace {
            max_rows,
            chosen,
            hidden,
            intermediate,
            experts,
            compute: dtype.compute(),
            gate_up: to.zeros([on_host, intermediate.saturating_mul(2)], DType::F32)?,
            activated: to.zeros([pairs, intermediate], dtype.compute())?,
            down: to.zeros([pairs, hidden], DType::F32)?,
            indices: to.zeros([on_device], DType::U32)?,
            starts: to.host_words(experts + 1),
            active: to.host_words(experts),
            rows: to.host_words(on_host),
            pair_ids: to.host_words(on_host),
            places: to.host_words(on_host),
        })
    }

    /// It was made for these experts and has room for these rows.
    pub(super) fn check(&self, check: Check, rows: usize, chosen: usize, experts: &Experts) -> Result<()> {
        check.that(rows <= self.max_rows && chosen == self.chosen, || {
            let (max_rows, k) = (self.max_rows, self.chosen);
            format!("{rows} rows with {chosen} experts each, the workspace is for {max_rows} with {k}")
        })?;
        let describe = |(experts, hidden, intermediate, compute): (usize, usize, usize, DType)| {
            format!("{experts} experts of {hidden} to {intermediate} in {compute}")
        };
        let ours = (self.experts, self.hidden, self.intermediate, self.compute);
        let (hidden, intermediate) = (experts.hidden_size(), experts.intermediate_size());
        let theirs = (experts.count(), hidden, intermediate, experts.compute());
        check
            .that(ours == theirs, || format!("{}, the workspace is for {}", describe(theirs), describe(ours)))
    }

    /// Sorts the pairs by expert (a counting sort, so in order of rows within one). Returns the number of active
    /// experts.
    pub(super) fn sort(&mut self, ids: &[u32]) -> usize {
        self.starts.fill(0);
        for &id in ids {
            self.starts[id as usize + 1] += 1;
        }
        let mut active = 0;
        for expert in 0..self.experts {
            if self.starts[expert + 1] > 0 {
                self.active[active] = expert as u32;
                active += 1;
            }
            self.starts[expert + 1] += self.starts[expert];
        }
        // Each start moves to its expert's end while pairs are placed, and back afterwards.
        for (pair, &id) in ids.iter().enumerate() {
            let place = self.starts[id as usize];
            self.starts[id as usize] += 1;
            self.rows[place as usize] = (pair / self.chosen) as u32;
            self.pair_ids[place as usize] = pair as u32;
            self.places[pair] = place;
        }
        self.starts.copy_within(..self.experts, 1);
        self.starts[0] = 0;
        active
    }
}

/// Words that sorting up to so many pairs takes on the device.
fn index_words(pairs: usize, experts: usize) -> usize {
    2 * pairs + TILE_WORDS * tiles(pairs, experts, FEWEST)
}

/// The most tiles that pairs of the experts make.
pub(super) fn tiles(pairs: usize, experts: usize, tokens: usize) -> usize {
    pairs.min(pairs / tokens + experts)
}
