//! Groups of layers that look equally far back. A sequence has a block table per group, and what all layers of a group
//! can no longer see is given back while the sequence runs.

use std::fmt;

use mosu_kernels::ops::AttentionMask;

/// How far back the layers of a group look, and so what must be kept of a sequence. A kind of layer that keeps a state of
/// one size instead of tokens would be one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvReach {
    /// To the first token.
    Full,
    /// To the last tokens.
    Sliding {
        /// How many, the row's own included; at least 1.
        window: usize,
    },
    /// To the beginning of the row's chunk.
    Chunked {
        /// Tokens of a chunk; at least 1.
        chunk: usize,
    },
}

impl From<AttentionMask> for KvReach {
    fn from(mask: AttentionMask) -> KvReach {
        match mask {
            AttentionMask::Full => KvReach::Full,
            AttentionMask::Sliding { window } => KvReach::Sliding { window },
            AttentionMask::Chunked { chunk } => KvReach::Chunked { chunk },
        }
    }
}

impl KvReach {
    /// The first position that the row at `position` sees. No later row sees one before it.
    pub fn first_visible(self, position: usize) -> usize {
        match self {
            KvReach::Full => 0,
            KvReach::Sliding { window } => (position + 1).saturating_sub(window),
            KvReach::Chunked { chunk } => position / chunk * chunk,
        }
    }

    /// Most positions that `rows` consecutive rows see, their own included; `None` where there is no limit.
    pub(crate) fn most_seen(self, rows: usize) -> Option<usize> {
        match self {
            KvReach::Full => None,
            KvReach::Sliding { window: most } | KvReach::Chunked { chunk: most } => {
                Some(most.saturating_sub(1).saturating_add(rows))
            }
        }
    }
}

/// The groups of a model's layers. KV blocks are all of one size, and any group can have any of them: a KV block holds the
/// keys and values of `block_size` tokens for the layers of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvGroups {
    reaches: Vec<KvReach>,
    block_size: usize,
    max_rows: usize,
}

impl KvGroups {
    /// Groups by their reach, KV blocks of `block_size` tokens, and steps in which a sequence has at most `max_rows` rows.
    pub fn new(reaches: Vec<KvReach>, block_size: usize, max_rows: usize) -> KvGroups {
        KvGroups { reaches, block_size, max_rows }
    }

    /// The reach of each group.
    pub fn reaches(&self) -> &[KvReach] {
        &self.reaches
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.reaches.len()
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// KV blocks with room for all that the rows of one step can see in a group of this reach, wherever they begin.
    pub fn most_blocks(&self, reach: KvReach) -> usize {
        self.blocks_seen(reach, self.max_rows)
    }

    /// Most KV blocks that a sequence holds at a time until `tokens` are computed, in whatever chunks.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        self.sum(tokens, self.max_rows)
    }

    /// Most KV blocks that a sequence of `tokens` holds once its prompt is computed.
    pub fn blocks_to_decode(&self, tokens: usize) -> usize {
        self.sum(tokens, 1)
    }

    /// KV blocks with which `sequences` of `tokens` run at once, one of them in prefill.
    pub fn blocks_for_all(&self, sequences: usize, tokens: usize) -> usize {
        let others = sequences.saturating_sub(1).saturating_mul(self.blocks_to_decode(tokens));
        self.blocks_for(tokens).saturating_add(others)
    }

    /// How many sequences of `tokens` run at once in `blocks` KV blocks.
    pub fn sequences_in(&self, blocks: usize, tokens: usize) -> usize {
        let others = |left: usize| left / self.blocks_to_decode(tokens).max(1);
        blocks.checked_sub(self.blocks_for(tokens)).map_or(0, |left| 1 + others(left))
    }

    /// The longest sequence that can be computed in `blocks` KV blocks; `usize::MAX` where every length can.
    pub fn tokens_in(&self, blocks: usize) -> usize {
        self.tokens_of_each(1, blocks)
    }

    /// The longest sequences of which so many run at once in `blocks` KV blocks; `usize::MAX` where those of every length
    /// do.
    pub fn tokens_of_each(&self, sequences: usize, blocks: usize) -> usize {
        let fits = |tokens| self.blocks_for_all(sequences, tokens) <= blocks;
        if fits(usize::MAX) {
            return usize::MAX;
        }
        // Each group holds a KV block for each of a sequence's, until it reaches its limit.
        let (mut fitting, mut first_not) = (0, blocks + 1);
        while first_not - fitting > 1 {
            let middle = fitting + (first_not - fitting) / 2;
            let half =
                if fits(middle.saturating_mul(self.block_size)) { &mut fitting } else { &mut first_not };
            *half = middle;
        }
        fitting.saturating_mul(self.block_size)
    }

    fn sum(&self, tokens: usize, rows: usize) -> usize {
        let whole = tokens.div_ceil(self.block_size);
        let of_group = |reach: &KvReach| whole.min(self.blocks_seen(*reach, rows));
        self.reaches.iter().map(of_group).fold(0, usize::saturating_add)
    }

    fn blocks_seen(&self, reach: KvReach, rows: usize) -> usize {
        let most = |positions: usize| positions.saturating_sub(1).div_ceil(self.block_size) + 1;
        reach.most_seen(rows).map_or(usize::MAX, most)
    }
}

impl fmt::Display for KvReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvReach::Full => f.write_str("all tokens"),
            KvReach::Sliding { window } => write!(f, "the last {window}"),
            KvReach::Chunked { chunk } => write!(f, "a chunk of {chunk}"),
        }
    }
}

/// What is kept, and for how many groups.
impl fmt::Display for KvGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut told, mut between) = (Vec::new(), "");
        for reach in &self.reaches {
            if !told.contains(reach) {
                let count = self.reaches.iter().filter(|other| *other == reach).count();
                write!(f, "{between}{reach} in {count}")?;
                between = ", ";
                told.push(*reach);
            }
        }
        let groups = if self.count() == 1 { "group" } else { "groups" };
        write!(f, " of {} {groups} of layers", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACHES: [KvReach; 5] = [
        KvReach::Full,
        KvReach::Sliding { window: 1 },
        KvReach::Sliding { window: 21 },
        KvReach::Chunked { chunk: 1 },
        KvReach::Chunked { chunk: 40 },
    ];

    #[test]
    fn a_group_never_sees_more_than_its_blocks_hold() {
        for max_rows in [1, 7, 16, 50] {
            let groups = KvGroups::new(REACHES.into(), 16, max_rows);
            for reach in REACHES {
                let mut most = 0;
                for first in 0..300 {
                    assert!(reach.first_visible(first) <= reach.first_visible(first + 1), "{reach:?}");
                    let seen = reach.first_visible(first) / 16..(first + max_rows).div_ceil(16);
                    most = most.max(seen.len());
                }
                let limit = groups.most_blocks(reach);
                assert!(most <= limit, "{reach:?}, {max_rows} rows: {most} KV blocks, at most {limit}");
                let tight = matches!(reach, KvReach::Sliding { .. });
                assert!(!tight || most == limit, "{reach:?}, {max_rows} rows: {most} of {limit}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_told() {
        let sliding = KvReach::Sliding { window: 128 };
        let text = |reaches: &[KvReach]| KvGroups::new(reaches.into(), 16, 20).to_string();
        assert_eq!(text(&[sliding]), "the last 128 in 1 of 1 group of layers");
        let all = text(&[sliding, KvReach::Full, sliding]);
        assert_eq!(all, "the last 128 in 2, all tokens in 1 of 3 groups of layers");
    }

    #[test]
    fn what_fits_is_the_inverse_of_what_is_needed() {
        let groups = |reaches: &[KvReach]| KvGroups::new(reaches.into(), 16, 20);
        let full = groups(&[KvReach::Full]);
        assert_eq!((full.blocks_for(33), full.blocks_to_decode(33), full.tokens_in(3)), (3, 3, 48));
        // 20 + 20 positions are in at most 4 KV blocks, 20 + 1 in 3.
        let both = groups(&[KvReach::Full, KvReach::Sliding { window: 21 }]);
        assert_eq!((both.blocks_for(1600), both.blocks_to_decode(1600)), (104, 103));
        assert_eq!((both.blocks_for(16), both.tokens_in(1)), (2, 0));
        for blocks in 2..200 {
            let tokens = both.tokens_in(blocks);
            assert!(both.blocks_for(tokens) <= blocks && both.blocks_for(tokens + 1) > blocks, "{blocks}");
        }
        let sliding = groups(&[KvReach::Sliding { window: 21 }]);
        assert_eq!((sliding.tokens_in(3), sliding.tokens_in(4)), (48, usize::MAX));
    }
}
