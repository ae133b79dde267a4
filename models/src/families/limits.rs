//! Upper limits of what config.json may claim.
//!
//! They are far above any published model and keep every product of two within 64 bits; the files' real sizes are
//! checked later.

pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(super) const MAX_HEADS: usize = 1 << 12;
/// The widest head that attention computes.
pub(super) const MAX_HEAD_DIM: usize = 512;
pub(super) const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_POSITIONS: usize = 1 << 28;
