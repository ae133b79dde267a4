//! The embedded demonstration model answers as transformers does with the same files, token by token.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::fs;

use common::*;
use mosu_models::{ChatRequest, ChatTemplate, Model, ModelSource, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

/// demo/golden.json, which demo/golden.py writes.
#[derive(Deserialize)]
struct Golden {
    eos_token_ids: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Absent for a raw prompt.
    messages: Option<Vec<Value>>,
    prompt: String,
    prompt_ids: Vec<u32>,
    output: String,
    output_ids: Vec<u32>,
    ends_at_eos: bool,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn conversations_become_the_same_prompts() {
    let tokenizer = Tokenizer::load(&ModelSource::Demo).unwrap();
    let template = ChatTemplate::load(&ModelSource::Demo).unwrap().unwrap();
    for case in golden().cases {
        if let Some(messages) = case.messages {
            let request = ChatRequest { messages, add_generation_prompt: true, ..ChatRequest::default() };
            assert_eq!(template.render(&request).unwrap(), case.prompt, "{}", case.name);
        }
        assert_eq!(tokenizer.encode(&case.prompt, false).unwrap(), case.prompt_ids, "{}", case.name);
        assert_eq!(tokenizer.decode(&case.output_ids, true).unwrap(), case.output, "{}", case.name);
    }
}

#[test]
fn greedy_answers_equal_transformers() {
    let mut model = Model::load(&ModelSource::Demo, &options(2), &mut |_| {}).unwrap();
    let golden = golden();
    let mut ends = golden.eos_token_ids;
    ends.sort_unstable();
    assert_eq!(model.info().eos_token_ids, ends);
    assert_eq!(model.info().name, "mosu-demo");
    assert!(golden.cases.len() >= 8, "{} cases", golden.cases.len());
    for case in golden.cases {
        let output = greedy(&mut model, &case.prompt_ids, case.output_ids.len());
        assert_eq!(output, case.output_ids, "{}", case.name);
        let last = output.last().unwrap();
        assert_eq!(model.info().eos_token_ids.contains(last), case.ends_at_eos, "{}", case.name);
    }
}
