//! Masks: which keys a query sees.

use crate::{Result, ops::check::Check};

/// Which keys a query at position `q` sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Those at positions up to `q`.
    Full,
    /// The last `window` of those.
    Sliding {
        /// In tokens, the query's own included; at least 1.
        window: usize,
    },
    /// Those from the start of the query's chunk on: positions `k <= q` with `k / chunk == q / chunk`.
    Chunked {
        /// In tokens; at least 1.
        chunk: usize,
    },
}

impl AttentionMask {
    /// The first position that a query at `position` sees.
    #[inline(always)]
    pub(in crate::ops) fn first_visible(self, position: usize) -> usize {
        match self {
            AttentionMask::Full => 0,
            AttentionMask::Sliding { window } => (position + 1).saturating_sub(window),
            AttentionMask::Chunked { chunk } => position / chunk * chunk,
        }
    }

    pub(in crate::ops) fn check(self, check: Check) -> Result<()> {
        match self {
            AttentionMask::Sliding { window: 0 } => Err(check.error("the window is empty".into())),
            AttentionMask::Chunked { chunk: 0 } => Err(check.error("the chunks are empty".into())),
            _ => Ok(()),
        }
    }
}
