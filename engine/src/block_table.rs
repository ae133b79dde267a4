//! The KV blocks of one sequence, and the names of what is in them.

use crate::prefix_hash::{PrefixHash, PrefixHasher};

/// A KV block's index in the cache.
pub(crate) type BlockId = u32;

/// The KV blocks of one sequence. Only the [`BlockManager`](crate::block_manager::BlockManager) changes it.
#[derive(Debug)]
pub(crate) struct BlockTable {
    pub(crate) groups: Vec<GroupBlocks>,
    /// The first so many of the sequence's blocks are full and were offered to the prefix cache, in all groups.
    pub(crate) num_cached: usize,
    root: PrefixHash,
    /// Hash of every full block of the sequence's tokens so far asked for; kept over preemptions.
    hashes: Vec<PrefixHash>,
}

/// The KV blocks of one sequence that one group of layers uses, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupBlocks {
    /// Those before `first` were given back, since no row will see them again: they are [`NO_BLOCK`].
    pub(crate) ids: Vec<BlockId>,
    pub(crate) first: usize,
}

/// Stands for a KV block that nobody reads.
pub(crate) const NO_BLOCK: BlockId = 0;

impl GroupBlocks {
    /// The KV blocks, by position.
    pub fn ids(&self) -> &[BlockId] {
        &self.ids
    }

    /// The block at `index`, if it is held.
    pub fn held(&self, index: usize) -> Option<BlockId> {
        self.ids.get(index).copied().filter(|_| index >= self.first)
    }
}

impl BlockTable {
    /// Without KV blocks, in so many groups, of a sequence whose first block continues `root`.
    pub fn new(num_groups: usize, root: PrefixHash) -> BlockTable {
        let groups = vec![GroupBlocks::default(); num_groups];
        BlockTable { groups, num_cached: 0, root, hashes: Vec::new() }
    }

    /// Those of each group.
    pub fn groups(&self) -> &[GroupBlocks] {
        &self.groups
    }

    /// Entries of the longest group.
    pub fn width(&self) -> usize {
        self.groups.iter().map(|group| group.ids.len()).max().unwrap_or(0)
    }

    /// No KV block is held.
    pub fn is_empty(&self) -> bool {
        self.width() == 0
    }

    /// Forgets all KV blocks, but not what the sequence's are called.
    pub fn clear(&mut self) {
        self.groups.fill(GroupBlocks::default());
        self.num_cached = 0;
    }

    /// Name of the block before `index`, which must have been asked for.
    pub fn parent(&self, index: usize) -> PrefixHash {
        index.checked_sub(1).map_or(self.root, |parent| self.hashes[parent])
    }

    /// Name of block `index`, which `tokens` must fill.
    pub fn hash(
        &mut self,
        index: usize,
        tokens: &[u32],
        block_size: usize,
        hasher: &PrefixHasher,
    ) -> PrefixHash {
        while self.hashes.len() <= index {
            let next = self.hashes.len();
            let hash = hasher.block(self.parent(next), &tokens[next * block_size..][..block_size]);
            self.hashes.push(hash);
        }
        self.hashes[index]
    }
}
