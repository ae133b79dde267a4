//! A seeded simulation of the whole engine but its thread: random arrivals, lengths, aborts and tiny caches against
//! the scripted model, with every promise checked in every step.
//!
//! `MOSU_SIM_STEPS` sets how many steps to run (default 100,000). A failure prints the seed of its episode;
//! `MOSU_SIM_SEED=<seed>` replays that one.

use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    str::FromStr,
    sync::Arc,
};

use crate::{
    Event, Finish, KvReach, OutputToken, PromptInfo, Request, RequestError, Stats, Usage,
    active_request::Submission,
    core::Core,
    queue::Queue,
    sampling::SplitMix64,
    scripted::{FAULT_TOKEN, PANIC_TOKEN, Size},
    sequence::{RequestId, SequenceId},
    validate::{Limits, validate},
};

const DEFAULT_STEPS: u64 = 100_000;
/// Steps in which requests arrive; then the engine runs dry.
const EPISODE_STEPS: u64 = 400;

/// Random choices, from one seed.
struct Dice(SplitMix64);

impl Dice {
    fn up_to(&mut self, bound: usize) -> usize {
        (self.0.next() % (bound as u64 + 1)) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.up_to(count - 1) == 0
    }

    fn reach(&mut self) -> KvReach {
        match self.up_to(3) {
            0 => KvReach::Chunked { chunk: 1 + self.up_to(30) },
            1 => KvReach::Full,
            _ => KvReach::Sliding { window: 1 + self.up_to(20) },
        }
    }

    fn token(&mut self) -> u32 {
        1 + self.up_to(FAULT_TOKEN as usize - 2) as u32
    }
}

/// All that a caller was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    prompt: Option<PromptInfo>,
    choices: BTreeMap<u32, (String, Vec<OutputToken>, Option<Finish>)>,
    end: Option<Result<Usage, RequestError>>,
}

impl Told {
    /// Takes an event; checks that it may come now.
    fn hear(&mut self, event: Event) {
        assert_eq!(self.end, None, "an event after the final one: {event:?}");
        match event {
            Event::Prompt(info) => assert_eq!(self.prompt.replace(info), None, "the prompt is told twice"),
            Event::Output { index, text, tokens, finish } => {
                assert!(self.prompt.is_some(), "output before the prompt");
                let choice = self.choices.entry(index).or_default();
                assert_eq!(choice.2, None, "output of a finished choice");
                choice.0 += &text;
                choice.1.extend(tokens);
                choice.2 = finish;
            }
            Event::Finished(usage) => self.end = Some(Ok(usage)),
            Event::Failed(error) => self.end = Some(Err(error)),
        }
    }

    /// What does not depend on what the prefix cache held.
    fn without_cache(mut self) -> Told {
        self.prompt.iter_mut().for_each(|info| info.cached_tokens = 0);
        self.end.iter_mut().flatten().for_each(|usage| usage.cached_tokens = 0);
        self
    }
}

/// One live request, as its caller sees it.
struct Caller {
    request: Request,
    told: Told,
    /// It must have started by this step.
    must_start: u64,
}

/// A random small engine and its callers.
struct Episode {
    dice: Dice,
    size: Size,
    limits: Limits,
    core: Core,
    queue: Arc<Queue>,
    callers: BTreeMap<RequestId, Caller>,
    prefixes: Vec<Vec<u32>>,
    /// One arrival in this many steps.
    rarity: usize,
    next_id: RequestId,
    step: u64,
    aborted: u64,
    /// The last step, which was one in flight, did not advance this oldest sequence.
    waiting_for: Option<SequenceId>,
}

impl Episode {
    fn new(seed: u64) -> Episode {
        let mut dice = Dice(SplitMix64(seed));
        let reaches: Vec<KvReach> = if dice.one_in(2) {
            vec![KvReach::Full]
        } else {
            (0..=dice.up_to(2)).map(|_| dice.reach()).collect()
        };
        let size = Size {
            num_blocks: (6 + dice.up_to(34) as u32) * reaches.len() as u32,
            block_size: 2 + dice.up_to(3),
            max_batch_tokens: 1 + dice.up_to(31),
            reaches,
            max_sequences: 1 + dice.up_to(7),
            prefix_cache: !dice.one_in(4),
            overlap: !dice.one_in(3),
        };
        let limits = size.limits();
        let longest = limits.max_sequence_tokens() / 2;
        let prefixes = (0..3).map(|_| (0..dice.up_to(longest)).map(|_| dice.token()).collect());
        Episode {
            prefixes: prefixes.collect(),
            rarity: 1 + dice.up_to(12),
            core: Core::new(size.parts(size.model())),
            queue: Queue::new(usize::MAX, usize::MAX),
            callers: BTreeMap::new(),
            limits,
            size,
            dice,
            next_id: 0,
            step: 0,
            aborted: 0,
            waiting_for: None,
        }
    }

    /// Runs to the end; returns what happened.
    fn run(mut self) -> Stats {
        while self.step < EPISODE_STEPS || !self.core.is_idle() {
            if self.step < EPISODE_STEPS && self.dice.one_in(self.rarity) {
                self.arrive();
            }
            if self.dice.one_in(20) {
                self.abort_someone();
            }
            if !self.core.is_idle() {
                self.step_and_check();
            }
            self.step += 1;
        }
        self.check_end();
        self.core.stats()
    }

    /// A request that shares, more often than not, a prefix with others.
    fn arrive(&mut self) {
        let dice = &mut self.dice;
        let longest = self.limits.max_sequence_tokens();
        let mut prompt = self.prefixes[dice.up_to(2)].clone();
        prompt.truncate(if dice.one_in(3) { 0 } else { longest });
        prompt.extend((0..=dice.up_to(longest / 3)).map(|_| dice.token()));
        prompt.truncate(longest - 1);
        let mut request = Request::new(prompt);
        request.sampling.seed = Some(dice.up_to(3) as u64);
        request.sampling.temperature = dice.up_to(1) as f32;
        request.sampling.frequency_penalty = dice.up_to(1) as f32;
        request.sampling.repetition_penalty = 1.0 + dice.up_to(1) as f32 / 2.0;
        request.n = if dice.one_in(3) { 1 + dice.up_to(4) as u32 } else { 1 };
        request.logprobs = dice.one_in(4).then_some(2);
        request.prompt_logprobs = dice.one_in(4).then_some(1);
        request.cache_salt = dice.one_in(5).then(|| "salt".into());
        let room = longest - request.prompt.len();
        request.stop.max_tokens = (!dice.one_in(8)).then(|| 1 + dice.up_to(room - 1));
        request.stop.ignore_eos = dice.one_in(3);
        request.stop.min_tokens = dice.up_to(request.stop.max_tokens.unwrap_or(1)) / 2;
        if dice.one_in(4) {
            request.stop.strings = vec!["AB".into(), "Q".into()];
            request.stop.token_ids = vec![dice.token()];
        }
        if request.prompt_logprobs.is_some() && dice.one_in(3) {
            (request.stop.max_tokens, request.stop.min_tokens) = (Some(0), 0);
        } else if dice.one_in(30) {
            request.sampling.logit_bias = vec![([FAULT_TOKEN, PANIC_TOKEN][dice.up_to(1)], 100.0)];
        }
        self.submit(request);
    }

    fn submit(&mut self, request: Request) {
        let max_tokens = validate(&request, &self.limits).expect("requests fit by construction");
        let id = self.next_id;
        self.next_id += 1;
        // Each older sequence is computed at most twice as the oldest one: its prefill, then its decodes.
        let older: usize = self.callers.values().map(|caller| caller.request.n as usize).sum();
        // With steps in flight, as many turns may pass that only wait for them.
        let turns = if self.size.overlap { 4 } else { 2 };
        let bound = (older + self.size.max_sequences + 1) * turns * self.limits.max_sequence_tokens();
        let caller =
            Caller { request: request.clone(), told: Told::default(), must_start: self.step + bound as u64 };
        self.callers.insert(id, caller);
        let place = self.queue.enter().expect("the queue has no bound here");
        self.core.submit(Submission { id, request, max_tokens, permit: place });
    }

    fn abort_someone(&mut self) {
        let ids: Vec<RequestId> = self.callers.keys().copied().collect();
        if let Some(id) = ids.get(self.dice.up_to(ids.len())) {
            self.core.abort(*id);
            self.callers.remove(id);
            self.aborted += 1;
            self.core.check_integrity().unwrap();
        }
    }

    fn step_and_check(&mut self) {
        let oldest = self.core.scheduler().running().iter().min_by_key(|sequence| sequence.id);
        let oldest = oldest.map(|sequence| (sequence.id, sequence.num_computed));
        self.core.step().unwrap();
        self.core.check_integrity().unwrap();
        if let Some((id, num_computed)) = oldest {
            let after = self.core.scheduler().running().iter().find(|sequence| sequence.id == id);
            let advanced = after.is_none_or(|sequence| sequence.num_computed > num_computed);
            let preempted = self.core.scheduler().waiting().any(|sequence| sequence.id == id);
            let waits = self.size.overlap && !advanced && self.waiting_for != Some(id);
            assert!((advanced || waits) && !preempted, "the oldest running sequence {id:?} did not advance");
            self.waiting_for = waits.then_some(id);
        }
        for (id, event) in self.core.drain_events().collect::<Vec<_>>() {
            let Some(caller) = self.callers.get_mut(&id) else {
                panic!("{event:?} after an abort or the end")
            };
            let last = event.is_final();
            caller.told.hear(event);
            if last && let Some(caller) = self.callers.remove(&id) {
                let poisoned = !caller.request.sampling.logit_bias.is_empty();
                assert_eq!(caller.told.end.as_ref().is_some_and(Result::is_err), poisoned);
                let alone = run_alone(&caller.request, &self.limits, &self.size);
                assert_eq!(caller.told.without_cache(), alone, "{:?}", caller.request);
            }
        }
        for sequence in self.core.scheduler().waiting().filter(|sequence| sequence.num_cached.is_none()) {
            let caller = &self.callers[&sequence.id.request];
            assert!(sequence.id.choice > 0 || self.step < caller.must_start, "{:?} starves", sequence.id);
        }
    }

    fn check_end(&mut self) {
        let stats = self.core.stats();
        assert!(self.callers.is_empty(), "requests without an end");
        assert_eq!(stats.requests_aborted, self.aborted);
        assert_eq!(self.next_id, stats.requests_finished + stats.requests_aborted + stats.requests_failed);
        assert_eq!((stats.kv_blocks_used, stats.running_sequences, stats.waiting_sequences), (0, 0, 0));
        assert_eq!(self.queue.waiting(), (0, 0));
    }
}

/// What the request is told by an engine that has room for it and nothing else to do.
fn run_alone(request: &Request, limits: &Limits, size: &Size) -> Told {
    let tokens = request.n as usize * limits.max_sequence_tokens();
    let num_blocks = (tokens.div_ceil(size.block_size) as u32 + 1) * size.reaches.len() as u32;
    let size = Size {
        num_blocks,
        max_batch_tokens: 1024,
        max_sequences: 128,
        prefix_cache: false,
        overlap: false,
        ..size.clone()
    };
    let mut core = Core::new(size.parts(size.model()));
    let place = Queue::new(usize::MAX, usize::MAX).enter().unwrap();
    let max_tokens = validate(request, limits).unwrap();
    core.submit(Submission { id: 0, request: request.clone(), max_tokens, permit: place });
    let mut told = Told::default();
    while !core.is_idle() {
        core.step().unwrap();
        core.drain_events().for_each(|(_, event)| told.hear(event));
    }
    told.without_cache()
}

fn from_env<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn run_episode(seed: u64) -> Stats {
    let run = AssertUnwindSafe(|| Episode::new(seed).run());
    catch_unwind(run).unwrap_or_else(|panic| {
        eprintln!("the simulation failed; replay it with MOSU_SIM_SEED={seed}");
        resume_unwind(panic)
    })
}

#[test]
fn every_promise_holds_in_every_step() {
    if let Some(seed) = from_env("MOSU_SIM_SEED") {
        run_episode(seed);
        return;
    }
    let wanted = from_env("MOSU_SIM_STEPS").unwrap_or(DEFAULT_STEPS);
    let mut total = Stats::default();
    for seed in 0.. {
        if total.steps >= wanted {
            break;
        }
        let stats = run_episode(seed);
        total.steps += stats.steps;
        total.steps_ahead += stats.steps_ahead;
        total.preemptions += stats.preemptions;
        total.cached_prompt_tokens += stats.cached_prompt_tokens;
        total.requests_finished += stats.requests_finished;
        total.requests_aborted += stats.requests_aborted;
        total.requests_failed += stats.requests_failed;
    }
    println!("{total:?}");
    // What never happened was not tested.
    let ends = [total.requests_finished, total.requests_aborted, total.requests_failed];
    let often = [total.preemptions, total.cached_prompt_tokens].into_iter().chain(ends);
    assert!(often.min() > Some(wanted / 1000), "{total:?}");
    assert!(total.steps_ahead > total.steps / 4, "{total:?}");
}
