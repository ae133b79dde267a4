//! Promise 1: the same request gets the same tokens and log-probabilities, to the bit, alone or among others, prefilled
//! whole or in chunks, from a cold cache or a prefix hit, after a preemption, with any number of threads.
//!
//! On the processor the demonstration model runs all of it, on the simulated GPU a smaller one, since there a second
//! is long. Both are bf16, with grouped-query attention, qk-norm and routed experts. On both a model whose sliding windows
//! are shorter than prompts and chunks does the same.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy takes a test file's functions for library code

use std::{env, sync::OnceLock};

use mosu::{
    Engine, EngineOptions, Event, GenerationStream, LoadFormat, ModelSource, PromptInfo, Request, Stats,
    Usage,
};

/// Where the tests run, how much they do there, and what they share.
#[derive(Default)]
struct Setup {
    options: EngineOptions,
    /// What prompts repeat.
    question: &'static str,
    others: &'static [usize],
    chunks: &'static [usize],
    /// Tokens of the answers that are preempted, and tokens for which there are KV blocks then.
    long: usize,
    cache_tokens: usize,
    engine: OnceLock<Engine>,
    expected: OnceLock<Answer>,
    scored: OnceLock<Vec<u32>>,
}

/// The processor.
fn cpu() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| Setup {
        options: EngineOptions {
            threads: Some(2),
            kv_cache_bytes: Some(32 << 20),
            ..EngineOptions::default()
        },
        question: "What is mosu, and how do I serve a model with it on my own machine? 模速是什么？",
        others: &[2, 7, 32],
        chunks: &[1, 16, 64, 4096],
        long: 80,
        cache_tokens: 384,
        ..Setup::default()
    })
}

/// The GPU, where there is one.
fn gpu() -> Option<&'static Setup> {
    static SETUP: OnceLock<Option<Setup>> = OnceLock::new();
    let setup = || {
        Some(Setup {
            options: small(cuda()?, "bfloat16"),
            // Four of them are more than the 256 positions that attention splits contexts into.
            question: "What is mosu, and how do I serve a model with it? 模速是什么",
            others: &[2, 5],
            chunks: &[1, 48, 4096],
            long: 40,
            cache_tokens: 288,
            ..Setup::default()
        })
    };
    SETUP.get_or_init(setup).as_ref()
}

/// A model with sliding windows of 20 tokens on every other layer.
fn sliding(device: &str) -> Setup {
    Setup {
        options: EngineOptions { threads: Some(2), ..small(device, "sliding") },
        question: "What is mosu, and how do I serve a model with it?",
        others: &[2, 5],
        chunks: &[1, 16, 48, 4096],
        long: 40,
        cache_tokens: 208,
        ..Setup::default()
    }
}

fn sliding_cpu() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| sliding("cpu"))
}

fn sliding_gpu() -> Option<&'static Setup> {
    static SETUP: OnceLock<Option<Setup>> = OnceLock::new();
    let setup = || Some(Setup { others: &[3], chunks: &[16, 4096], ..sliding(cuda()?) });
    SETUP.get_or_init(setup).as_ref()
}

/// The simulated GPU, or a real one with `MOSU_TEST_CUDA=real`; `None` where it is not built.
fn cuda() -> Option<&'static str> {
    cusim::for_tests().unwrap().then_some("cuda:0")
}

/// Options of a model with random weights, whose tokens are bytes.
fn small(device: &str, dtype: &str) -> EngineOptions {
    // Asked for when the test runs, so that its program also runs where it was not built.
    let package = env::var("CARGO_MANIFEST_DIR").unwrap();
    let folder = [&package, "tests", "small", dtype].iter().collect();
    EngineOptions {
        source: ModelSource::Directory(folder),
        load_format: LoadFormat::Dummy,
        device: device.into(),
        kv_cache_bytes: Some(1 << 20),
        ..EngineOptions::default()
    }
}

/// Each test on the processor and on the simulated GPU.
macro_rules! on_every_device {
    ($($test:ident)*) => {
        mod on_cpu {
            $(#[test] fn $test() { super::$test(super::cpu()); })*
        }
        mod on_gpu {
            $(#[test] fn $test() { if let Some(setup) = super::gpu() { super::$test(setup); } })*
        }
        mod sliding_on_cpu {
            $(#[test] fn $test() { super::$test(super::sliding_cpu()); })*
        }
        mod sliding_on_gpu {
            $(#[test] fn $test() { if let Some(setup) = super::sliding_gpu() { super::$test(setup); } })*
        }
    };
}
on_every_device! {
    answers_are_long_and_choices_differ
    co_batched_requests_do_not_matter
    chunks_do_not_matter
    a_prefix_hit_does_not_matter
    a_preemption_does_not_matter
    steps_ahead_do_not_matter
}

/// What a caller gets: per choice its token ids, and the bits of all log-probabilities, the prompt's included.
#[derive(Debug, PartialEq)]
struct Answer {
    prompt: Vec<u32>,
    choices: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Setup {
    /// One engine, with steps of up to 512 tokens.
    fn engine(&self) -> &Engine {
        self.engine.get_or_init(|| self.start(|_| ()))
    }

    fn start(&self, change: impl FnOnce(&mut EngineOptions)) -> Engine {
        let mut options = self.options.clone();
        change(&mut options);
        Engine::load(options).unwrap()
    }

    /// Requests of different lengths, greedy and sampled, that start differently.
    fn request(&self, number: usize) -> Request {
        let text = format!("{number}. {}", self.question.repeat(1 + number % 4));
        let mut request = Request::new(self.engine().tokenizer().encode(&text, false).unwrap());
        request.sampling.temperature = (number % 2) as f32;
        request.sampling.top_p = 0.95;
        request.sampling.repetition_penalty = if number % 4 == 3 { 1.1 } else { 1.0 };
        request.sampling.frequency_penalty = if number % 3 == 1 { 0.2 } else { 0.0 };
        request.sampling.seed = Some(number as u64);
        request.stop.max_tokens = Some(20 + number % 7);
        request.stop.ignore_eos = true;
        request.logprobs = Some(3);
        request.prompt_logprobs = number.is_multiple_of(3).then_some(2);
        request.n = 1 + u32::from(number.is_multiple_of(5));
        request
    }

    /// The request that every test looks at: sampled, two choices.
    fn probe(&self) -> Request {
        Request { n: 2, prompt_logprobs: None, ..self.request(3) }
    }

    /// The probe's answer, alone in an engine without a prefix cache.
    fn expected(&self) -> &Answer {
        self.expected.get_or_init(|| {
            let engine = self.start(|options| options.prefix_cache = false);
            answer(&engine, self.probe())
        })
    }

    /// Bits of the log-probabilities of the probe's prompt.
    fn scored_prompt(&self) -> &[u32] {
        self.scored.get_or_init(|| {
            answer(self.engine(), Request { prompt_logprobs: Some(2), ..self.probe() }).prompt
        })
    }
}

fn bits(logprob: &mosu::TokenLogprobs) -> impl Iterator<Item = u32> {
    assert!(logprob.logprob.is_finite());
    let top = logprob.top.iter().flat_map(|(id, logprob)| [*id, logprob.to_bits()]);
    [logprob.logprob.to_bits(), logprob.rank].into_iter().chain(top.collect::<Vec<_>>())
}

fn collect(stream: GenerationStream) -> (Answer, Usage) {
    let mut answer = Answer { prompt: Vec::new(), choices: Vec::new() };
    for event in stream {
        match event {
            Event::Prompt(PromptInfo { logprobs, .. }) => {
                answer.prompt.extend(logprobs.iter().flatten().flatten().flat_map(bits));
            }
            Event::Output { index, tokens, .. } => {
                let index = index as usize;
                answer.choices.resize_with(answer.choices.len().max(index + 1), Default::default);
                let (ids, logprobs) = &mut answer.choices[index];
                ids.extend(tokens.iter().map(|token| token.id));
                logprobs.extend(tokens.iter().filter_map(|token| token.logprobs.as_ref()).flat_map(bits));
            }
            Event::Finished(usage) => return (answer, usage),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a stream ended without a final event")
}

fn answer(engine: &Engine, request: Request) -> Answer {
    collect(engine.generate(request).unwrap()).0
}

/// The answers of requests that run together.
fn together(engine: &Engine, requests: Vec<Request>) -> Vec<Answer> {
    let streams: Vec<_> = requests.into_iter().map(|request| engine.generate(request).unwrap()).collect();
    streams.into_iter().map(|stream| collect(stream).0).collect()
}

fn answers_are_long_and_choices_differ(setup: &Setup) {
    let Answer { choices, .. } = setup.expected();
    assert!(choices.iter().all(|(ids, logprobs)| ids.len() == 23 && logprobs.len() == 23 * 8), "{choices:?}");
    assert_ne!(choices[0].0, choices[1].0);
}

fn co_batched_requests_do_not_matter(setup: &Setup) {
    let engine = setup.engine();
    for &others in setup.others {
        let requests = || (0..others).map(|number| setup.request(number));
        let alone: Vec<Answer> = requests().map(|request| answer(engine, request)).collect();
        let found = together(engine, requests().chain([setup.probe()]).collect());
        assert_eq!(found[..others], alone, "{others} together");
        assert_eq!(&found[others], setup.expected(), "the probe among {others}");
    }
}

fn chunks_do_not_matter(setup: &Setup) {
    for &max_batch_tokens in setup.chunks {
        let engine = setup.start(|options| options.max_batch_tokens = Some(max_batch_tokens));
        assert_eq!(&answer(&engine, setup.probe()), setup.expected(), "steps of {max_batch_tokens}");
        let scored = Request { prompt_logprobs: Some(2), ..setup.probe() };
        let scored = answer(&engine, scored);
        assert_eq!(&scored.choices, &setup.expected().choices, "scored in steps of {max_batch_tokens}");
        assert_eq!(scored.prompt, setup.scored_prompt(), "prompt in steps of {max_batch_tokens}");
    }
}

fn a_prefix_hit_does_not_matter(setup: &Setup) {
    let engine = setup.start(|_| ());
    for expect_hit in [false, true, true] {
        let (found, usage) = collect(engine.generate(setup.probe()).unwrap());
        assert_eq!(usage.cached_tokens > 0, expect_hit);
        assert_eq!(&found, setup.expected());
    }
}

/// Steps that are started before the results of the one before are known, which the processor does not do.
fn steps_ahead_do_not_matter(setup: &Setup) {
    let run = |overlap| {
        let engine = setup.start(|options| options.overlap = overlap);
        let requests = (0..6).map(|number| setup.request(number)).chain([setup.probe()]);
        let answers = together(&engine, requests.collect());
        (answers, engine.stats().steps_ahead > 0)
    };
    let ((ahead, some_ahead), (in_turn, none_ahead)) = (run(true), run(false));
    assert_eq!(ahead, in_turn);
    assert_eq!((some_ahead, none_ahead), (setup.options.device.starts_with("cuda"), false));
    assert_eq!(ahead.last(), Some(setup.expected()));
}

/// Five requests, and KV blocks for three.
fn a_preemption_does_not_matter(setup: &Setup) {
    let long = |number| {
        let mut request = Request { n: 1, ..setup.request(number) };
        request.stop.max_tokens = Some(setup.long);
        request
    };
    let requests = || [4, 8, 12, 16, 20].map(long);
    let bytes_per_token = setup.engine().model_info().kv_bytes_per_token as usize;
    let engine = setup.start(|options| {
        options.max_model_len = Some(setup.cache_tokens);
        options.kv_cache_bytes = Some(setup.cache_tokens * bytes_per_token);
    });
    let expected: Vec<Answer> = requests().map(|request| answer(setup.engine(), request)).into();
    let found = together(&engine, requests().into());
    let Stats { preemptions, kv_blocks_total, kv_blocks_used, .. } = engine.stats();
    assert!(preemptions > 0, "no sequence was preempted among {kv_blocks_total} KV blocks");
    assert_eq!((found, kv_blocks_used), (expected, 0));
}

/// A prompt of 229 tokens in KV blocks for 160 that all layers see: what lies behind the windows makes room.
#[test]
fn a_prompt_longer_than_all_layers_could_keep_is_answered() {
    for setup in [Some(sliding_cpu()), sliding_gpu()].into_iter().flatten() {
        let mut request = Request { n: 1, ..setup.probe() };
        request.prompt.extend_from_within(..30);
        assert_eq!(request.prompt.len(), 229);
        let bytes_per_token = setup.engine().model_info().kv_bytes_per_token as usize;
        let engine = setup.start(|options| {
            options.max_batch_tokens = Some(16);
            options.kv_cache_bytes = Some(160 * bytes_per_token);
        });
        let most = engine.max_model_len();
        assert_eq!((most, engine.model_info().num_kv_blocks), (256, 20));
        let expected = answer(setup.engine(), request.clone());
        assert_eq!(answer(&engine, request), expected);
        assert_eq!(engine.stats().preemptions, 0);
    }
}

#[test]
fn threads_do_not_matter() {
    for threads in [1, 2, 4] {
        let engine = cpu().start(|options| options.threads = Some(threads));
        assert_eq!(&answer(&engine, cpu().probe()), cpu().expected(), "{threads} threads");
    }
}

/// Without rounding to bf16 the most probable tokens are those of the processor.
#[test]
fn greedy_tokens_in_f32_are_those_of_the_processor() {
    let Some(gpu) = cuda() else { return };
    let tokens = |device: &str| {
        let engine = Engine::load(small(device, "float32")).unwrap();
        let requests = ["What is", "mosu?"].map(|text| {
            let mut request = Request::new(engine.tokenizer().encode(text, false).unwrap());
            request.sampling.temperature = 0.0;
            request.stop.max_tokens = Some(30);
            request
        });
        together(&engine, requests.into()).into_iter().map(|answer| answer.choices).collect::<Vec<_>>()
    };
    let expected = tokens("cpu");
    assert_eq!(expected[0][0].0.len(), 30);
    assert_eq!(tokens(gpu), expected);
}
