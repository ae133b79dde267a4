use super::*;

const BLOCK_SIZE: usize = 4;
/// Most rows of a sequence in a step.
const MAX_ROWS: usize = 8;

fn manager(num_blocks: u32) -> BlockManager {
    manager_of(num_blocks, &[KvReach::Full])
}

fn manager_of(num_blocks: u32, reaches: &[KvReach]) -> BlockManager {
    BlockManager::new(num_blocks, KvGroups::new(reaches.into(), BLOCK_SIZE, MAX_ROWS))
}

/// The KV blocks of a table of one group.
fn ids(table: &BlockTable) -> &[BlockId] {
    table.groups()[0].ids()
}

/// The audit, when nobody or these hold KV blocks, of which nothing is computed yet.
fn audit(manager: &BlockManager, tables: &[&BlockTable]) -> Result<(), String> {
    manager.check_integrity(tables.iter().map(|&table| (table, 0)))
}

fn shared(manager: &BlockManager) -> BlockTable {
    manager.new_table(&PrefixScope::Shared)
}

/// Computes a whole sequence in one step.
fn compute(manager: &mut BlockManager, scope: &PrefixScope, tokens: &[u32]) -> (BlockTable, usize) {
    let mut table = manager.new_table(scope);
    let cached = manager.allocate(&mut table, tokens, usize::MAX, 0).unwrap();
    manager.cache_full_blocks(&mut table, tokens, tokens.len());
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
    assert_eq!(ids(&first)[0], ids(&second)[0]);
    assert_ne!(ids(&first)[1], ids(&second)[1]);
    let (third, cached) = compute(&mut blocks, &PrefixScope::Shared, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((cached, &ids(&third)[..2]), (8, ids(&first)));
    assert_eq!(blocks.num_used(), 4);
    audit(&blocks, &[&first, &second, &third]).unwrap();
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
    blocks.tokens[ids(&first)[0] as usize * BLOCK_SIZE] = 9; // as if other tokens had the same hash
    let (_, cached) = compute(&mut blocks, &PrefixScope::Shared, &[1, 2, 3, 4, 5]);
    assert_eq!(cached, 0);
}

#[test]
fn freed_blocks_are_found_until_reused_oldest_first() {
    let mut blocks = manager(3);
    let (mut old, _) = compute(&mut blocks, &PrefixScope::Shared, &[1, 1, 1, 1]);
    let (mut new, _) = compute(&mut blocks, &PrefixScope::Shared, &[2, 2, 2, 2]);
    blocks.free(&mut old);
    blocks.free(&mut new);
    assert_eq!(blocks.num_used(), 0);
    audit(&blocks, &[]).unwrap();

    // Takes the block that never had contents, then the one freed first.
    let (mut other, _) = compute(&mut blocks, &PrefixScope::Shared, &[3, 3, 3, 3, 3]);
    blocks.free(&mut other);
    let (_again, cached) = compute(&mut blocks, &PrefixScope::Shared, &[2, 2, 2, 2, 2]);
    assert_eq!(cached, 4);
    let (_again, cached) = compute(&mut blocks, &PrefixScope::Request(0), &[0]);
    assert_eq!(cached, 0);
    assert_eq!(blocks.allocate(&mut shared(&blocks), &[0], usize::MAX, 0), None, "all are in use");
}

#[test]
fn the_end_of_a_prefix_is_reused_before_its_beginning() {
    let mut blocks = manager(4);
    let tokens: Vec<u32> = (0..12).collect();
    let (mut table, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    blocks.free(&mut table);
    let (mut other, _) = compute(&mut blocks, &PrefixScope::Request(0), &[9; 8]);
    blocks.free(&mut other);
    let (_, cached) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    assert_eq!(cached, 8);
}

#[test]
fn a_newcomer_leaves_headroom_or_changes_nothing() {
    let mut blocks = manager(4);
    let tokens: Vec<u32> = (0..12).collect();
    let (mut table, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    blocks.free(&mut table);
    for headroom in [2, 3] {
        assert_eq!(blocks.allocate(&mut table, &tokens, usize::MAX, headroom), None);
        assert!(ids(&table).is_empty());
        audit(&blocks, &[]).unwrap();
    }
    assert_eq!(blocks.allocate(&mut table, &tokens, usize::MAX, 1), Some(8));
    assert!(blocks.grow(&mut table, 16));
    assert!(!blocks.grow(&mut table, 17));
}

#[test]
fn max_cached_limits_what_is_reused() {
    let mut blocks = manager(8);
    let tokens: Vec<u32> = (0..12).collect();
    let (_first, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    let mut table = shared(&blocks);
    assert_eq!(blocks.allocate(&mut table, &tokens, 7, 0), Some(4));
    blocks.free(&mut table);
    assert_eq!(blocks.allocate(&mut table, &tokens, 0, 0), Some(0));
}

#[test]
fn the_audit_notices_a_lost_block() {
    let mut blocks = manager(2);
    let (table, _) = compute(&mut blocks, &PrefixScope::Shared, &[1]);
    assert!(audit(&blocks, &[&table]).is_ok());
    assert!(audit(&blocks, &[]).unwrap_err().contains("counts 1 references but has 0"));
}

const SLIDING: KvReach = KvReach::Sliding { window: 6 };

/// Computes a sequence in steps of `MAX_ROWS`, as the scheduler does. Returns how many tokens were cached.
fn compute_in_steps(manager: &mut BlockManager, tokens: &[u32]) -> (BlockTable, usize) {
    let mut table = manager.new_table(&PrefixScope::Shared);
    let cached = manager.allocate(&mut table, tokens, usize::MAX, 0).unwrap();
    let mut computed = cached;
    while computed < tokens.len() {
        manager.free_unseen(&mut table, tokens, computed);
        assert!(manager.grow(&mut table, tokens.len()));
        manager.check_integrity([(&table, computed)].into_iter()).unwrap();
        computed = tokens.len().min(computed + MAX_ROWS);
        manager.cache_full_blocks(&mut table, tokens, computed);
    }
    (table, cached)
}

#[test]
fn what_lies_behind_a_window_is_given_back() {
    // 6 + 7 positions are in at most 4 KV blocks.
    let mut blocks = manager_of(20 + 4, &[KvReach::Full, SLIDING]);
    let tokens: Vec<u32> = (0..80).collect();
    let (mut table, _) = compute_in_steps(&mut blocks, &tokens);
    blocks.free_unseen(&mut table, &tokens, 80);
    let [full, sliding] = table.groups() else { panic!() };
    assert_eq!((full.first, full.ids().len()), (0, 20));
    // The row at 80 sees 75 to 80.
    assert_eq!((sliding.first, sliding.ids().len(), blocks.num_used()), (18, 20, 22));
    assert!(sliding.ids()[..18].iter().all(|&id| id == NO_BLOCK));
    assert!(blocks.grow(&mut table, 84));
    assert!(!blocks.grow(&mut table, 85), "two groups need a KV block each");
    blocks.free(&mut table);
    assert_eq!((blocks.num_used(), audit(&blocks, &[])), (0, Ok(())));
}

#[test]
fn a_prefix_is_found_where_the_cache_has_what_is_seen_behind_it() {
    for reaches in [[KvReach::Full, SLIDING], [SLIDING, KvReach::Full], [SLIDING, SLIDING]] {
        let tokens: Vec<u32> = (0..48).collect();
        let longer = |len: usize| -> Vec<u32> { tokens[..len].iter().copied().chain([99; 5]).collect() };
        // Everything is remembered: prefixes of every length.
        let mut blocks = manager_of(60, &reaches);
        let (mut table, _) = compute_in_steps(&mut blocks, &tokens);
        blocks.free(&mut table);
        for len in [48, 21, 4, 3] {
            let (mut table, cached) = compute_in_steps(&mut blocks, &longer(len));
            assert_eq!(cached, len / BLOCK_SIZE * BLOCK_SIZE, "{reaches:?}");
            blocks.free(&mut table);
        }
        // The middle of a window's prefix is reused first; its end is still there, and what is seen behind it.
        let room = blocks.groups.blocks_for(48) as u32;
        let mut blocks = manager_of(room, &reaches);
        let (mut table, _) = compute_in_steps(&mut blocks, &tokens);
        blocks.free(&mut table);
        let (mut table, cached) = compute_in_steps(&mut blocks, &longer(21));
        assert_eq!(cached, 0, "{reaches:?}: its window was reused");
        blocks.free(&mut table);
        let mut blocks = manager_of(room + 2, &reaches);
        let (mut table, _) = compute_in_steps(&mut blocks, &tokens);
        blocks.free(&mut table);
        let (_, cached) = compute_in_steps(&mut blocks, &longer(48));
        assert_eq!(cached, 48, "{reaches:?}");
    }
}

#[test]
fn groups_do_not_find_each_others_blocks() {
    let mut blocks = manager_of(12, &[KvReach::Full, KvReach::Full]);
    let tokens: Vec<u32> = (0..9).collect();
    let (first, _) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    let (second, cached) = compute(&mut blocks, &PrefixScope::Shared, &tokens);
    assert_eq!(cached, 8);
    for group in 0..2 {
        assert_eq!(first.groups()[group].ids()[..2], second.groups()[group].ids()[..2]);
    }
    assert_ne!(first.groups()[0].ids()[..2], first.groups()[1].ids()[..2]);
    audit(&blocks, &[&first, &second]).unwrap();
}
