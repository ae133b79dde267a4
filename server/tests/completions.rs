//! `/v1/completions`, through the router, with the demonstration model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use common::{completion, post, router, texts};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn completions_take_every_kind_of_prompt() {
    let router = router();
    let ids = post(&router, "/tokenize", &json!({"prompt": "mosu is"})).await.json()["tokens"].clone();
    let one = post(&router, COMPLETIONS, &completion("mosu is", json!({}))).await.json();
    let expected = one["choices"][0]["text"].clone();
    assert_eq!(one["object"], "text_completion");
    for (prompt, count) in [
        (json!(["mosu is"]), 1),
        (ids.clone(), 1),
        (json!([ids, ids]), 2),
        (json!(["mosu is", "mosu is", "mosu is"]), 3),
    ] {
        let answer = post(&router, COMPLETIONS, &completion(prompt, json!({}))).await.json();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), count);
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &expected));
        }
    }
}

#[tokio::test]
async fn several_prompts_with_several_choices_keep_their_order() {
    let router = router();
    let fields = json!({"n": 2, "echo": true, "max_tokens": 3});
    let answer =
        post(&router, COMPLETIONS, &completion(json!(["alpha", "beta"]), fields.clone())).await.json();
    let texts_whole: Vec<&str> =
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    for (text, prompt) in texts_whole.iter().zip(["alpha", "alpha", "beta", "beta"]) {
        assert!(text.starts_with(prompt), "{text}");
    }
    let mut body = completion(json!(["alpha", "beta"]), fields);
    body["stream"] = true.into();
    let chunks = post(&router, COMPLETIONS, &body).await.chunks();
    assert_eq!(texts(&chunks, "/text", 4), texts_whole);
}

#[tokio::test]
async fn a_prompt_can_be_scored() {
    let router = router();
    let prompt = "mosu is an engine";
    let count = post(&router, "/tokenize", &json!({"prompt": prompt})).await.json()["count"].as_u64().unwrap()
        as usize;
    let fields = json!({"echo": true, "max_tokens": 0, "logprobs": 2});
    let answer = post(&router, COMPLETIONS, &completion(prompt, fields)).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], prompt);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let logprobs = &choice["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), count, "{list}");
    }
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for index in 1..count {
        let token = logprobs["tokens"][index].as_str().unwrap();
        let top = logprobs["top_logprobs"][index].as_object().unwrap();
        assert!((2..=3).contains(&top.len()));
        // The token's own entry is the same number, so that `==` tells whether it was the most probable.
        assert_eq!(top[token], logprobs["token_logprobs"][index]);
        let offset = logprobs["text_offset"][index].as_u64().unwrap() as usize;
        assert!(prompt[offset..].starts_with(token), "{token:?} at {offset}");
    }
}

#[tokio::test]
async fn echo_puts_the_prompt_before_the_output() {
    let router = router();
    let plain = post(&router, COMPLETIONS, &completion("mosu is", json!({"logprobs": 1}))).await.json();
    let echo =
        post(&router, COMPLETIONS, &completion("mosu is", json!({"logprobs": 1, "echo": true}))).await.json();
    let text = plain["choices"][0]["text"].as_str().unwrap();
    assert_eq!(echo["choices"][0]["text"], format!("mosu is{text}"));
    let list =
        |answer: &Value, name: &str| answer["choices"][0]["logprobs"][name].as_array().unwrap().clone();
    let output = list(&plain, "token_logprobs");
    assert_eq!(output.len(), 8);
    assert!(list(&echo, "token_logprobs").ends_with(&output));
    assert!(list(&echo, "tokens").ends_with(&list(&plain, "tokens")));
    assert_eq!(list(&plain, "text_offset")[0], 0);
    assert_eq!(list(&echo, "text_offset")[list(&echo, "tokens").len() - 8], 7);
    // Without log-probabilities the prompt is not scored.
    let silent = post(&router, COMPLETIONS, &completion("mosu is", json!({"echo": true, "max_tokens": 0})))
        .await
        .json();
    assert_eq!(silent["choices"][0]["text"], "mosu is");
    assert!(silent["choices"][0]["logprobs"].is_null());
}

#[tokio::test]
async fn stop_strings_end_the_output_and_are_left_out() {
    let router = router();
    let body = completion("mosu is", json!({"max_tokens": 12, "ignore_eos": true}));
    let full =
        post(&router, COMPLETIONS, &body).await.json()["choices"][0]["text"].as_str().unwrap().to_string();
    let stop: String = full.chars().skip(3).take(3).collect();
    let body = completion("mosu is", json!({"max_tokens": 12, "ignore_eos": true, "stop": [stop]}));
    let answer = post(&router, COMPLETIONS, &body).await.json();
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(text, full.split(&stop).next().unwrap());
    let mut body = body;
    body["include_stop_str_in_output"] = true.into();
    let answer = post(&router, COMPLETIONS, &body).await.json();
    assert_eq!(answer["choices"][0]["text"], format!("{text}{stop}"));
}

#[tokio::test]
async fn stop_tokens_and_biases_reach_the_engine() {
    let router = router();
    let fields = json!({"max_tokens": 6, "ignore_eos": true, "return_token_ids": true});
    let free = post(&router, COMPLETIONS, &completion("mosu is", fields.clone())).await.json();
    let first = free["choices"][0]["token_ids"][0].clone();
    let with = |name: &str, value: Value| {
        let mut body = completion("mosu is", fields.clone());
        body[name] = value;
        body
    };
    let stopped = post(&router, COMPLETIONS, &with("stop_token_ids", json!([first]))).await.json();
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    let biased =
        post(&router, COMPLETIONS, &with("logit_bias", json!({first.to_string(): -100}))).await.json();
    assert_ne!(biased["choices"][0]["token_ids"][0], first);
    let mut body = with("stop_token_ids", json!([first]));
    body["min_tokens"] = 3.into();
    let late = post(&router, COMPLETIONS, &body).await.json();
    assert!(late["usage"]["completion_tokens"].as_u64().unwrap() >= 3);
}
