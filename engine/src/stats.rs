//! What the engine tells about itself while it runs.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A snapshot of the engine: gauges, and counters since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Sequences that hold KV blocks.
    pub running_sequences: usize,
    /// Sequences that wait for their turn or, preempted, for their next. A request's choices beyond the first
    /// count from when its prompt is computed.
    pub waiting_sequences: usize,
    /// KV blocks of the cache, each of which holds some tokens for one group of layers.
    pub kv_blocks_total: usize,
    /// KV blocks held by sequences; those that only the prefix cache remembers do not count.
    pub kv_blocks_used: usize,
    /// Prompt tokens of requests, computed or taken from the prefix cache.
    pub prompt_tokens: u64,
    /// Those of them that came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Tokens sampled.
    pub output_tokens: u64,
    /// Times that a sequence lost its KV blocks to an older one.
    pub preemptions: u64,
    /// Steps computed.
    pub steps: u64,
    /// Those of them that were started while the one before was computed.
    pub steps_ahead: u64,
    /// Requests that ended in [`Event::Finished`](crate::Event::Finished).
    pub requests_finished: u64,
    /// Requests whose stream was dropped before its final event.
    pub requests_aborted: u64,
    /// Requests that ended in [`Event::Failed`](crate::Event::Failed).
    pub requests_failed: u64,
    /// Tokens that sequences looked for in the prefix cache when they first ran.
    pub prefix_cache_queries: u64,
    /// Tokens found.
    pub prefix_cache_hits: u64,
    /// Time since the last completed step while work is waiting or running; zero when idle.
    pub stalled_for: Duration,
    /// Set when the engine cannot go on.
    pub fatal: Option<String>,
}

/// The engine's thread writes it after every step; everyone may read it.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stats: Stats,
    /// When the last step ended, or work came to an idle engine; `None` while idle.
    busy_since: Option<Instant>,
}

impl Progress {
    /// Notes the state after a step, and whether there is more to do.
    pub fn update(&self, stats: Stats, idle: bool, now: Instant) {
        let mut state = self.lock();
        state.stats = stats;
        state.busy_since = (!idle).then_some(now);
    }

    /// Notes that the engine cannot go on, and how many requests that ends.
    pub fn set_fatal(&self, reason: String, requests: usize) {
        let mut state = self.lock();
        state.busy_since = None;
        state.stats.requests_failed += requests as u64;
        state.stats.fatal = Some(reason);
    }

    /// Why the engine cannot go on, if so.
    pub fn fatal(&self) -> Option<String> {
        self.lock().stats.fatal.clone()
    }

    /// The state as of `now`.
    pub fn snapshot(&self, now: Instant) -> Stats {
        let state = self.lock();
        let stalled_for =
            state.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Stats { stalled_for, ..state.stats.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every write leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_there_is_work() {
        let (progress, start) = (Progress::default(), Instant::now());
        let later = start + Duration::from_secs(5);
        assert_eq!(progress.snapshot(later).stalled_for, Duration::ZERO);
        progress.update(Stats { steps: 1, ..Stats::default() }, false, start);
        assert_eq!(progress.snapshot(later).stalled_for, Duration::from_secs(5));
        progress.update(Stats { steps: 2, ..Stats::default() }, true, later);
        assert_eq!(progress.snapshot(later).stalled_for, Duration::ZERO);
        assert_eq!(progress.snapshot(later).steps, 2);
    }

    #[test]
    fn a_fatal_fault_counts_the_requests_it_ends() {
        let progress = Progress::default();
        progress.update(Stats { requests_failed: 1, ..Stats::default() }, false, Instant::now());
        progress.set_fatal("lost".into(), 2);
        assert_eq!(progress.fatal().as_deref(), Some("lost"));
        let stats = progress.snapshot(Instant::now() + Duration::from_secs(1));
        assert_eq!((stats.requests_failed, stats.stalled_for), (3, Duration::ZERO));
    }
}
