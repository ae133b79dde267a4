//! Promise 1: the same request gets the same tokens and log-probabilities, to the bit, alone or in company, prefilled
//! whole or in chunks, from a cold cache or a prefix hit, after a preemption, with any number of threads.
//!
//! The demonstration model runs all of it: bf16, grouped-query attention, qk-norm, routed experts.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy takes a test file's functions for library code

use std::sync::OnceLock;

use mosu::{Engine, EngineOptions, Event, GenerationStream, PromptInfo, Request, Stats, Usage};

const QUESTION: &str = "What is mosu, and how do I serve a model with it on my own machine? 模速是什么？";

/// What a caller gets: per choice its token ids, and the bits of all log-probabilities, the prompt's included.
#[derive(Debug, PartialEq)]
struct Answer {
    prompt: Vec<u32>,
    choices: Vec<(Vec<u32>, Vec<u32>)>,
}

/// One engine, 2 threads, steps of up to 512 tokens.
fn shared_engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| start(|_| ()))
}

fn start(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options =
        EngineOptions { threads: Some(2), kv_cache_bytes: Some(32 << 20), ..EngineOptions::default() };
    change(&mut options);
    Engine::load(options).unwrap()
}

/// Requests of different lengths, greedy and sampled, that start differently.
fn request(engine: &Engine, number: usize) -> Request {
    let text = format!("{number}. {}", QUESTION.repeat(1 + number % 4));
    let mut request = Request::new(engine.tokenizer().encode(&text, false).unwrap());
    request.sampling.temperature = (number % 2) as f32;
    request.sampling.top_p = 0.95;
    request.sampling.repetition_penalty = 1.1;
    request.sampling.seed = Some(number as u64);
    request.stop.max_tokens = Some(20 + number % 7);
    request.stop.ignore_eos = true;
    request.logprobs = Some(3);
    request.prompt_logprobs = number.is_multiple_of(3).then_some(2);
    request.n = 1 + u32::from(number.is_multiple_of(5));
    request
}

/// The request that every test looks at: sampled, two choices.
fn probe(engine: &Engine) -> Request {
    Request { n: 2, prompt_logprobs: None, ..request(engine, 3) }
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

/// The probe's answer, alone in an engine without a prefix cache.
fn expected() -> &'static Answer {
    static EXPECTED: OnceLock<Answer> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let engine = start(|options| options.prefix_cache = false);
        answer(&engine, probe(&engine))
    })
}

#[test]
fn answers_are_long_and_choices_differ() {
    let Answer { choices, .. } = expected();
    assert!(choices.iter().all(|(ids, logprobs)| ids.len() == 23 && logprobs.len() == 23 * 8), "{choices:?}");
    assert_ne!(choices[0].0, choices[1].0);
}

#[test]
fn company_does_not_matter() {
    let engine = shared_engine();
    for company in [2, 7, 32] {
        let requests = || (0..company).map(|number| request(engine, number));
        let alone: Vec<Answer> = requests().map(|request| answer(engine, request)).collect();
        let found = together(engine, requests().chain([probe(engine)]).collect());
        assert_eq!(found[..company], alone, "{company} together");
        assert_eq!(&found[company], expected(), "the probe among {company}");
    }
}

#[test]
fn chunks_do_not_matter() {
    for max_batch_tokens in [1, 16, 64, 4096] {
        let engine = start(|options| options.max_batch_tokens = max_batch_tokens);
        assert_eq!(&answer(&engine, probe(&engine)), expected(), "steps of {max_batch_tokens}");
        let scored = Request { prompt_logprobs: Some(2), ..probe(&engine) };
        let scored = answer(&engine, scored);
        assert_eq!(&scored.choices, &expected().choices, "scored in steps of {max_batch_tokens}");
        assert_eq!(scored.prompt, scored_prompt(), "prompt in steps of {max_batch_tokens}");
    }
}

/// Bits of the log-probabilities of the probe's prompt.
fn scored_prompt() -> &'static [u32] {
    static SCORED: OnceLock<Vec<u32>> = OnceLock::new();
    SCORED.get_or_init(|| {
        let engine = shared_engine();
        answer(engine, Request { prompt_logprobs: Some(2), ..probe(engine) }).prompt
    })
}

#[test]
fn a_prefix_hit_does_not_matter() {
    let engine = start(|_| ());
    for expect_hit in [false, true, true] {
        let (found, usage) = collect(engine.generate(probe(&engine)).unwrap());
        assert_eq!(usage.cached_tokens > 0, expect_hit);
        assert_eq!(&found, expected());
    }
}

#[test]
fn a_preemption_does_not_matter() {
    // Five requests of about 8 KV blocks each, and 24 KV blocks.
    let long = |number| Request { n: 1, ..request(shared_engine(), number) };
    let requests = || {
        [4, 8, 12, 16, 20].map(long).map(|mut request| {
            request.stop.max_tokens = Some(80);
            request
        })
    };
    let bytes_per_token = shared_engine().model_info().kv_bytes_per_token as usize;
    let engine = start(|options| {
        options.max_model_len = Some(384);
        options.kv_cache_bytes = Some(384 * bytes_per_token);
    });
    let expected: Vec<Answer> = requests().map(|request| answer(shared_engine(), request)).into();
    let found = together(&engine, requests().into());
    let Stats { preemptions, kv_blocks_total, kv_blocks_used, .. } = engine.stats();
    assert!(preemptions > 0, "no sequence was preempted among {kv_blocks_total} KV blocks");
    assert_eq!((found, kv_blocks_used), (expected, 0));
}

#[test]
fn threads_do_not_matter() {
    for threads in [1, 2, 4] {
        let engine = start(|options| options.threads = Some(threads));
        assert_eq!(&answer(&engine, probe(&engine)), expected(), "{threads} threads");
    }
}
