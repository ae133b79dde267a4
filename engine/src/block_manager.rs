//! Which KV block belongs to whom: block tables, reference counts and the prefix cache. Pure bookkeeping.
//!
//! A sequence has a block table for each group of layers. What no row of a group will see again is given back while the
//! sequence runs, and any group can have it next.
//!
//! A KV block is *free* when no block table holds it. A full block is *cached* under its group and its chained hash, and
//! stays findable after it was freed, until its memory is reused: blocks without contents first, then the least
//! recently freed. Only full blocks are shared, and a sequence writes only behind its full blocks, so a shared
//! block is never written.

mod audit;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, hash_map::Entry};

use mosu_models::{KvGroups, KvReach};

pub(crate) use crate::block_table::{BlockId, BlockTable};
use crate::{
    block_table::NO_BLOCK,
    free_list::FreeList,
    prefix_hash::{PrefixHash, PrefixHasher, PrefixScope},
};

#[derive(Clone, Debug, Default)]
struct Block {
    /// Block tables that hold it.
    ref_count: u32,
    /// What it can be found under, and its parent's hash.
    key: Option<(CacheKey, PrefixHash)>,
}

/// What a full block is found under: which layers' keys and values of which tokens it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CacheKey {
    group: usize,
    hash: PrefixHash,
}

/// The owner of all KV block ids.
#[derive(Debug)]
pub(crate) struct BlockManager {
    groups: KvGroups,
    blocks: Vec<Block>,
    /// `[num_blocks, block_size]` token ids of cached blocks.
    tokens: Vec<u32>,
    free: FreeList,
    cached: HashMap<CacheKey, BlockId>,
    hasher: PrefixHasher,
}

impl BlockManager {
    /// `num_blocks` free KV blocks, which layers of these groups share.
    pub fn new(num_blocks: u32, groups: KvGroups) -> BlockManager {
        BlockManager {
            blocks: vec![Block::default(); num_blocks as usize],
            tokens: vec![0; num_blocks as usize * groups.block_size()],
            groups,
            free: FreeList::full(num_blocks),
            cached: HashMap::new(),
            hasher: PrefixHasher::with_random_key(),
        }
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> usize {
        self.groups.block_size()
    }

    /// Groups of layers, and so KV blocks for the same tokens.
    pub fn num_groups(&self) -> usize {
        self.groups.count()
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
        BlockTable::new(self.num_groups(), self.hasher.root(scope))
    }

    /// Gives an empty table room for all of `tokens`: cached KV blocks for the longest known prefix, of at most
    /// `max_cached` tokens and never the last token, and fresh ones for the rest, as many as are held at a time. Returns
    /// how many tokens are cached; or `None`, changing nothing, when fewer than `headroom` blocks would be left free.
    pub fn allocate(
        &mut self,
        table: &mut BlockTable,
        tokens: &[u32],
        max_cached: usize,
        headroom: usize,
    ) -> Option<usize> {
        debug_assert!(table.is_empty());
        let longest = max_cached.min(tokens.len().saturating_sub(1)) / self.block_size();
        if self.free.len() < self.least_fresh(tokens.len(), longest) + headroom {
            return None;
        }
        let found = self.find_prefix(table, tokens, longest);
        let mut needed = headroom;
        for group in 0..self.num_groups() {
            let first = self.first_seen(group, found * self.block_size());
            let hits = (first..found).filter_map(|index| self.find(table, group, index, tokens));
            let hits: Vec<BlockId> = std::iter::repeat_n(NO_BLOCK, first).chain(hits).collect();
            needed += hits[first..].iter().filter(|&&id| self.blocks[id as usize].ref_count == 0).count();
            (table.groups[group].ids, table.groups[group].first) = (hits, first);
        }
        if self.free.len() < needed + self.num_missing(table, tokens.len()) {
            table.clear();
            return None;
        }
        table.groups.iter().flat_map(|group| &group.ids[group.first..]).for_each(|&id| self.retain(id));
        table.num_cached = found;
        let complete = self.grow(table, tokens.len());
        debug_assert!(complete);
        Some(found * self.block_size())
    }

    /// KV blocks that `table` lacks for `num_tokens`, as many as are held at a time.
    pub fn num_missing(&self, table: &BlockTable, num_tokens: usize) -> usize {
        let of_group =
            |group| self.wanted_len(table, group, num_tokens).saturating_sub(table.groups[group].ids.len());
        (0..self.num_groups()).map(of_group).sum()
    }

    /// Adds fresh KV blocks to `table` until it has room for `num_tokens`, or as many of them as are held at a time.
    /// False, changing nothing, when too few are free.
    pub fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> bool {
        if self.num_missing(table, num_tokens) > self.free.len() {
            return false;
        }
        for group in 0..self.num_groups() {
            let len = self.wanted_len(table, group, num_tokens);
            while table.groups[group].ids.len() < len {
                let Some(id) = self.take_free() else { return false };
                table.groups[group].ids.push(id);
            }
        }
        true
    }

    /// Gives back what no row from position `num_computed` on will see. All before it is computed, or will be by steps
    /// that the device does before any that reuses it; so it can be found too, as far as its `tokens` are known.
    pub fn free_unseen(&mut self, table: &mut BlockTable, tokens: &[u32], num_computed: usize) {
        for group in 0..self.num_groups() {
            let end = self.first_seen(group, num_computed).min(table.groups[group].ids.len());
            if table.groups[group].first < end {
                self.cache_full_blocks(table, tokens, tokens.len().min(end * self.block_size()));
            }
            while table.groups[group].first < end {
                let blocks = &mut table.groups[group];
                let id = std::mem::replace(&mut blocks.ids[blocks.first], NO_BLOCK);
                blocks.first += 1;
                self.drop_ref(id);
            }
        }
    }

    /// Offers to the prefix cache the blocks that the first `num_computed` of `tokens` fill. Where the cache
    /// knows such a block already, the table keeps its own copy.
    pub fn cache_full_blocks(&mut self, table: &mut BlockTable, tokens: &[u32], num_computed: usize) {
        let size = self.block_size();
        while (table.num_cached + 1) * size <= num_computed {
            let index = table.num_cached;
            let hash = table.hash(index, tokens, size, &self.hasher);
            for group in 0..self.num_groups() {
                let Some(id) = table.groups[group].held(index) else { continue };
                let key = CacheKey { group, hash };
                if let Entry::Vacant(entry) = self.cached.entry(key) {
                    entry.insert(id);
                    self.blocks[id as usize].key = Some((key, table.parent(index)));
                    self.tokens[id as usize * size..][..size]
                        .copy_from_slice(&tokens[index * size..][..size]);
                }
            }
            table.num_cached += 1;
        }
    }

    /// Gives all KV blocks of `table` back. A prefix's end is freed before its beginning, so that it is
    /// reused first.
    pub fn free(&mut self, table: &mut BlockTable) {
        for index in (0..table.width()).rev() {
            table.groups.iter().filter_map(|group| group.held(index)).for_each(|id| self.drop_ref(id));
        }
        table.clear();
    }

    fn reach(&self, group: usize) -> KvReach {
        self.groups.reaches()[group]
    }

    /// The first block of which rows from `position` on see anything.
    fn first_seen(&self, group: usize, position: usize) -> usize {
        self.reach(group).first_visible(position) / self.block_size()
    }

    /// Entries that a group's part of `table` has with room for `num_tokens`, or as many of them as are held at a time.
    fn wanted_len(&self, table: &BlockTable, group: usize, num_tokens: usize) -> usize {
        let most = table.groups[group].first.saturating_add(self.groups.most_blocks(self.reach(group)));
        num_tokens.div_ceil(self.block_size()).min(most)
    }

    /// Fresh blocks that a sequence of `num_tokens` needs at least, of which no more than `longest` blocks are cached.
    fn least_fresh(&self, num_tokens: usize, longest: usize) -> usize {
        let full = self.groups.reaches().iter().filter(|reach| **reach == KvReach::Full).count();
        full * (num_tokens.div_ceil(self.block_size()) - longest)
    }

    /// Blocks of the longest prefix, of at most `longest`, of which the cache has all that the tokens behind it see.
    fn find_prefix(&self, table: &mut BlockTable, tokens: &[u32], longest: usize) -> usize {
        let mut found = longest;
        loop {
            let before = found;
            for group in 0..self.num_groups() {
                let first = self.first_seen(group, found * self.block_size());
                let mut missing =
                    (first..found).filter(|&index| self.find(table, group, index, tokens).is_none());
                // Every longer prefix needs it too.
                found = missing.next().unwrap_or(found);
            }
            if found == before {
                return found;
            }
        }
    }

    /// The cached KV block that continues the table's prefix as block `index` of `tokens` does. Token ids and
    /// parent are compared too: a hash is not taken for proof.
    fn find(&self, table: &mut BlockTable, group: usize, index: usize, tokens: &[u32]) -> Option<BlockId> {
        let size = self.block_size();
        let key = CacheKey { group, hash: table.hash(index, tokens, size, &self.hasher) };
        let id = *self.cached.get(&key)?;
        let own = &tokens[index * size..][..size];
        let found = &self.tokens[id as usize * size..][..size];
        let same_parent = self.blocks[id as usize].key == Some((key, table.parent(index)));
        (same_parent && own == found).then_some(id)
    }

    fn retain(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.ref_count == 0 {
            self.free.remove(id);
        }
        block.ref_count += 1;
    }

    fn drop_ref(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        block.ref_count -= 1;
        match (block.ref_count, &block.key) {
            (0, Some(_)) => self.free.push_back(id),
            (0, None) => self.free.push_front(id),
            _ => {}
        }
    }

    fn take_free(&mut self) -> Option<BlockId> {
        let id = self.free.pop_front()?;
        let block = &mut self.blocks[id as usize];
        block.ref_count = 1;
        if let Some((key, _)) = block.key.take() {
            self.cached.remove(&key);
        }
        Some(id)
    }
}
