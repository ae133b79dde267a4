//! Whose turn it is. Pure: no clock, no randomness, no device.
//!
//! Every step goes first to running sequences that decode, one token each; then to running prefills; then to
//! waiting sequences, strictly in order of age. A sequence enters with room for all its tokens, so that only
//! decodes need more. When none is left the youngest running sequence gives its KV blocks back and waits again,
//! to be recomputed; so the oldest can always go on, and since one sequence alone always fits, everyone ends.
//!
//! A step can be planned *ahead*, while the one before it is computed: then what that step computes counts as
//! computed, and the tokens that it draws as there, though nobody knows them yet.

use std::{collections::VecDeque, ops::Range};

use crate::{
    block_manager::BlockManager,
    sequence::{RequestId, Sequence, SequenceId},
};

/// One running sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub id: SequenceId,
    /// Which of its tokens are computed.
    pub positions: Range<usize>,
}

/// Waiting and running sequences, and the KV blocks they share.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_batch_tokens: usize,
    max_sequences: usize,
    pub blocks: BlockManager,
    /// Oldest first.
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    /// Of `max_sequences` slots on the device those that no running sequence has.
    free_slots: Vec<u32>,
    counters: SchedulerCounters,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedulerCounters {
    /// Times that a sequence lost its KV blocks to an older one.
    pub preemptions: u64,
    /// Tokens of sequences that ran for the first time and looked into the prefix cache, and those found there.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
}

impl Scheduler {
    /// Steps of at most `max_batch_tokens`, and never more sequences than that, so that each advances in each step.
    pub fn new(blocks: BlockManager, max_batch_tokens: usize, max_sequences: usize) -> Scheduler {
        let max_sequences = max_sequences.clamp(1, max_batch_tokens.max(1));
        Scheduler {
            max_batch_tokens: max_batch_tokens.max(1),
            max_sequences,
            free_slots: (0..max_sequences as u32).rev().collect(),
            blocks,
            waiting: VecDeque::new(),
            running: Vec::new(),
            counters: SchedulerCounters::default(),
        }
    }

    /// Lets a sequence wait for its turn.
    pub fn enqueue(&mut self, sequence: Sequence) {
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
    }

    /// Plans the next step into `plan`, and counts its tokens as computed. A step `ahead` of results takes nobody's KV
    /// blocks, into which the step before may still write: its plan stays empty when they do not suffice.
    pub fn schedule(&mut self, plan: &mut Vec<Scheduled>, ahead: bool) {
        plan.clear();
        if ahead && !self.decodes_fit() {
            return;
        }
        let mut budget = self.max_batch_tokens;
        let preemptions = self.counters.preemptions;
        self.schedule_decodes(plan, &mut budget);
        self.schedule_prefills(plan, &mut budget);
        // Whoever was just preempted must not take back what it gave.
        if self.counters.preemptions == preemptions {
            self.admit_waiting(plan, &mut budget);
        }
    }

    /// The sequences that run, oldest first.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The running sequence `id`.
    pub fn running_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        let index = self.index(id)?;
        Some(&mut self.running[index])
    }

    fn index(&self, id: SequenceId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |sequence| sequence.id).ok()
    }

    /// The sequences that wait, oldest first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &Sequence> {
        self.waiting.iter()
    }

    /// Notes that `scheduled` was computed, and offers full KV blocks to the prefix cache. A token may then be added
    /// to the sequence; there is none when it was removed meanwhile.
    pub fn commit(&mut self, scheduled: &Scheduled) -> Option<&mut Sequence> {
        let index = self.index(scheduled.id)?;
        let sequence = &mut self.running[index];
        self.blocks.publish(&mut sequence.kv, &sequence.tokens, scheduled.positions.end);
        Some(sequence)
    }

    /// Removes sequences for which `keep` is false and returns their KV blocks.
    pub fn retain(&mut self, keep: impl Fn(SequenceId) -> bool) {
        let Scheduler { running, blocks, free_slots, .. } = self;
        running.retain_mut(|sequence| {
            let kept = keep(sequence.id);
            if !kept {
                blocks.release(&mut sequence.kv);
                free_slots.push(sequence.slot);
            }
            kept
        });
    }

    /// Removes all sequences of a request.
    pub fn remove(&mut self, request: RequestId) {
        self.waiting.retain(|sequence| sequence.id.request != request);
        self.retain(|id| id.request != request);
    }

    /// What happened so far.
    pub fn counters(&self) -> SchedulerCounters {
        self.counters
    }

    /// Audits the order of waiting sequences, the slots and all KV block bookkeeping.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity(&self) -> Result<(), String> {
        if !self.waiting.iter().is_sorted_by(|older, younger| older.id < younger.id) {
            return Err("the waiting sequences are not in order of age".into());
        }
        let holding = |sequence: &&Sequence| sequence.num_computed > 0 || !sequence.kv.blocks().is_empty();
        if let Some(sequence) = self.waiting.iter().find(holding) {
            return Err(format!("{:?} waits but holds KV blocks", sequence.id));
        }
        let taken = self.running.iter().map(|sequence| sequence.slot);
        let mut slots: Vec<u32> = taken.chain(self.free_slots.iter().copied()).collect();
        slots.sort_unstable();
        if !slots.iter().copied().eq(0..self.max_sequences as u32) {
            return Err(format!("slots are lost or shared: {slots:?}"));
        }
        self.blocks.check_integrity(self.running.iter().map(|sequence| &sequence.kv))
    }

    /// Without preemption there is room for every decode.
    fn decodes_fit(&self) -> bool {
        let decodes = self.running.iter().filter(|sequence| sequence.num_uncomputed() == 1);
        let missing = decodes.map(|sequence| self.blocks.num_missing(&sequence.kv, sequence.num_tokens()));
        missing.sum::<usize>() <= self.blocks.num_free()
    }

    fn schedule_decodes(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        let mut index = 0;
        // Preemption shortens `running` from the end, behind everything that is planned already.
        while index < self.running.len() {
            if self.running[index].num_uncomputed() == 1 && self.make_room(index) {
                plan.push(self.running[index].take_turn(budget));
            }
            index += 1;
        }
    }

    /// Gives sequence `index` room for all its tokens, preempting the youngest. False when that was itself.
    fn make_room(&mut self, index: usize) -> bool {
        loop {
            let sequence = &mut self.running[index];
            let num_tokens = sequence.num_tokens();
            if self.blocks.grow(&mut sequence.kv, num_tokens) {
                return true;
            }
            let Some(youngest) = self.running.pop() else { return false };
            self.preempt(youngest);
            if index == self.running.len() {
                return false;
            }
        }
    }

    fn preempt(&mut self, mut sequence: Sequence) {
        debug_assert_eq!(sequence.num_pending, 0, "preempted while a step is in flight");
        self.blocks.release(&mut sequence.kv);
        self.free_slots.push(sequence.slot);
        sequence.num_computed = 0;
        self.counters.preemptions += 1;
        self.enqueue(sequence);
    }

    fn schedule_prefills(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.num_uncomputed() > 1) {
            if *budget > 0 {
                plan.push(sequence.take_turn(budget));
            }
        }
    }

    fn admit_waiting(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.max_sequences {
            // A free KV block for each running sequence: else a newcomer would soon be preempted again.
            let headroom = self.running.len();
            let (Some(sequence), Some(&slot)) = (self.waiting.front_mut(), self.free_slots.last()) else {
                return;
            };
            let (tokens, max_cached) = (&sequence.tokens, sequence.max_cached);
            let Some(num_cached) = self.blocks.open(&mut sequence.kv, tokens, max_cached, headroom) else {
                return;
            };
            sequence.num_computed = num_cached;
            (sequence.slot, sequence.slot_is_loaded) = (slot, false);
            if sequence.num_cached.is_none() {
                sequence.num_cached = Some(num_cached);
                self.counters.prefix_queries += tokens.len().min(max_cached) as u64;
                self.counters.prefix_hits += num_cached as u64;
            }
            plan.push(sequence.take_turn(budget));
            self.free_slots.pop();
            let place = self.running.partition_point(|other| other.id < sequence.id);
            if let Some(sequence) = self.waiting.pop_front() {
                self.running.insert(place, sequence);
            }
        }
    }
}

impl Sequence {
    /// Computes as much of itself as `budget` tokens allow.
    fn take_turn(&mut self, budget: &mut usize) -> Scheduled {
        let first = self.num_computed;
        self.num_computed += self.num_uncomputed().min(*budget);
        *budget -= self.num_computed - first;
        Scheduled { id: self.id, positions: first..self.num_computed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix_hash::PrefixScope;

    const BLOCK_SIZE: usize = 4;

    fn scheduler(num_blocks: u32, max_batch_tokens: usize, max_sequences: usize) -> Scheduler {
        Scheduler::new(BlockManager::new(num_blocks, BLOCK_SIZE), max_batch_tokens, max_sequences)
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
        // Request 1 ends with what is being drawn.
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
}
