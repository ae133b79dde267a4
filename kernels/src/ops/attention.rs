//! What the attention ops share: masks and sequences, and the walk over keys on the CPU.

mod cache_element;
mod mask;
mod sequences;
mod walk;

pub(super) use cache_element::CacheElement;
pub use mask::AttentionMask;
pub use sequences::PagedSequences;
pub(super) use sequences::Sequences;
pub(super) use walk::{KEYS, Scores, State, Sums, Values, finish, weigh};

use crate::cpu::LANES;

/// The widest value that fits the scratch of one task.
pub(super) const MAX_HEAD_DIM: usize = 512;
/// Queries that share a walk over keys and values. A query is a (row, head) pair; those of a row's group are
/// neighbours.
pub(super) const TILE: usize = 16;
/// Positions of one step of the walk, which starts at a multiple of it. Part of the order of sums.
pub(super) const SPAN: usize = 64;
/// Elements of a value that are handled together: two vectors.
const CHUNK: usize = 2 * LANES;
