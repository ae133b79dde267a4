//! Every endpoint, through the router, with the demonstration model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use axum::{
    body::Body,
    http::{Request, header},
};
use common::{completion, get, post, post_bytes, question, router, router_with, send, texts};
use mosu_server::state::AppOptions;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn a_chat_is_answered_in_the_openai_shape() {
    let reply = post(&router(), CHAT, &question("What is mosu?", json!({"max_tokens": 5}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let answer = reply.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    let choice = &answer["choices"][0];
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["refusal"].is_null());
    assert!(!choice["message"]["content"].as_str().unwrap().is_empty());
    assert!(choice["logprobs"].is_null());
    assert_eq!(choice["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    assert_eq!(usage["total_tokens"].as_u64(), usage["prompt_tokens"].as_u64().map(|prompt| prompt + 5));
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let router = router();
    let whole = post(&router, CHAT, &question("What is mosu?", json!({"max_tokens": 40}))).await.json();
    let fields = json!({"max_tokens": 40, "stream": true, "stream_options": {"include_usage": true}});
    let reply = post(&router, CHAT, &question("What is mosu?", fields)).await;
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-cache");
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    let chunks = reply.chunks();
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    assert_eq!(rest[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = &rest.last().unwrap()["choices"][0];
    assert_eq!(last["delta"], json!({}));
    assert_eq!(last["finish_reason"], whole["choices"][0]["finish_reason"]);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
    }
    for chunk in rest {
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
    }
    for chunk in &rest[..rest.len() - 1] {
        assert!(chunk["choices"][0]["finish_reason"].is_null());
    }
    assert_eq!(
        texts(rest, "/delta/content", 1)[0],
        whole["choices"][0]["message"]["content"].as_str().unwrap()
    );
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let fields = json!({"max_tokens": 2, "stream": true});
    let chunks = post(&router(), CHAT, &question("hi", fields)).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let fields = json!({"max_tokens": 2, "stream": true, "stream_options": {"continuous_usage_stats": true}});
    let chunks = post(&router(), CHAT, &question("hi", fields)).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk["usage"]["prompt_tokens"].as_u64() > Some(0)));
}

#[tokio::test]
async fn choices_have_their_index_and_streams_interleave_them() {
    let router = router();
    let fields = json!({"n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 6, "ignore_eos": true});
    let whole = post(&router, CHAT, &question("What is mosu?", fields.clone())).await.json();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(whole["usage"]["completion_tokens"], 18);
    let mut body = question("What is mosu?", fields);
    body["stream"] = true.into();
    let chunks = post(&router, CHAT, &body).await.chunks();
    let streamed = texts(&chunks, "/delta/content", 3);
    let expected: Vec<&str> =
        choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(streamed, expected);
    let finishes = chunks.iter().filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null()).count();
    assert_eq!(finishes, 3);
}

#[tokio::test]
async fn chat_logprobs_have_the_openai_shape() {
    let fields = json!({"max_tokens": 4, "logprobs": true, "top_logprobs": 3, "ignore_eos": true});
    let router = router();
    let whole = post(&router, CHAT, &question("hi", fields.clone())).await.json();
    let logprobs = &whole["choices"][0]["logprobs"];
    assert!(logprobs.as_object().unwrap().contains_key("refusal") && logprobs["refusal"].is_null());
    let content = logprobs["content"].as_array().unwrap();
    assert_eq!(content.len(), 4);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the token is the first of the alternatives, with the same number.
        assert_eq!(
            (&token["token"], &token["logprob"], &token["bytes"]),
            (&top[0]["token"], &top[0]["logprob"], &top[0]["bytes"])
        );
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    let mut body = question("hi", fields);
    body["stream"] = true.into();
    let chunks = post(&router, CHAT, &body).await.chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk.pointer("/choices/0/logprobs/content")?.as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&streamed, content);
}

#[tokio::test]
async fn a_stop_string_that_names_a_special_token_stops_there() {
    let router = router();
    let ask = async |fields: Value| {
        let mut body = question("What is mosu?", json!({"max_tokens": 200, "return_token_ids": true}));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        post(&router, CHAT, &body).await.json()
    };
    let plain = ask(json!({})).await;
    assert_eq!(plain["choices"][0]["finish_reason"], "stop");
    let endless = ask(json!({"ignore_eos": true})).await;
    assert_eq!(endless["choices"][0]["finish_reason"], "length");
    for (fields, tail) in [
        (json!({}), ""),
        (json!({"skip_special_tokens": false}), ""),
        (json!({"include_stop_str_in_output": true}), "<|im_end|>"),
        (json!({"include_stop_str_in_output": true, "skip_special_tokens": false}), "<|im_end|>"),
    ] {
        let mut fields = fields;
        fields["ignore_eos"] = true.into();
        fields["stop"] = json!(["never said", "<|im_end|>"]);
        let stopped = ask(fields.clone()).await;
        let choice = &stopped["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{fields}");
        let text = plain["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(choice["message"]["content"], format!("{text}{tail}"), "{fields}");
        assert_eq!(choice["token_ids"], plain["choices"][0]["token_ids"], "{fields}");
        fields["stream"] = true.into();
        let body = question("What is mosu?", json!({"max_tokens": 200}));
        let mut body = body.as_object().unwrap().clone();
        body.extend(fields.as_object().unwrap().clone());
        let chunks = post(&router, CHAT, &body.into()).await.chunks();
        assert_eq!(texts(&chunks, "/delta/content", 1)[0], format!("{text}{tail}"), "{fields}");
    }
}

#[tokio::test]
async fn token_ids_are_told_when_asked_for() {
    let router = router();
    let fields = json!({"max_tokens": 4, "return_token_ids": true, "ignore_eos": true});
    let chat = post(&router, CHAT, &question("hi", fields.clone())).await.json();
    assert_eq!(chat["choices"][0]["token_ids"].as_array().unwrap().len(), 4);
    assert_eq!(
        chat["prompt_token_ids"].as_array().map(Vec::len),
        chat["usage"]["prompt_tokens"].as_u64().map(|n| n as usize)
    );
    let messages = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(post(&router, "/tokenize", &messages).await.json()["tokens"], chat["prompt_token_ids"]);
    let text = post(&router, COMPLETIONS, &completion("mosu", fields)).await.json();
    assert_eq!(text["choices"][0]["token_ids"].as_array().unwrap().len(), 4);
    assert_eq!(
        text["choices"][0]["prompt_token_ids"].as_array().unwrap().len() as u64,
        text["usage"]["prompt_tokens"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text() {
    let router = router();
    let body = |seed: u64| {
        question(
            "Tell me a story",
            json!({"temperature": 2.0, "seed": seed, "max_tokens": 64, "ignore_eos": true}),
        )
    };
    let text = async |seed| {
        post(&router, CHAT, &body(seed)).await.json()["choices"][0]["message"]["content"].clone()
    };
    assert_eq!(text(1).await, text(1).await);
    assert_ne!(text(1).await, text(2).await);
}

#[tokio::test]
async fn a_message_can_be_continued() {
    let router = router();
    let body = json!({
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "mosu is"}],
        "continue_final_message": true,
    });
    let tokens = post(&router, "/tokenize", &body).await.json()["tokens"].clone();
    let text = post(&router, "/detokenize", &json!({"tokens": tokens})).await.json()["prompt"].clone();
    assert!(text.as_str().unwrap().ends_with("mosu is"), "{text}");
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": false});
    let without = post(&router, "/tokenize", &body).await.json()["count"].as_u64();
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert!(post(&router, "/tokenize", &body).await.json()["count"].as_u64() > without);
}

#[tokio::test]
async fn harmless_fields_are_accepted_and_unknown_ones_listed() {
    let fields = json!({
        "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "parallel_tool_calls": true,
        "prediction": {"type": "content", "content": "x"}, "safety_identifier": "s", "prompt_cache_key": "k",
        "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none", "tools": null,
        "reasoning_effort": "low", "verbosity": "low", "max_completion_tokens": 2, "logit_bias": null,
    });
    let reply = post(&router(), CHAT, &question("hi", fields)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(!reply.headers.contains_key("x-ignored-params"));
    assert_eq!(reply.json()["service_tier"], "default");
    assert_eq!(reply.json()["usage"]["completion_tokens"], 2);
    let reply = post(&router(), CHAT, &question("hi", json!({"zeta": 1, "alpha": 2, "späß": 3}))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["x-ignored-params"], "alpha,sp??,zeta");
}

#[tokio::test]
async fn strict_servers_refuse_unknown_fields() {
    let router = router_with(AppOptions { strict_params: true, ..common::options() });
    for (path, body) in [
        (CHAT, question("hi", json!({"temprature": 0}))),
        (COMPLETIONS, completion("hi", json!({"temprature": 0}))),
        ("/tokenize", json!({"prompt": "hi", "temprature": 0})),
    ] {
        let reply = post(&router, path, &body).await;
        assert_eq!(reply.status, 400);
        let error = reply.error();
        assert_eq!((&error["param"], &error["code"]), (&json!("temprature"), &json!("unknown_parameter")));
    }
}

#[tokio::test]
async fn models_are_listed_under_their_served_names() {
    let names = vec!["org/model".to_string(), "alias".to_string()];
    let router = router_with(AppOptions { model_names: names, ..common::options() });
    let list = get(&router, "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["org/model", "alias"]);
    for path in ["/v1/models/org/model", "/v1/models/org%2Fmodel", "/v1/models/alias"] {
        let model = get(&router, path).await.json();
        assert_eq!((&model["object"], &model["owned_by"]), (&json!("model"), &json!("mosu")));
        assert_eq!(model["max_model_len"], common::engine().max_model_len());
    }
    let reply = get(&router, "/v1/models/other").await;
    assert_eq!((reply.status.as_u16(), reply.error()["code"].clone()), (404, json!("model_not_found")));
    let reply = post(&router, CHAT, &question("hi", json!({"model": "alias"}))).await;
    assert_eq!(reply.json()["model"], "alias");
    let reply = post(&router, CHAT, &question("hi", json!({"model": "mosu-demo"}))).await;
    assert_eq!((reply.status.as_u16(), reply.error()["param"].clone()), (404, json!("model")));
}

#[tokio::test]
async fn tokenize_and_detokenize_are_inverse() {
    let router = router();
    for text in ["What is mosu?", "模速是什么？", "🎉 e\u{301} \u{200d}", "a\nb\t c"] {
        let body = json!({"prompt": text, "add_special_tokens": false, "return_token_strs": true});
        let tokens = post(&router, "/tokenize", &body).await.json();
        assert_eq!(tokens["tokens"].as_array().map(Vec::len), tokens["token_strs"].as_array().map(Vec::len));
        assert_eq!(tokens["max_model_len"], common::engine().max_model_len());
        let back = post(&router, "/detokenize", &json!({"tokens": tokens["tokens"]})).await.json();
        assert_eq!(back["prompt"], text);
    }
}

#[tokio::test]
async fn supervisors_are_answered() {
    let router = router();
    assert_eq!(get(&router, "/health").await.json(), json!({"status": "ok"}));
    assert_eq!(get(&router, "/ready").await.json(), json!({"status": "ready"}));
    assert_eq!(get(&router, "/version").await.json(), json!({"version": env!("CARGO_PKG_VERSION")}));
}

#[tokio::test]
async fn metrics_count() {
    let router = router();
    post(&router, CHAT, &question("hi", json!({"max_tokens": 5, "ignore_eos": true}))).await;
    let reply = get(&router, "/metrics").await;
    assert!(
        reply.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text")
    );
    let value = |name| common::metric(&reply.text, name);
    assert_eq!(value("mosu_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(value("mosu_inter_token_latency_seconds_count"), 4.0);
    assert_eq!(value("mosu_e2e_request_latency_seconds_count"), 1.0);
    assert_eq!(value(r#"mosu_request_success_total{finished_reason="length"}"#), 1.0);
    assert!(value("mosu_generation_tokens_total") >= 5.0);
    assert!(value("mosu_prompt_tokens_total") >= 1.0);
    for name in [
        "mosu_num_requests_running",
        "mosu_num_requests_waiting",
        "mosu_kv_cache_usage_perc",
        "mosu_num_preemptions_total",
        "mosu_prefix_cache_queries_total",
        "mosu_prefix_cache_hits_total",
        "mosu_requests_aborted_total",
        "mosu_requests_failed_total",
    ] {
        assert!(value(name) >= 0.0, "{name}");
    }
}

#[tokio::test]
async fn request_ids_are_taken_or_made() {
    let router = router();
    let with_id = async |id: &str| {
        let request = Request::get("/version").header("x-request-id", id).body(Body::empty()).unwrap();
        send(&router, request).await.headers["x-request-id"].to_str().unwrap().to_string()
    };
    assert_eq!(with_id("abc-1.2_3:4").await, "abc-1.2_3:4");
    for harmful in ["", "a b", "<script>", &"a".repeat(129)] {
        assert!(with_id(harmful).await.starts_with("req-"), "{harmful}");
    }
    let reply = get(&router, "/version").await;
    assert!(reply.headers["openai-processing-ms"].to_str().unwrap().parse::<u64>().is_ok());
}

#[tokio::test]
async fn developers_speak_as_the_system() {
    let router = router();
    let tokens = async |role: &str| {
        let body =
            json!({"messages": [{"role": role, "content": "be brief"}, {"role": "user", "content": "hi"}]});
        post(&router, "/tokenize", &body).await.json()["tokens"].clone()
    };
    assert_eq!(tokens("developer").await, tokens("system").await);
    assert_ne!(tokens("developer").await, tokens("user").await);
}

#[tokio::test]
async fn a_dropped_response_frees_its_blocks() {
    use tower::ServiceExt;
    let body = question("hi", json!({"stream": true, "ignore_eos": true, "max_tokens": null, "n": 4}));
    let response = router().oneshot(post_bytes(CHAT, body.to_string())).await.unwrap();
    assert_eq!(response.status(), 200);
    let aborted = common::engine().stats().requests_aborted;
    drop(response);
    let started = std::time::Instant::now();
    while common::engine().stats().requests_aborted == aborted {
        assert!(started.elapsed().as_secs() < 60, "the request still runs");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
