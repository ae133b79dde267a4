use mosu_models::{KvGroups, KvReach};

use super::*;
use crate::prefix_hash::PrefixScope;

const BLOCK_SIZE: usize = 4;

fn scheduler(num_blocks: u32, max_batch_tokens: usize, max_sequences: usize) -> Scheduler {
    scheduler_of(&[KvReach::Full], num_blocks, max_batch_tokens, max_sequences)
}

fn scheduler_of(
    reaches: &[KvReach],
    num_blocks: u32,
    max_batch_tokens: usize,
    max_sequences: usize,
) -> Scheduler {
    let groups = KvGroups::new(reaches.into(), BLOCK_SIZE, max_batch_tokens);
    Scheduler::new(BlockManager::new(num_blocks, groups), max_batch_tokens, max_sequences)
}

/// Adds request `request` with a prompt that no other shares.
fn add(scheduler: &mut Scheduler, request: RequestId, prompt_len: usize) {
    let kv = scheduler.blocks.new_table(&PrefixScope::Request(request));
    let prompt = vec![request as u32; prompt_len];
    scheduler.enqueue(Sequence::new(SequenceId { request, choice: 0 }, prompt, kv));
}

/// Plans and commits a step in which every complete sequence draws a token. Returns (request, tokens computed).
fn step(scheduler: &mut Scheduler) -> Vec<(RequestId, usize)> {
    let mut plan = Vec::new();
    scheduler.schedule(&mut plan, false);
    let computed = plan.iter().map(|scheduled| {
        let sequence = scheduler.commit(scheduled).unwrap();
        if sequence.num_uncomputed() == 0 {
            sequence.push(0);
        }
        (sequence.id.request, scheduled.positions.len())
    });
    let computed = computed.collect();
    scheduler.check_integrity().unwrap();
    computed
}

fn waiting(scheduler: &Scheduler) -> Vec<RequestId> {
    scheduler.waiting().map(|sequence| sequence.id.request).collect()
}

#[test]
fn decodes_come_first_then_running_prefills_then_newcomers() {
    let mut scheduler = scheduler(100, 8, 8);
    add(&mut scheduler, 0, 2);
    add(&mut scheduler, 1, 25);
    assert_eq!(step(&mut scheduler), [(0, 2), (1, 6)]);
    add(&mut scheduler, 2, 3);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 7)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 7)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 5), (2, 2)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn newcomers_enter_strictly_in_order() {
    let mut scheduler = scheduler(8, 64, 8);
    add(&mut scheduler, 0, 16);
    step(&mut scheduler);
    add(&mut scheduler, 1, 20);
    add(&mut scheduler, 2, 1);
    assert_eq!(step(&mut scheduler), [(0, 1)], "2 would fit, but it came after 1");
    scheduler.remove(1);
    assert_eq!(step(&mut scheduler), [(0, 1), (2, 1)]);
}

#[test]
fn every_running_sequence_advances_whatever_the_limits() {
    let mut scheduler = scheduler(100, 3, 50);
    (0..5).for_each(|request| add(&mut scheduler, request, 1));
    for _ in 0..4 {
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 1), (2, 1)]);
    }
    assert_eq!(waiting(&scheduler), [3, 4]);
}

#[test]
fn the_youngest_makes_room_and_comes_back_when_there_is_room() {
    let mut scheduler = scheduler(5, 64, 8);
    add(&mut scheduler, 0, 7);
    add(&mut scheduler, 1, 3);
    assert_eq!(step(&mut scheduler), [(0, 7), (1, 3)]);
    add(&mut scheduler, 2, 3);
    // 2 + 1 KV blocks are held; one must stay free for each of the two who run.
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 1)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 1)]);
    for _ in 0..3 {
        step(&mut scheduler);
    }
    assert_eq!(scheduler.blocks.num_used(), 5);
    assert_eq!(step(&mut scheduler), [(0, 1)], "0 needs a fourth KV block");
    assert_eq!((scheduler.counters().preemptions, waiting(&scheduler)), (1, vec![1, 2]));
    scheduler.remove(0);
    assert_eq!(step(&mut scheduler), [(1, 5), (2, 3)], "4 tokens of 1 are still in the prefix cache");
}

#[test]
fn ahead_of_results_nobody_loses_kv_blocks() {
    let mut scheduler = scheduler(3, 64, 8);
    add(&mut scheduler, 0, 3);
    add(&mut scheduler, 1, 3);
    assert_eq!(step(&mut scheduler), [(0, 3), (1, 3)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 1)]);
    let mut plan = Vec::new();
    scheduler.schedule(&mut plan, true);
    assert_eq!(plan, [], "both need a KV block, and one is free");
    assert_eq!(step(&mut scheduler), [(0, 1)]);
    assert_eq!((scheduler.counters().preemptions, waiting(&scheduler)), (1, vec![1]));
}

#[test]
fn a_step_ahead_builds_on_tokens_that_are_being_drawn() {
    let mut scheduler = scheduler(8, 64, 8);
    (0..3).for_each(|request| add(&mut scheduler, request, 3));
    let mut plan = Vec::new();
    scheduler.schedule(&mut plan, false);
    // Request 1 ends with what is being sampled.
    for request in [0, 2] {
        scheduler.running_mut(SequenceId { request, choice: 0 }).unwrap().num_pending += 1;
    }
    scheduler.schedule(&mut plan, true);
    let planned: Vec<_> = plan.iter().map(|part| (part.id.request, part.positions.clone())).collect();
    assert_eq!(planned, [(0, 3..4), (2, 3..4)]);
    scheduler.schedule(&mut plan, true);
    assert_eq!(plan, [], "nobody has a token more");
}

#[test]
fn a_sequence_that_is_alone_fills_the_cache() {
    let mut scheduler = scheduler(3, 64, 8);
    add(&mut scheduler, 0, 1);
    add(&mut scheduler, 1, 1);
    for _ in 0..12 {
        assert_eq!(step(&mut scheduler)[0], (0, 1));
    }
    assert_eq!((scheduler.blocks.num_used(), waiting(&scheduler)), (3, vec![1]));
}

#[test]
fn choices_are_as_old_as_their_request() {
    let mut scheduler = scheduler(100, 64, 1);
    add(&mut scheduler, 0, 4);
    add(&mut scheduler, 1, 4);
    step(&mut scheduler);
    let kv = scheduler.blocks.new_table(&PrefixScope::Request(0));
    scheduler.enqueue(Sequence::new(SequenceId { request: 0, choice: 1 }, vec![0; 4], kv));
    assert_eq!(waiting(&scheduler), [0, 1]);
    scheduler.remove(0);
    assert_eq!((waiting(&scheduler), scheduler.blocks.num_used()), (vec![1], 0));
}

const SLIDING: KvReach = KvReach::Sliding { window: 6 };

#[test]
fn a_long_prompt_gives_back_what_lies_behind_its_windows() {
    // 6 + 7 positions are in at most 4 KV blocks of 4.
    for (reaches, num_blocks) in
        [(&[SLIDING][..], 4), (&[SLIDING, SLIDING], 8), (&[KvReach::Full, SLIDING], 24 + 4)]
    {
        let mut scheduler = scheduler_of(reaches, num_blocks, 8, 8);
        add(&mut scheduler, 0, 80);
        for _ in 0..10 {
            assert_eq!(step(&mut scheduler), [(0, 8)], "{reaches:?}");
        }
        for _ in 0..16 {
            assert_eq!(step(&mut scheduler), [(0, 1)], "{reaches:?}");
        }
        assert_eq!(scheduler.counters().preemptions, 0);
    }
}
