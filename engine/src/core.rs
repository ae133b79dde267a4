//! All mutable state of a running engine, and what a step does to it: schedule, build the batch, compute, commit.
//!
//! On a device that computes by itself the next step is scheduled and queued before this one's results are waited for,
//! so that the device has no pause between them. What a step draws is then input of the next one without having been
//! seen here. A sequence whose token turns out to end it has computed one row in vain, which nobody is told of.
//!
//! Nothing here knows a clock, a thread or a channel, and randomness is an input: the simulation drives this.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    iter, mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use mosu_models::{Batch, StepOutput};

use crate::{
    Event, RequestError, Stats,
    active_request::{ActiveRequest, OutputProcessor, Submission},
    build_batch::build_batch,
    sampling::SplitMix64,
    scheduler::{Scheduled, Scheduler},
    sequence::{RequestId, Sequence, SequenceId},
};

/// What computes steps, in the order in which they are started. Errors are the device's, as text; the engine cannot go on
/// after one.
pub(crate) trait StepModel: Send {
    /// Starts a step. One more may be in flight.
    ///
    /// # Errors
    /// See above.
    fn start(&mut self, batch: &Batch) -> Result<(), String>;

    /// Waits for the oldest step in flight, and writes one entry to `output` per logit row of its batch.
    ///
    /// # Errors
    /// See above.
    fn finish(&mut self, output: &mut StepOutput) -> Result<(), String>;
}

/// What an engine's core is made of.
pub(crate) struct CoreParts {
    pub model: Box<dyn StepModel>,
    pub processor: OutputProcessor,
    pub scheduler: Scheduler,
    /// Requests find the prefixes of others.
    pub prefix_cache: bool,
    /// The next step is started while one is computed.
    pub overlap: bool,
    /// Where requests without a seed get theirs.
    pub seeds: SplitMix64,
}

/// The engine's state.
pub(crate) struct Core {
    model: Box<dyn StepModel>,
    processor: OutputProcessor,
    scheduler: Scheduler,
    prefix_cache: bool,
    overlap: bool,
    seeds: SplitMix64,
    requests: BTreeMap<RequestId, ActiveRequest>,
    /// Oldest first; at most two.
    in_flight: VecDeque<Step>,
    /// The last one that was committed, for its memory.
    spare: Step,
    output: StepOutput,
    /// What callers are to be told, in order.
    events: Vec<(RequestId, Event)>,
    counters: Stats,
}

/// A step from its plan to its commit.
#[derive(Default)]
struct Step {
    plan: Vec<Scheduled>,
    batch: Batch,
}

impl Core {
    /// An idle engine.
    pub fn new(parts: CoreParts) -> Core {
        let CoreParts { model, processor, scheduler, prefix_cache, overlap, seeds } = parts;
        Core {
            model,
            processor,
            scheduler,
            prefix_cache,
            overlap,
            seeds,
            requests: BTreeMap::new(),
            in_flight: VecDeque::new(),
            spare: Step::default(),
            output: StepOutput::default(),
            events: Vec::new(),
            counters: Stats::default(),
        }
    }

    /// Accepts a validated request. From here on it gets exactly one final event, unless it is aborted.
    pub fn submit(&mut self, submission: Submission) {
        let id = submission.id;
        let seed = self.seeds.next();
        let new =
            AssertUnwindSafe(|| ActiveRequest::new(submission, seed, self.prefix_cache, &self.processor));
        let (request, prompt) = match catch_unwind(new) {
            Ok(new) => new,
            Err(panic) => {
                self.counters.requests_failed += 1;
                let error = RequestError::Internal(panic_message(&*panic));
                return self.events.push((id, Event::Failed(error)));
            }
        };
        let kv = self.scheduler.blocks.new_table(request.scope());
        let mut sequence = Sequence::new(SequenceId { request: id, choice: 0 }, prompt, kv);
        sequence.max_cached = request.max_cached(0);
        self.requests.insert(id, request);
        self.scheduler.enqueue(sequence);
    }

    /// Forgets a request whose caller is gone.
    pub fn abort(&mut self, id: RequestId) {
        if self.requests.remove(&id).is_some() {
            self.scheduler.remove(id);
            self.counters.requests_aborted += 1;
        }
    }

    /// Ends a request with an error.
    pub fn fail(&mut self, id: RequestId, error: RequestError) {
        if self.requests.remove(&id).is_some() {
            self.scheduler.remove(id);
            self.counters.requests_failed += 1;
            self.events.push((id, Event::Failed(error)));
        }
    }

    /// Ends every request with an error.
    pub fn fail_all(&mut self, error: &RequestError) {
        let ids: Vec<RequestId> = self.requests.keys().copied().collect();
        ids.into_iter().for_each(|id| self.fail(id, error.clone()));
    }

    /// No request is waiting or running, and no step in flight.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.in_flight.is_empty()
    }

    /// Takes what callers are to be told.
    pub fn drain_events(&mut self) -> impl Iterator<Item = (RequestId, Event)> + '_ {
        self.events.drain(..)
    }

    /// Counters and gauges; time is not known here.
    pub fn stats(&self) -> Stats {
        let scheduler = self.scheduler.counters();
        Stats {
            running_sequences: self.scheduler.running().len(),
            waiting_sequences: self.scheduler.waiting().len(),
            kv_blocks_total: self.scheduler.blocks.num_blocks(),
            kv_blocks_used: self.scheduler.blocks.num_used(),
            preemptions: scheduler.preemptions,
            prefix_cache_queries: scheduler.prefix_queries,
            prefix_cache_hits: scheduler.prefix_hits,
            ..self.counters.clone()
        }
    }

    /// Waiting and running sequences.
    #[cfg(test)]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Audits all KV block bookkeeping.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.scheduler.check_integrity()
    }

    /// Commits one step, and sees to it that the device has the next one by then, if that can be known so early.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub fn step(&mut self) -> Result<(), String> {
        if self.in_flight.is_empty() && !self.start()? {
            return Err(format!("{} requests wait but none can advance", self.requests.len()));
        }
        if self.overlap && self.start()? {
            self.counters.steps_ahead += 1;
        }
        self.finish()
    }

    /// Plans a step and hands it to the device. False when there is nothing to do, or not yet.
    fn start(&mut self) -> Result<bool, String> {
        let mut step = mem::take(&mut self.spare);
        self.scheduler.schedule(&mut step.plan, !self.in_flight.is_empty());
        if step.plan.is_empty() {
            self.spare = step;
            return Ok(false);
        }
        self.leave_queue(&step.plan);
        let Core { scheduler, requests, .. } = self;
        build_batch(&mut step.batch, &step.plan, scheduler, requests)?;
        self.model.start(&step.batch)?;
        self.in_flight.push_back(step);
        Ok(true)
    }

    /// Waits for the oldest step in flight and commits it.
    fn finish(&mut self) -> Result<(), String> {
        let Some(mut step) = self.in_flight.pop_front() else { return Ok(()) };
        self.model.finish(&mut self.output)?;
        let (given, asked) = (self.output.rows.len(), step.batch.logit_rows.len());
        if given != asked {
            return Err(format!("the model gave {given} logit rows instead of {asked}"));
        }
        self.commit(&mut step);
        self.spare = step;
        Ok(())
    }

    /// Whoever runs no longer waits.
    fn leave_queue(&mut self, plan: &[Scheduled]) {
        for Scheduled { id, .. } in plan {
            if let Some(request) = self.requests.get_mut(&id.request) {
                request.permit = None;
            }
        }
    }

    /// Takes a step's results to their requests. A request that cannot take them fails alone; one that is gone wants
    /// none.
    fn commit(&mut self, step: &mut Step) {
        let mut failed = Vec::new();
        let Core { scheduler, requests, processor, output, events, counters, .. } = self;
        let Step { plan, batch, .. } = step;
        let mut results = batch.logit_rows.drain(..).zip(&mut output.rows).peekable();
        for (scheduled, &end_row) in plan.iter().zip(&batch.cu_seqlens_q[1..]) {
            let mut own_results = iter::from_fn(|| results.next_if(|(row, _)| row.row < end_row));
            let id = scheduled.id.request;
            let (Some(sequence), Some(request)) = (scheduler.commit(scheduled), requests.get_mut(&id)) else {
                own_results.for_each(drop);
                continue;
            };
            let (usage, prompt_was_known) = (request.usage(), request.prompt_is_known());
            let emit = |event| events.push((id, event));
            let num_computed = scheduled.positions.end;
            let advance = AssertUnwindSafe(|| {
                request.advance(sequence, num_computed, &mut own_results, processor, emit)
            });
            let outcome = catch_unwind(advance).unwrap_or_else(|panic| Err(panic_message(&*panic)));
            own_results.for_each(drop); // a panic may have left some
            if let Err(message) = outcome {
                failed.push((id, message));
                continue;
            }
            counters.output_tokens += (request.usage().completion_tokens - usage.completion_tokens) as u64;
            if !prompt_was_known && request.prompt_is_known() {
                counters.prompt_tokens += usage.prompt_tokens as u64;
                counters.cached_prompt_tokens += request.usage().cached_tokens as u64;
                let prompt = sequence.tokens[..sequence.prompt_len].to_vec();
                add_siblings(scheduler, id, request, &prompt);
            }
        }
        drop(results);
        counters.steps += 1;
        self.finish_requests(&step.plan);
        failed.into_iter().for_each(|(id, message)| self.fail(id, RequestError::Internal(message)));
    }

    /// Ends a step for all who are done.
    fn finish_requests(&mut self, plan: &[Scheduled]) {
        let Core { scheduler, requests, events, .. } = self;
        for Scheduled { id: SequenceId { request: id, .. }, .. } in plan {
            if requests.get(id).is_some_and(ActiveRequest::is_finished)
                && let Some(request) = requests.remove(id)
            {
                events.push((*id, Event::Finished(request.usage())));
                self.counters.requests_finished += 1;
            }
        }
        scheduler.retain(|id| {
            requests.get(&id.request).is_some_and(|request| !request.choice_is_finished(id.choice))
        });
    }
}

/// Lets the other choices of a request wait, whose prompt is computed: they find it in the prefix cache.
fn add_siblings(scheduler: &mut Scheduler, id: RequestId, request: &ActiveRequest, prompt: &[u32]) {
    for choice in 1..request.num_choices() {
        let kv = scheduler.blocks.new_table(request.scope());
        scheduler.enqueue(Sequence::new(SequenceId { request: id, choice }, prompt.to_vec(), kv));
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked without a message".into())
}
