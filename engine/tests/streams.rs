//! Requests through the engine's thread, with the scripted model: streams, aborts, refusals and faults.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use mosu_models::LogitFault;

use crate::{
    Event, Finish, GenerationStream, Request, RequestError, Stats, Usage,
    engine_thread::EngineThread,
    scripted::{FAULT_TOKEN, Fault, PANIC_TOKEN, ScriptedModel, Size},
};

fn start_with(size: Size, change: impl FnOnce(&mut ScriptedModel)) -> Arc<EngineThread> {
    let mut model = size.model();
    change(&mut model);
    Arc::new(EngineThread::start(size.parts(model), size.limits(), 100).unwrap())
}

pub(crate) fn start() -> Arc<EngineThread> {
    start_with(Size::default(), |_| ())
}

/// A gate before each step: the sender opens it once, the receiver hears that a step waits.
fn start_gated() -> (Arc<EngineThread>, Sender<()>, Receiver<()>) {
    let ((open, wait), (arrive, arrived)) = (channel(), channel());
    (start_with(Size::default(), |model| model.gate = Some((wait, arrive))), open, arrived)
}

/// A greedy request that only `max_tokens` ends. Each of its tokens has one character.
pub(crate) fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let mut request = Request::new(prompt.to_vec());
    request.sampling.temperature = 0.0;
    request.stop.max_tokens = Some(max_tokens);
    request.stop.ignore_eos = true;
    request.skip_special_tokens = false;
    request
}

pub(crate) fn generate(engine: &Arc<EngineThread>, request: Request) -> GenerationStream {
    engine.admit().unwrap().generate(request).unwrap()
}

/// The text, tokens and ends of choice 0, and the final event.
pub(crate) fn collect(stream: &mut GenerationStream) -> (String, Vec<u32>, Option<Finish>, Event) {
    let (mut all_text, mut ids, mut end) = (String::new(), Vec::new(), None);
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Output { index: 0, text, tokens, finish } => {
                all_text += &text;
                ids.extend(tokens.iter().map(|token| token.id));
                end = finish;
            }
            event if event.is_final() => return (all_text, ids, end, event),
            _ => {}
        }
    }
    panic!("the stream ended without a final event");
}

fn eventually(engine: &Arc<EngineThread>, what: &str, holds: impl Fn(&Stats) -> bool) {
    let start = Instant::now();
    while !holds(&engine.stats()) {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", engine.stats());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Drives a future without any runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_stream_tells_the_prompt_then_tokens_then_one_final_event() {
    let engine = start();
    let mut stream = generate(&engine, request(&[1, 2, 3], 4));
    let events: Vec<Event> = stream.by_ref().collect();
    assert!(matches!(events[0], Event::Prompt(_)), "{events:?}");
    let outputs = events.iter().filter(|event| matches!(event, Event::Output { .. })).count();
    assert_eq!((outputs, events.len()), (4, 6));
    let usage = Usage { prompt_tokens: 3, completion_tokens: 4, cached_tokens: 0 };
    assert_eq!(events[5], Event::Finished(usage));
    assert_eq!((stream.next_blocking(), stream.try_next(), block_on(stream.next())), (None, None, None));
}

#[test]
fn async_and_polled_streams_hear_the_same() {
    let engine = start();
    let blocking: Vec<Event> = generate(&engine, request(&[5; 3], 20)).collect();
    let mut stream = generate(&engine, request(&[5; 3], 20));
    let asynchronous = block_on(async {
        let mut events = Vec::new();
        while let Some(event) = GenerationStream::next(&mut stream).await {
            events.push(event);
        }
        events
    });
    assert_eq!(blocking, asynchronous);
    let mut stream = generate(&engine, request(&[5; 3], 20));
    let mut polled = Vec::new();
    while !polled.last().is_some_and(Event::is_final) {
        polled.extend(stream.try_next());
    }
    assert_eq!(blocking, polled);
}

#[test]
fn dropping_a_stream_aborts_within_a_step_and_frees_its_kv_blocks() {
    let (engine, open, arrived) = start_gated();
    let mut stream = generate(&engine, request(&[1; 20], 100));
    for _ in 0..3 {
        arrived.recv().unwrap();
        open.send(()).unwrap();
    }
    while !matches!(stream.next_blocking(), Some(Event::Output { .. })) {}
    arrived.recv().unwrap();
    drop(stream);
    open.send(()).unwrap();
    eventually(&engine, "KV blocks are held", |stats| {
        stats.requests_aborted == 1 && stats.kv_blocks_used == 0
    });
    assert_eq!(engine.stats().steps, 4, "only the step that was being computed");
}

#[test]
fn a_waiting_request_can_be_dropped_too() {
    let (engine, open, arrived) = start_gated();
    let _running = generate(&engine, request(&[1; 60], 50));
    arrived.recv().unwrap();
    drop(generate(&engine, request(&[2; 60], 50)));
    open.send(()).unwrap();
    eventually(&engine, "it waits", |stats| stats.requests_aborted == 1 && stats.waiting_sequences == 0);
}

#[test]
fn choices_share_the_kv_blocks_of_their_prompt() {
    for prefix_cache in [true, false] {
        let ((open, wait), (arrive, arrived)) = (channel(), channel());
        let size = Size { prefix_cache, ..Size::default() };
        let engine = start_with(size, |model| model.gate = Some((wait, arrive)));
        let mut stream = generate(&engine, Request { n: 4, ..request(&[3; 18], 2) });
        // Two steps: the prompt with its first token, then all four choices.
        for _ in 0..2 {
            arrived.recv().unwrap();
            open.send(()).unwrap();
        }
        arrived.recv().unwrap();
        // 4 shared KV blocks of 4 tokens, and one more for each choice still running.
        assert_eq!((engine.stats().running_sequences, engine.stats().kv_blocks_used), (3, 4 + 3));
        drop(open);
        let usage = Usage { prompt_tokens: 18, completion_tokens: 8, cached_tokens: 0 };
        assert_eq!(collect(&mut stream).3, Event::Finished(usage));
        eventually(&engine, "KV blocks are held", |stats| stats.kv_blocks_used == 0);
    }
}

#[test]
fn a_repeated_prompt_is_found_in_the_prefix_cache_unless_salts_differ() {
    let engine = start();
    let cached = |salt: Option<&str>| {
        let request = Request { cache_salt: salt.map(Into::into), ..request(&[7; 18], 1) };
        match collect(&mut generate(&engine, request)).3 {
            Event::Finished(usage) => usage.cached_tokens,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((cached(None), cached(None)), (0, 16));
    assert_eq!((cached(Some("a")), cached(Some("a")), cached(Some("b"))), (0, 16, 0));
    assert_eq!(engine.stats().cached_prompt_tokens, 32);
}

#[test]
fn seeds_decide_and_are_drawn_when_missing() {
    let engine = start();
    let ids = |seed: Option<u64>| {
        let mut request = request(&[1, 2], 30);
        (request.sampling.temperature, request.sampling.seed) = (1.0, seed);
        collect(&mut generate(&engine, request)).1
    };
    assert_eq!(ids(Some(5)), ids(Some(5)));
    assert_ne!(ids(Some(5)), ids(Some(6)));
    assert_ne!(ids(None), ids(None));
}

#[test]
fn prompt_logprobs_come_with_the_prompt_and_need_no_output() {
    let engine = start();
    for _ in 0..2 {
        // The second time the prompt is in the prefix cache, and computed all the same.
        let scoring = Request { prompt_logprobs: Some(2), n: 2, ..request(&[4; 9], 0) };
        let events: Vec<Event> = generate(&engine, scoring).collect();
        let Event::Prompt(info) = &events[0] else { panic!("{events:?}") };
        let logprobs = info.logprobs.as_ref().unwrap();
        assert_eq!((info.cached_tokens, logprobs.len(), &logprobs[0]), (0, 9, &None));
        assert!(logprobs[1..].iter().all(|entry| entry.as_ref().is_some_and(|entry| entry.top.len() == 2)));
        let ends = |event: &Event| matches!(event, Event::Output { finish: Some(Finish::Length), .. });
        assert_eq!(events.iter().filter(|event| ends(event)).count(), 2);
        let usage = Usage { prompt_tokens: 9, ..Usage::default() };
        assert_eq!(events.last(), Some(&Event::Finished(usage)));
    }
}

#[test]
fn bad_values_are_refused_by_field_and_take_no_place() {
    let engine = start();
    for _ in 0..20 {
        let mut bad = request(&[1], 4);
        bad.sampling.top_p = f32::NAN;
        let error = engine.admit().unwrap().generate(bad).unwrap_err();
        assert_eq!(error.to_string(), "sampling.top_p: is NaN; give a number from 0 to 1");
    }
    assert!(engine.admit().is_ok());
}

#[test]
fn a_full_queue_refuses_until_requests_run() {
    let (engine, open, arrived) = start_gated();
    let _running = generate(&engine, request(&[1], 4));
    arrived.recv().unwrap(); // it has left the queue
    let places: Vec<_> = (0..6).map(|_| engine.admit().unwrap()).collect();
    let error = engine.admit().unwrap().generate(Request { n: 3, ..request(&[1], 1) }).unwrap_err();
    assert_eq!(error, RequestError::Overloaded { waiting: 7, limit: 8, unit: "requests" });
    let long = request(&[1; 60], 1);
    let _waiting = engine.admit().unwrap().generate(long.clone()).unwrap();
    let error = engine.admit().unwrap().generate(long).unwrap_err();
    assert_eq!(error, RequestError::Overloaded { waiting: 60, limit: 100, unit: "tokens" });
    let _last = engine.admit().unwrap();
    assert!(matches!(engine.admit(), Err(RequestError::Overloaded { waiting: 8, unit: "requests", .. })));
    drop(places);
    drop(open);
    eventually(&engine, "requests wait", |stats| stats.requests_finished == 2);
}

#[test]
fn a_draining_engine_finishes_what_it_accepted() {
    let (engine, open, arrived) = start_gated();
    let mut running = generate(&engine, request(&[1], 4));
    let admitted = engine.admit().unwrap();
    arrived.recv().unwrap();
    engine.drain();
    assert_eq!(engine.admit().unwrap_err(), RequestError::ShuttingDown);
    let mut late = admitted.generate(request(&[2], 4)).unwrap();
    drop(open);
    assert!(matches!(collect(&mut running).3, Event::Finished(_)));
    assert!(matches!(collect(&mut late).3, Event::Finished(_)));
}

#[test]
fn abort_all_ends_every_request_and_the_engine_goes_on() {
    let (engine, open, arrived) = start_gated();
    let mut streams = [request(&[1], 90), request(&[2; 60], 90)].map(|request| generate(&engine, request));
    arrived.recv().unwrap();
    engine.abort_all();
    drop(open);
    for stream in &mut streams {
        assert_eq!(collect(stream).3, Event::Failed(RequestError::ShuttingDown));
    }
    eventually(&engine, "KV blocks are held", |stats| {
        stats.requests_failed == 2 && stats.kv_blocks_used == 0
    });
    assert!(matches!(collect(&mut generate(&engine, request(&[1], 2))).3, Event::Finished(_)));
}

#[test]
fn the_last_handle_ends_the_thread_and_all_streams() {
    let (engine, open, arrived) = start_gated();
    let mut stream = generate(&engine, request(&[1], 90));
    arrived.recv().unwrap();
    let (told, dropping) = channel();
    let handle = thread::spawn(move || {
        told.send(()).unwrap();
        drop(engine);
    });
    dropping.recv().unwrap();
    // Slow steps: the last of them would come long after the handle is gone.
    while open.send(()).is_ok() && arrived.recv().is_ok() {
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(collect(&mut stream).3, Event::Failed(RequestError::ShuttingDown));
    handle.join().unwrap();
}

#[test]
fn a_failing_model_ends_every_stream_and_is_reported() {
    for (fault, reason) in [(Fault::Error(3), "the device is lost"), (Fault::Panic(3), "the model panicked")]
    {
        let ((open, wait), (arrive, _arrived)) = (channel(), channel());
        let engine = start_with(Size::default(), |model| {
            (model.fault, model.gate) = (Some(fault), Some((wait, arrive)));
        });
        let fatal = RequestError::Fatal(reason.into());
        let mut streams = [1, 2].map(|token| generate(&engine, request(&[token], 90)));
        drop(open);
        for stream in &mut streams {
            assert_eq!(collect(stream).3, Event::Failed(fatal.clone()));
        }
        eventually(&engine, "not reported", |stats| stats.fatal.as_deref() == Some(reason));
        assert_eq!(engine.stats().requests_failed, 2);
        assert_eq!(engine.admit().unwrap_err(), fatal);
    }
}

#[test]
fn a_fault_in_one_request_leaves_the_others_as_they_were() {
    let prompts: Vec<Vec<u32>> = (1..7).map(|token| vec![token; 5]).collect();
    let run = |engine: &Arc<EngineThread>| {
        let streams: Vec<_> = prompts.iter().map(|prompt| generate(engine, request(prompt, 20))).collect();
        streams.into_iter().map(|mut stream| collect(&mut stream)).collect::<Vec<_>>()
    };
    let undisturbed = run(&start());
    let no_token = LogitFault::NoToken.to_string();
    let faults = [(PANIC_TOKEN, "the tokenizer panicked"), (FAULT_TOKEN, no_token.as_str())];
    for (token, message) in faults {
        let engine = start();
        let mut bad = request(&[9], 20);
        bad.sampling.logit_bias = vec![(token, 100.0)];
        let mut bad = generate(&engine, Request { n: 2, ..bad });
        assert_eq!(run(&engine), undisturbed);
        assert_eq!(collect(&mut bad).3, Event::Failed(RequestError::Internal(message.into())));
        eventually(&engine, "KV blocks are held", |stats| {
            stats.kv_blocks_used == 0 && stats.requests_failed == 1
        });
    }
}

#[test]
fn a_stuck_step_shows_in_the_stats() {
    let (engine, open, arrived) = start_gated();
    assert_eq!(engine.stats().stalled_for, Duration::ZERO);
    let mut stream = generate(&engine, request(&[1], 1));
    arrived.recv().unwrap();
    eventually(&engine, "no stall", |stats| stats.stalled_for > Duration::from_millis(20));
    drop(open);
    collect(&mut stream);
    eventually(&engine, "a stall", |stats| stats.stalled_for == Duration::ZERO);
}
