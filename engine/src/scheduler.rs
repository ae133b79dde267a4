//! Whose turn it is. Pure: no clock, no randomness, no device.
//!
//! Every step goes first to running sequences that decode, one token each; then to running prefills; then to
//! waiting sequences, strictly in order of age. A sequence enters with room for all its tokens, or as many as layers
//! with a window see in a step; from then on what lies behind a window makes room for what comes. When none is left the
//! youngest running sequence gives its KV blocks back and waits again, to be recomputed; so the oldest can always go on,
//! and since one sequence alone always fits, everyone ends.
//!
//! A step can be planned *ahead*, while the one before it is computed: then what that step computes counts as
//! computed, and the tokens that it draws as there, though nobody knows them yet.

#[cfg(test)]
mod tests;

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
        self.free_unseen();
        if ahead && !self.has_room() {
            return;
        }
        let preemptions = self.counters.preemptions;
        self.make_room();
        let mut budget = self.max_batch_tokens;
        self.schedule_running(plan, &mut budget, |uncomputed| uncomputed == 1);
        self.schedule_running(plan, &mut budget, |uncomputed| uncomputed > 1);
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
        self.blocks.cache_full_blocks(&mut sequence.kv, &sequence.tokens, scheduled.positions.end);
        Some(sequence)
    }

    /// Removes sequences for which `keep` is false and returns their KV blocks.
    pub fn retain(&mut self, keep: impl Fn(SequenceId) -> bool) {
        let Scheduler { running, blocks, free_slots, .. } = self;
        running.retain_mut(|sequence| {
            let kept = keep(sequence.id);
            if !kept {
                blocks.free(&mut sequence.kv);
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
        let holding = |sequence: &&Sequence| sequence.num_computed > 0 || !sequence.kv.is_empty();
        if let Some(sequence) = self.waiting.iter().find(holding) {
            return Err(format!("{:?} waits but holds KV blocks", sequence.id));
        }
        let taken = self.running.iter().map(|sequence| sequence.slot);
        let mut slots: Vec<u32> = taken.chain(self.free_slots.iter().copied()).collect();
        slots.sort_unstable();
        if !slots.iter().copied().eq(0..self.max_sequences as u32) {
            return Err(format!("slots are lost or shared: {slots:?}"));
        }
        let tables = self.running.iter().map(|sequence| (&sequence.kv, sequence.num_computed));
        self.blocks.check_integrity(tables)
    }

    /// Gives back what lies behind the windows of running sequences.
    fn free_unseen(&mut self) {
        for sequence in &mut self.running {
            self.blocks.free_unseen(&mut sequence.kv, &sequence.tokens, sequence.num_computed);
        }
    }

    /// Without preemption there is room for every running sequence.
    fn has_room(&self) -> bool {
        let missing =
            self.running.iter().map(|sequence| self.blocks.num_missing(&sequence.kv, sequence.num_tokens()));
        missing.sum::<usize>() <= self.blocks.num_free()
    }

    /// Gives every running sequence room for its next rows, the oldest first, preempting the youngest.
    fn make_room(&mut self) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            let num_tokens = sequence.num_tokens();
            if self.blocks.grow(&mut sequence.kv, num_tokens) {
                index += 1;
            } else if let Some(youngest) = self.running.pop() {
                self.preempt(youngest);
            }
        }
    }

    fn preempt(&mut self, mut sequence: Sequence) {
        debug_assert_eq!(sequence.num_pending, 0, "preempted while a step is in flight");
        self.blocks.free(&mut sequence.kv);
        self.free_slots.push(sequence.slot);
        sequence.num_computed = 0;
        self.counters.preemptions += 1;
        self.enqueue(sequence);
    }

    /// Plans the running sequences of which so many tokens are uncomputed, as far as `budget` reaches.
    fn schedule_running(
        &mut self,
        plan: &mut Vec<Scheduled>,
        budget: &mut usize,
        wanted: impl Fn(usize) -> bool,
    ) {
        for sequence in self.running.iter_mut().filter(|sequence| wanted(sequence.num_uncomputed())) {
            if *budget > 0 {
                plan.push(sequence.take_turn(budget));
            }
        }
    }

    fn admit_waiting(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.max_sequences {
            // What each running sequence takes next stays free: else a newcomer would soon be preempted again.
            let headroom = self.running.len() * self.blocks.num_groups();
            let (Some(sequence), Some(&slot)) = (self.waiting.front_mut(), self.free_slots.last()) else {
                return;
            };
            let (tokens, max_cached) = (&sequence.tokens, sequence.max_cached);
            let Some(num_cached) = self.blocks.allocate(&mut sequence.kv, tokens, max_cached, headroom)
            else {
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
