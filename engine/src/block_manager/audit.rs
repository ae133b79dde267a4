//! The block manager's audit.

use super::{BlockId, BlockManager, BlockTable, NO_BLOCK};

impl BlockManager {
    /// Checks all bookkeeping against `tables`, which must be every table that holds KV blocks, each with how many
    /// tokens are computed.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity<'a>(
        &self,
        tables: impl Iterator<Item = (&'a BlockTable, usize)>,
    ) -> Result<(), String> {
        let mut refs = vec![0; self.blocks.len()];
        let mut written: Vec<BlockId> = Vec::new();
        for (table, num_computed) in tables {
            self.check_table(table, num_computed)?;
            for group in table.groups() {
                group.ids[group.first..].iter().for_each(|&id| refs[id as usize] += 1);
                written.extend(group.ids.iter().skip(group.first.max(table.num_cached)));
            }
        }
        if let Some(block) = written.iter().find(|&&block| refs[block as usize] > 1) {
            return Err(format!("KV block {block} is shared but not full"));
        }
        for (id, block) in self.blocks.iter().enumerate() {
            let count = block.ref_count;
            if count != refs[id] {
                return Err(format!("KV block {id} counts {count} references but has {}", refs[id]));
            }
            if self.free.contains(id as BlockId) != (count == 0) {
                return Err(format!(
                    "KV block {id} has {count} references; its place among the free is wrong"
                ));
            }
            if let Some((key, _)) = block.key
                && self.cached.get(&key) != Some(&(id as BlockId))
            {
                return Err(format!("KV block {id} is cached but not found under its hash"));
            }
        }
        let keyed = self.blocks.iter().filter(|block| block.key.is_some()).count();
        if keyed != self.cached.len() {
            return Err(format!("{keyed} KV blocks have a hash but {} are cached", self.cached.len()));
        }
        let free = self.free.iter().take(self.blocks.len() + 1).count();
        if free != self.free.len() {
            return Err(format!("{free} KV blocks are in the free list, which counts {}", self.free.len()));
        }
        Ok(())
    }

    /// Every group holds what the next rows see, and no more than it may.
    fn check_table(&self, table: &BlockTable, num_computed: usize) -> Result<(), String> {
        for (number, group) in table.groups().iter().enumerate() {
            let (first, len) = (group.first, group.ids.len());
            if first > self.first_seen(number, num_computed) || len * self.block_size() < num_computed {
                let has = format!("KV blocks {first} to {len} of its sequence");
                return Err(format!("group {number} has {has}, too few for position {num_computed}"));
            }
            let most = self.groups.most_blocks(self.reach(number));
            if len - first > most || group.ids[..first].iter().any(|&id| id != NO_BLOCK) {
                return Err(format!("group {number} holds more KV blocks than the {most} that are seen"));
            }
        }
        Ok(())
    }
}
