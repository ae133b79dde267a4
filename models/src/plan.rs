//! How a device's memory is shared out: worked out from the spec before any of it is taken.

mod planner;

use std::fmt;

use crate::{KvGroups, size::Size};
pub(crate) use planner::{Planner, padding_blocks, table_entries};

/// The shares of a device's memory, in bytes. Nothing else is taken of it as long as the model lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The device's memory, where it says how large it is.
    pub total: Option<u64>,
    /// What nobody had when the plan was made.
    pub free: u64,
    /// The weights, mapped or owned.
    pub weights: u64,
    /// Rotations and the like, for each position of the longest sequence.
    pub position_tables: u64,
    /// Activations of the largest step.
    pub workspace: u64,
    /// Token ids, positions and block tables of a step.
    pub inputs: u64,
    /// What ops keep between their kernels.
    pub scratch: u64,
    /// What drawing tokens takes.
    pub sampler: u64,
    /// KV blocks for the rows that fill captured steps up.
    pub padding_kv_blocks: u64,
    /// The KV blocks of sequences.
    pub kv_cache: u64,
    /// Left to the driver of a GPU; on the processor, to other programs.
    pub kept_free: u64,
    /// The longest sequence, in tokens.
    pub max_model_len: usize,
    /// KV blocks, each of which holds some tokens for one group of layers.
    pub num_kv_blocks: usize,
    /// How many of them sequences need.
    pub kv_groups: KvGroups,
}

impl MemoryPlan {
    /// What the model takes.
    pub fn taken(&self) -> u64 {
        let shares = [
            self.weights,
            self.position_tables,
            self.workspace,
            self.inputs,
            self.scratch,
            self.sampler,
            self.padding_kv_blocks,
            self.kv_cache,
        ];
        shares.into_iter().fold(0, u64::saturating_add)
    }

    /// What must be free for it.
    pub fn needed(&self) -> u64 {
        self.taken().saturating_add(self.kept_free)
    }

    /// Whether it is.
    pub fn fits(&self) -> bool {
        self.needed() <= self.free
    }

    /// How many of the longest sequences the KV cache holds at once.
    pub fn concurrency(&self) -> usize {
        self.kv_groups.sequences_in(self.num_kv_blocks, self.max_model_len)
    }

    /// Every share by its name, without those that are nothing; last what is left, if it fits.
    pub fn rows(&self) -> Vec<(&'static str, u64)> {
        let kept = if self.total.is_some() { "left to the driver" } else { "left to other programs" };
        let mut rows = vec![
            ("device memory", self.total.unwrap_or(0)),
            ("taken before", self.total.map_or(0, |total| total.saturating_sub(self.free))),
            ("free before", self.free),
            ("weights", self.weights),
            ("position tables", self.position_tables),
            ("activations", self.workspace),
            ("step inputs", self.inputs),
            ("kernels' scratch", self.scratch),
            ("sampler", self.sampler),
            ("padding KV blocks", self.padding_kv_blocks),
            ("KV cache", self.kv_cache),
            (kept, self.kept_free),
        ];
        rows.retain(|(_, bytes)| *bytes > 0);
        rows.extend(self.free.checked_sub(self.needed()).map(|left| ("still free", left)));
        rows
    }
}

/// A line for each share.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in self.rows() {
            write!(f, "\n  {name:<22} {:>12}", Size(bytes).to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
