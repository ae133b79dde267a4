//! Which KV block belongs to whom: block tables, reference counts and the prefix cache. Pure bookkeeping.
//!
//! A KV block is *free* when no block table holds it. A full block is *published* under its chained hash, and
//! stays findable after it was freed, until its memory is reused: blocks without contents first, then the least
//! recently freed. Only full blocks are shared, and a sequence writes only behind its full blocks, so a shared
//! block is never written.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    free_list::FreeList,
    prefix_hash::{PrefixHash, PrefixHasher, PrefixScope},
};

/// A KV block's index in the cache.
pub(crate) type BlockId = u32;

/// The KV blocks of one sequence, in order.
#[derive(Debug)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    /// `blocks[..published]` are full and were offered to the prefix cache.
    published: usize,
    root: PrefixHash,
    /// Hash of every full block of the sequence's tokens so far asked for; kept over preemptions.
    hashes: Vec<PrefixHash>,
}

impl BlockTable {
    /// The KV blocks.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    fn parent(&self, index: usize) -> PrefixHash {
        index.checked_sub(1).map_or(self.root, |parent| self.hashes[parent])
    }

    /// Hash of block `index`, which `tokens` must fill.
    fn hash(&mut self, index: usize, tokens: &[u32], block_size: usize, hasher: &PrefixHasher) -> PrefixHash {
        while self.hashes.len() <= index {
            let next = self.hashes.len();
            let hash = hasher.block(self.parent(next), &tokens[next * block_size..][..block_size]);
            self.hashes.push(hash);
        }
        self.hashes[index]
    }
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// Block tables that hold it.
    users: u32,
    /// Its hash and its parent's, when it can be found under them.
    key: Option<(PrefixHash, PrefixHash)>,
}

/// The owner of all KV block ids.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: usize,
    blocks: Vec<Block>,
    /// `[num_blocks, block_size]` token ids of published blocks.
    tokens: Vec<u32>,
    free: FreeList,
    published: HashMap<PrefixHash, BlockId>,
    hasher: PrefixHasher,
}

impl BlockManager {
    /// `num_blocks` free KV blocks of `block_size` tokens.
    pub fn new(num_blocks: u32, block_size: usize) -> BlockManager {
        BlockManager {
            block_size,
            blocks: vec![Block::default(); num_blocks as usize],
            tokens: vec![0; num_blocks as usize * block_size],
            free: FreeList::full(num_blocks),
            published: HashMap::new(),
            hasher: PrefixHasher::with_random_key(),
        }
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// KV blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// KV blocks held by sequences.
    pub fn num_used(&self) -> usize {
        self.blocks.len() - self.num_free()
    }

    /// KV blocks that no sequence holds.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// An empty block table for a sequence that shares prefixes within `scope`.
    pub fn new_table(&self, scope: &PrefixScope) -> BlockTable {
        BlockTable { blocks: Vec::new(), published: 0, root: self.hasher.root(scope), hashes: Vec::new() }
    }

    /// Gives an empty table room for all of `tokens`: published KV blocks for the longest known prefix, of at most
    /// `max_cached` tokens and never the last token, and fresh ones for the rest. Returns how many tokens are
    /// cached; or `None`, changing nothing, when fewer than `headroom` blocks would be left free.
    pub fn open(
        &mut self,
        table: &mut BlockTable,
        tokens: &[u32],
        max_cached: usize,
        headroom: usize,
    ) -> Option<usize> {
        debug_assert!(table.blocks.is_empty());
        let needed = tokens.len().div_ceil(self.block_size);
        let reusable = max_cached.min(tokens.len().saturating_sub(1)) / self.block_size;
        if self.free.len() < needed - reusable + headroom {
            return None;
        }
        let hits: Vec<BlockId> = (0..reusable).map_while(|index| self.find(table, index, tokens)).collect();
        let free_hits = hits.iter().filter(|&&block| self.blocks[block as usize].users == 0).count();
        if self.free.len() < needed - hits.len() + free_hits + headroom {
            return None;
        }
        let num_cached = hits.len() * self.block_size;
        hits.iter().for_each(|&block| self.retain(block));
        table.published = hits.len();
        table.blocks = hits;
        let complete = self.grow(table, tokens.len());
        debug_assert!(complete);
        Some(num_cached)
    }

    /// KV blocks that `table` lacks for `num_tokens`.
    pub fn num_missing(&self, table: &BlockTable, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size).saturating_sub(table.blocks.len())
    }

    /// Adds fresh KV blocks to `table` until it has room for `num_tokens`. False, when none is left to add.
    pub fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> bool {
        while table.blocks.len() * self.block_size < num_tokens {
            let Some(block) = self.take_free() else { return false };
            table.blocks.push(block);
        }
        true
    }

    /// Offers to the prefix cache the blocks that the first `num_computed` of `tokens` fill. Where the cache
    /// knows such a block already, the table keeps its own copy unpublished.
    pub fn publish(&mut self, table: &mut BlockTable, tokens: &[u32], num_computed: usize) {
        while (table.published + 1) * self.block_size <= num_computed {
            let index = table.published;
            let hash = table.hash(index, tokens, self.block_size, &self.hasher);
            if let Entry::Vacant(entry) = self.published.entry(hash) {
                let block = table.blocks[index];
                entry.insert(block);
                self.blocks[block as usize].key = Some((hash, table.parent(index)));
                let own = &tokens[index * self.block_size..][..self.block_size];
                self.tokens[block as usize * self.block_size..][..self.block_size].copy_from_slice(own);
            }
            table.published += 1;
        }
    }

    /// Gives all KV blocks of `table` back. A prefix's end is freed before its beginning, so that it is
    /// reused first.
    pub fn release(&mut self, table: &mut BlockTable) {
        table.published = 0;
        for id in table.blocks.drain(..).rev() {
            let block = &mut self.blocks[id as usize];
            block.users -= 1;
            match (block.users, &block.key) {
                (0, Some(_)) => self.free.push_back(id),
                (0, None) => self.free.push_front(id),
                _ => {}
            }
        }
    }

    /// The published KV block that continues the table's prefix as block `index` of `tokens` does. Token ids and
    /// parent are compared too: a hash is not taken for proof.
    fn find(&self, table: &mut BlockTable, index: usize, tokens: &[u32]) -> Option<BlockId> {
        let hash = table.hash(index, tokens, self.block_size, &self.hasher);
        let block = *self.published.get(&hash)?;
        let own = &tokens[index * self.block_size..][..self.block_size];
        let found = &self.tokens[block as usize * self.block_size..][..self.block_size];
        let same_parent = self.blocks[block as usize].key == Some((hash, table.parent(index)));
        (same_parent && own == found).then_some(block)
    }

    fn retain(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.users == 0 {
            self.free.remove(id);
        }
        block.users += 1;
    }

    fn take_free(&mut self) -> Option<BlockId> {
        let id = self.free.pop_front()?;
        let block = &mut self.blocks[id as usize];
        block.users = 1;
        if let Some((hash, _)) = block.key.take() {
            self.published.remove(&hash);
        }
        Some(id)
    }

    /// Checks all bookkeeping against `tables`, which must be every table that holds KV blocks.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), String> {
        let mut users = vec![0; self.blocks.len()];
        let mut written: Vec<BlockId> = Vec::new();
        for table in tables {
            table.blocks.iter().for_each(|&block| users[block as usize] += 1);
            written.extend(&table.blocks[table.published..]);
        }
        if let Some(block) = written.iter().find(|&&block| users[block as usize] > 1) {
            return Err(format!("KV block {block} is shared but not full"));
        }
        for (id, block) in self.blocks.iter().enumerate() {
            if block.users != users[id] {
                return Err(format!("KV block {id} counts {} users but has {}", block.users, users[id]));
            }
            if self.free.contains(id as BlockId) != (block.users == 0) {
                return Err(format!(
                    "KV block {id} has {} users; its place among the free is wrong",
                    block.users
                ));
            }
            if let Some((hash, _)) = block.key
                && self.published.get(&hash) != Some(&(id as BlockId))
            {
                return Err(format!("KV block {id} is published but not found under its hash"));
            }
        }
        let keyed = self.blocks.iter().filter(|block| block.key.is_some()).count();
        if keyed != self.published.len() {
            return Err(format!("{keyed} KV blocks have a hash but {} are published", self.published.len()));
        }
        let free = self.free.iter().take(self.blocks.len() + 1).count();
        if free != self.free.len() {
            return Err(format!("{free} KV blocks are in the free list, which counts {}", self.free.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_SIZE: usize = 4;

    fn manager(num_blocks: u32) -> BlockManager {
        BlockManager::new(num_blocks, BLOCK_SIZE)
    }

    fn shared(manager: &BlockManager) -> BlockTable {
        manager.new_table(&PrefixScope::Shared)
    }

    /// Opens, computes and publishes a whole sequence.
    fn compute(manager: &mut BlockManager, scope: &PrefixScope, tokens: &[u32]) -> (BlockTable, usize) {
        let mut table = manager.new_table(scope);
        let cached = manager.open(&mut table, tokens, usize::MAX, 0).unwrap();
        manager.publish(&mut table, tokens, tokens.len());
        (table, cached)
    }

    #[test]
    fn shares_full_blocks_but_never_the_last_token() {
        let mut blocks = manager(8);
        let tokens: Vec<u32> = (0..8).collect();
        let (first, cached) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        assert_eq!(cached, 0);
        let (second, cached) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        assert_eq!(cached, 4, "the last block holds the last token and is computed again");
        assert_eq!(first.blocks()[0], second.blocks()[0]);
        assert_ne!(first.blocks()[1], second.blocks()[1]);
        let (third, cached) = compute(&mut blocks, &PrefixScope::Shared, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((cached, &third.blocks()[..2]), (8, first.blocks()));
        assert_eq!(blocks.num_used(), 4);
        blocks.check_integrity([&first, &second, &third].into_iter()).unwrap();
    }

    #[test]
    fn a_different_parent_salt_or_request_misses() {
        let mut blocks = manager(16);
        let (_table, _) = compute(&mut blocks, &PrefixScope::Shared, &[1, 1, 1, 1, 2, 2, 2, 2]);
        let (_table, cached) = compute(&mut blocks, &PrefixScope::Shared, &[3, 3, 3, 3, 2, 2, 2, 2, 0]);
        assert_eq!(cached, 0, "the same block after another parent");
        let salt = PrefixScope::Salted("a".into());
        let (_table, cached) = compute(&mut blocks, &salt, &[1, 1, 1, 1, 9]);
        assert_eq!(cached, 0);
        let (_table, cached) = compute(&mut blocks, &salt, &[1, 1, 1, 1, 9]);
        assert_eq!(cached, 4);
        let (_table, cached) = compute(&mut blocks, &PrefixScope::Request(7), &[1, 1, 1, 1, 9]);
        assert_eq!(cached, 0);
    }

    #[test]
    fn a_colliding_hash_is_not_believed() {
        let mut blocks = manager(4);
        let (first, _) = compute(&mut blocks, &PrefixScope::Shared, &[1, 2, 3, 4]);
        blocks.tokens[first.blocks()[0] as usize * BLOCK_SIZE] = 9; // as if other tokens had the same hash
        let (_, cached) = compute(&mut blocks, &PrefixScope::Shared, &[1, 2, 3, 4, 5]);
        assert_eq!(cached, 0);
    }

    #[test]
    fn freed_blocks_are_found_until_reused_oldest_first() {
        let mut blocks = manager(3);
        let (mut old, _) = compute(&mut blocks, &PrefixScope::Shared, &[1, 1, 1, 1]);
        let (mut new, _) = compute(&mut blocks, &PrefixScope::Shared, &[2, 2, 2, 2]);
        blocks.release(&mut old);
        blocks.release(&mut new);
        assert_eq!(blocks.num_used(), 0);
        blocks.check_integrity(std::iter::empty()).unwrap();

        // Takes the block that never had contents, then the one freed first.
        let (mut other, _) = compute(&mut blocks, &PrefixScope::Shared, &[3, 3, 3, 3, 3]);
        blocks.release(&mut other);
        let (_again, cached) = compute(&mut blocks, &PrefixScope::Shared, &[2, 2, 2, 2, 2]);
        assert_eq!(cached, 4);
        let (_again, cached) = compute(&mut blocks, &PrefixScope::Request(0), &[0]);
        assert_eq!(cached, 0);
        assert_eq!(blocks.open(&mut shared(&blocks), &[0], usize::MAX, 0), None, "all are in use");
    }

    #[test]
    fn the_end_of_a_prefix_is_reused_before_its_beginning() {
        let mut blocks = manager(4);
        let tokens: Vec<u32> = (0..12).collect();
        let (mut table, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        blocks.release(&mut table);
        let (mut other, _) = compute(&mut blocks, &PrefixScope::Request(0), &[9; 8]);
        blocks.release(&mut other);
        let (_, cached) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        assert_eq!(cached, 8);
    }

    #[test]
    fn open_leaves_headroom_or_changes_nothing() {
        let mut blocks = manager(4);
        let tokens: Vec<u32> = (0..12).collect();
        let (mut table, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        blocks.release(&mut table);
        for headroom in [2, 3] {
            assert_eq!(blocks.open(&mut table, &tokens, usize::MAX, headroom), None);
            assert!(table.blocks().is_empty());
            blocks.check_integrity(std::iter::empty()).unwrap();
        }
        assert_eq!(blocks.open(&mut table, &tokens, usize::MAX, 1), Some(8));
        assert!(blocks.grow(&mut table, 16));
        assert!(!blocks.grow(&mut table, 17));
    }

    #[test]
    fn max_cached_limits_what_is_reused() {
        let mut blocks = manager(8);
        let tokens: Vec<u32> = (0..12).collect();
        let (_first, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
        let mut table = shared(&blocks);
        assert_eq!(blocks.open(&mut table, &tokens, 7, 0), Some(4));
        blocks.release(&mut table);
        assert_eq!(blocks.open(&mut table, &tokens, 0, 0), Some(0));
    }

    #[test]
    fn the_audit_notices_a_lost_block() {
        let mut blocks = manager(2);
        let (table, _) = compute(&mut blocks, &PrefixScope::Shared, &[1]);
        assert!(blocks.check_integrity(std::iter::once(&table)).is_ok());
        assert!(blocks.check_integrity(std::iter::empty()).unwrap_err().contains("counts 1 users but has 0"));
    }
}
