//! The demonstration model through the public API: all of its golden conversations at once, answered as
//! transformers answers each alone.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy takes a test file's functions for library code

use std::fs;

use mosu::{ChatRequest, Engine, EngineOptions, Event, Finish, GenerationStream, Request};
use serde_json::Value;

/// models/demo/golden.json: prompts, greedy outputs of transformers, and how they end.
fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn start(engine: &Engine, case: &Value) -> GenerationStream {
    let prompt = match &case["messages"] {
        Value::Array(messages) => {
            let (messages, add_generation_prompt) = (messages.clone(), true);
            let chat = ChatRequest { messages, add_generation_prompt, ..ChatRequest::default() };
            engine.chat_template().unwrap().unwrap().render(&chat).unwrap()
        }
        _ => case["prompt"].as_str().unwrap().to_owned(),
    };
    let mut request = Request::new(engine.tokenizer().encode(&prompt, false).unwrap());
    request.sampling.temperature = 0.0;
    request.stop.max_tokens = Some(case["output_ids"].as_array().unwrap().len());
    engine.generate(request).unwrap()
}

#[test]
fn golden_conversations_are_answered_as_transformers_does() {
    let engine = Engine::load(EngineOptions { threads: Some(2), ..EngineOptions::default() }).unwrap();
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 8, "{} cases", cases.len());
    let streams: Vec<_> = cases.iter().map(|case| start(&engine, case)).collect();
    for (case, stream) in cases.iter().zip(streams) {
        let (mut answer, mut ids, mut end) = (String::new(), Vec::new(), None);
        for event in stream {
            match event {
                Event::Output { text, tokens, finish, .. } => {
                    answer += &text;
                    ids.extend(tokens.iter().map(|token| Value::from(token.id)));
                    end = finish;
                }
                Event::Failed(error) => panic!("{}: {error}", case["name"]),
                Event::Prompt(_) | Event::Finished(_) => {}
            }
        }
        assert_eq!((&Value::from(answer), &Value::from(ids)), (&case["output"], &case["output_ids"]));
        let ended = matches!(end, Some(Finish::EndToken(_)));
        assert_eq!(Some(ended), case["ends_at_eos"].as_bool(), "{}", case["name"]);
    }
    assert_eq!(engine.stats().kv_blocks_used, 0);
}
