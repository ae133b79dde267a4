//! Whose turn it is. Pure: no clock, no randomness, no device.
//!
//! Every step goes first to running sequences that decode, one token each; then to running prefills; then to
//! waiting sequences, strictly in order of age. A sequence enters with room for all its tokens, so that only
//! decodes need more. When none is left the youngest running sequence gives its KV blocks back and waits again,
//! to be recomputed; so the oldest can always go on, and since one sequence alone always fits, everyone ends.

use std::collections::VecDeque;

use crate::{
    block_manager::BlockManager,
    sequence::{RequestId, Sequence, SequenceId},
};

/// One running sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// Index among the running sequences.
    pub index: usize,
    /// Tokens to compute, from the sequence's `num_computed` on.
    pub num_tokens: usize,
}

/// Waiting and running sequences, and the KV blocks they share.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_batch_tokens: usize,
    max_sequences: usize,
    pub blocks: BlockManager,
    /// Oldest first.
    waiting: VecDeque<Sequence>,
    /// Oldest first, but that those which entered in the last step stand at the end.
    running: Vec<Sequence>,
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
        Scheduler {
            max_batch_tokens: max_batch_tokens.max(1),
            max_sequences: max_sequences.clamp(1, max_batch_tokens.max(1)),
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

    /// Plans the next step into `plan`. Its indices hold until [`Scheduler::finish_step`].
    pub fn schedule(&mut self, plan: &mut Vec<Scheduled>) {
        plan.clear();
        self.running.sort_unstable_by_key(|sequence| sequence.id);
        let mut budget = self.max_batch_tokens;
        let preemptions = self.counters.preemptions;
        self.schedule_decodes(plan, &mut budget);
        self.schedule_prefills(plan, &mut budget);
        // Whoever was just preempted must not take back what it gave.
        if self.counters.preemptions == preemptions {
            self.admit_waiting(plan, &mut budget);
        }
    }

    /// Running sequences, as a plan's indices mean them.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The sequences that wait, oldest first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &Sequence> {
        self.waiting.iter()
    }

    /// Notes that `scheduled` was computed, and offers full KV blocks to the prefix cache. A token may then be added
    /// to the sequence.
    pub fn commit(&mut self, scheduled: Scheduled) -> &mut Sequence {
        let sequence = &mut self.running[scheduled.index];
        sequence.num_computed += scheduled.num_tokens;
        self.blocks.publish(&mut sequence.kv, &sequence.tokens, sequence.num_computed);
        sequence
    }

    /// Ends the step: removes sequences for which `keep` is false and returns their KV blocks.
    pub fn finish_step(&mut self, keep: impl Fn(SequenceId) -> bool) {
        let blocks = &mut self.blocks;
        self.running.retain_mut(|sequence| {
            let kept = keep(sequence.id);
            if !kept {
                blocks.release(&mut sequence.kv);
            }
            kept
        });
    }

    /// Removes all sequences of a request, between steps.
    pub fn remove(&mut self, request: RequestId) {
        self.waiting.retain(|sequence| sequence.id.request != request);
        self.finish_step(|id| id.request != request);
    }

    /// What happened so far.
    pub fn counters(&self) -> SchedulerCounters {
        self.counters
    }

    /// Audits the order of waiting sequences and all KV block bookkeeping.
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
        self.blocks.check_integrity(self.running.iter().map(|sequence| &sequence.kv))
    }

    fn schedule_decodes(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        let mut index = 0;
        // Preemption shortens `running` from the end, behind everything that is planned already.
        while index < self.running.len() {
            if self.running[index].num_uncomputed() == 1 && self.make_room(index) {
                plan.push(Scheduled { index, num_tokens: 1 });
                *budget -= 1;
            }
            index += 1;
        }
    }

    /// Gives sequence `index` room for all its tokens, preempting the youngest. False when that was itself.
    fn make_room(&mut self, index: usize) -> bool {
        loop {
            let sequence = &mut self.running[index];
            if self.blocks.grow(&mut sequence.kv, sequence.tokens.len()) {
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
        self.blocks.release(&mut sequence.kv);
        sequence.num_computed = 0;
        self.counters.preemptions += 1;
        self.enqueue(sequence);
    }

    fn schedule_prefills(&self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        for (index, sequence) in self.running.iter().enumerate() {
            let num_tokens = sequence.num_uncomputed().min(*budget);
            if sequence.num_uncomputed() > 1 && num_tokens > 0 {
                plan.push(Scheduled { index, num_tokens });
                *budget -= num_tokens;
            }
        }
    }

    fn admit_waiting(&mut self, plan: &mut Vec<Scheduled>, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.max_sequences {
            // A free KV block for each running sequence: else a newcomer would soon be preempted again.
            let headroom = self.running.len();
            let Some(sequence) = self.waiting.front_mut() else { return };
            let (tokens, max_cached) = (&sequence.tokens, sequence.max_cached);
            let Some(num_cached) = self.blocks.open(&mut sequence.kv, tokens, max_cached, headroom) else {
                return;
            };
            sequence.num_computed = num_cached;
            if sequence.num_cached.is_none() {
                sequence.num_cached = Some(num_cached);
                self.counters.prefix_queries += tokens.len().min(max_cached) as u64;
                self.counters.prefix_hits += num_cached as u64;
            }
            let num_tokens = sequence.num_uncomputed().min(*budget);
            plan.push(Scheduled { index: self.running.len(), num_tokens });
            *budget -= num_tokens;
            self.running.extend(self.waiting.pop_front());
        }
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
        scheduler.schedule(&mut plan);
        let computed = plan.iter().map(|&scheduled| {
            let sequence = scheduler.commit(scheduled);
            if sequence.num_uncomputed() == 0 {
                sequence.tokens.push(0);
            }
            (sequence.id.request, scheduled.num_tokens)
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
