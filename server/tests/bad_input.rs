//! Bad input: every refusal names the field and is the OpenAI error object, and the others are served on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Request, header},
};
use common::{engine, get, post, post_bytes, question, router, router_with, send};
use mosu_server::{body::BodyLimits, state::AppOptions};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A body that must be refused with 400, the `param` and the `code`.
struct Bad {
    path: &'static str,
    body: Vec<u8>,
    param: Option<&'static str>,
    code: &'static str,
}

fn bad(path: &'static str, body: impl Into<Vec<u8>>, param: &'static str, code: &'static str) -> Bad {
    Bad { path, body: body.into(), param: (!param.is_empty()).then_some(param), code }
}

/// A chat with one further field, written as it goes over the wire.
fn chat(name: &str, value: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"{name}":{value}}}"#)
}

/// A text completion with one further field.
fn text(name: &str, value: &str) -> String {
    format!(r#"{{"prompt":"hi","{name}":{value}}}"#)
}

fn messages(value: &str) -> String {
    format!(r#"{{"messages":{value}}}"#)
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

/// Bodies that are not JSON objects.
fn malformed() -> Vec<Bad> {
    let mut not_utf8 = br#"{"prompt":""#.to_vec();
    not_utf8.extend([0xff, 0xfe]);
    not_utf8.extend(br#""}"#);
    vec![
        bad(CHAT, "", "", "invalid_json"),
        bad(CHAT, "hello", "", "invalid_json"),
        bad(CHAT, "[]", "", "invalid_json"),
        bad(CHAT, "null", "", "invalid_json"),
        bad(CHAT, r#"{"messages":"#, "messages", "invalid_json"),
        bad(CHAT, r#"{"messages":[]} {}"#, "", "invalid_json"),
        bad(TEXT, not_utf8, "", "invalid_utf8"),
        bad(TEXT, nested(100_000), "", "invalid_json"),
        bad(TEXT, format!("{{\"prompt\":{}}}", nested(100_000)), "prompt[0][0]", "invalid_type"),
        bad(CHAT, messages(&nested(100_000)), "messages[0]", "invalid_type"),
        bad(
            CHAT,
            chat("chat_template_kwargs", &format!("{{\"a\":{}}}", nested(100_000))),
            "chat_template_kwargs",
            "invalid_type",
        ),
        bad(CHAT, chat("temperature", "NaN"), "temperature", "invalid_json"),
        bad(CHAT, chat("temperature", "Infinity"), "temperature", "invalid_json"),
    ]
}

/// Numbers out of range and of the wrong type.
fn numbers() -> Vec<Bad> {
    let mut rows = Vec::new();
    for (name, values) in [
        ("temperature", &["1e999", "-0.1", "2.1", "-1e999"] as &[&str]),
        ("top_p", &["-0.1", "1.1", "1e999"]),
        ("min_p", &["-0.1", "1.1"]),
        ("top_k", &["-2", "1.5", "9223372036854775808"]),
        ("presence_penalty", &["-2.1", "2.1"]),
        ("frequency_penalty", &["-2.1", "2.1"]),
        ("repetition_penalty", &["0", "-1", "2.1"]),
        ("n", &["0", "-1", "129", "9223372036854775808", "1e999", "1.5"]),
        ("seed", &["9223372036854775808", "0.5"]),
        ("min_tokens", &["-1", "1e999"]),
    ] {
        rows.extend(values.iter().map(|value| bad(CHAT, chat(name, value), name, "invalid_value")));
        rows.push(bad(TEXT, text(name, "\"3\""), name, "invalid_type"));
        rows.push(bad(TEXT, text(name, "[]"), name, "invalid_type"));
    }
    rows
}

/// Fields of the chat endpoint.
fn chat_fields() -> Vec<Bad> {
    vec![
        bad(CHAT, "{}", "messages", "missing_required_parameter"),
        bad(CHAT, messages("null"), "messages", "missing_required_parameter"),
        bad(CHAT, messages("[]"), "messages", "invalid_value"),
        bad(CHAT, messages("\"hi\""), "messages", "invalid_type"),
        bad(CHAT, messages("[\"hi\"]"), "messages[0]", "invalid_type"),
        bad(CHAT, messages(r#"[{"role":"user"}]"#), "messages[0].content", "missing_required_parameter"),
        bad(CHAT, messages(r#"[{"content":"hi"}]"#), "messages[0].role", "missing_required_parameter"),
        bad(CHAT, messages(r#"[{"role":"king","content":"hi"}]"#), "messages[0].role", "invalid_value"),
        bad(CHAT, messages(r#"[{"role":"user","content":7}]"#), "messages[0].content", "invalid_type"),
        bad(
            CHAT,
            messages(
                r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]"#,
            ),
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        bad(
            CHAT,
            messages(r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"input_audio"}]}]"#),
            "messages[0].content[1].type",
            "unsupported_parameter",
        ),
        bad(CHAT, chat("max_tokens", "0"), "max_tokens", "invalid_value"),
        bad(CHAT, chat("max_tokens", "-1"), "max_tokens", "invalid_value"),
        bad(CHAT, chat("max_completion_tokens", "0"), "max_completion_tokens", "invalid_value"),
        bad(CHAT, chat("max_tokens", "4000000000"), "max_tokens", "context_length_exceeded"),
        bad(
            CHAT,
            chat("max_completion_tokens", "4000000000"),
            "max_completion_tokens",
            "context_length_exceeded",
        ),
        bad(CHAT, chat("logprobs", "3"), "logprobs", "invalid_type"),
        bad(CHAT, chat("top_logprobs", "3"), "top_logprobs", "invalid_value"),
        bad(
            CHAT,
            r#"{"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":21}"#,
            "top_logprobs",
            "invalid_value",
        ),
        bad(CHAT, chat("stop", "[\"\"]"), "stop", "invalid_value"),
        bad(CHAT, chat("stop", "[1]"), "stop[0]", "invalid_type"),
        bad(CHAT, chat("stop", &json!(vec!["x"; 17]).to_string()), "stop", "invalid_value"),
        bad(CHAT, chat("stop_token_ids", "[-1]"), "stop_token_ids[0]", "invalid_value"),
        bad(CHAT, chat("stop_token_ids", "[4294967295]"), "stop_token_ids[0]", "invalid_value"),
        bad(CHAT, chat("logit_bias", r#"{"1":101}"#), "logit_bias.1", "invalid_value"),
        bad(CHAT, chat("logit_bias", r#"{"1":1e999}"#), "logit_bias.1", "invalid_value"),
        bad(CHAT, chat("logit_bias", r#"{"4294967295":1}"#), "logit_bias.4294967295", "invalid_value"),
        bad(CHAT, chat("logit_bias", r#"{"x":1}"#), "logit_bias.x", "invalid_value"),
        bad(CHAT, chat("stream", "\"yes\""), "stream", "invalid_type"),
        bad(CHAT, chat("stream_options", r#"{"include_usage":true}"#), "stream_options", "invalid_value"),
        bad(
            CHAT,
            r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":7}"#,
            "stream_options",
            "invalid_type",
        ),
        bad(
            CHAT,
            r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":1}}"#,
            "stream_options.include_usage",
            "invalid_type",
        ),
        bad(
            CHAT,
            chat("chat_template_kwargs", r#"{"messages":[]}"#),
            "chat_template_kwargs.messages",
            "invalid_value",
        ),
        bad(
            CHAT,
            chat("chat_template_kwargs", r#"{"tokenize":true}"#),
            "chat_template_kwargs.tokenize",
            "invalid_value",
        ),
        bad(CHAT, chat("chat_template_kwargs", "7"), "chat_template_kwargs", "invalid_type"),
        bad(
            CHAT,
            chat("chat_template_kwargs", &format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20))),
            "chat_template_kwargs",
            "invalid_value",
        ),
        bad(
            CHAT,
            r#"{"messages":[{"role":"user","content":"hi"}],"continue_final_message":true,"add_generation_prompt":true}"#,
            "continue_final_message",
            "invalid_value",
        ),
        bad(CHAT, chat("cache_salt", "\"\""), "cache_salt", "invalid_value"),
        bad(CHAT, chat("model", "7"), "model", "invalid_type"),
    ]
}

/// Fields whose promise cannot be kept.
fn unsupported() -> Vec<Bad> {
    let tool = r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#;
    let chat_rows = [
        ("tools", tool),
        ("tools", "[]"),
        ("tool_choice", "\"auto\""),
        ("tool_choice", "\"required\""),
        ("functions", r#"[{"name":"f"}]"#),
        ("function_call", "\"auto\""),
        ("response_format", r#"{"type":"json_object"}"#),
        ("response_format", r#"{"type":"json_schema","json_schema":{"name":"x","schema":{}}}"#),
        ("modalities", r#"["text","audio"]"#),
        ("audio", r#"{"voice":"alloy","format":"wav"}"#),
        ("web_search_options", "{}"),
        ("prompt_logprobs", "1"),
    ];
    let text_rows = [
        ("suffix", "\"end\""),
        ("best_of", "3"),
        ("prompt_logprobs", "1"),
        ("response_format", r#"{"type":"json_object"}"#),
    ];
    let chat_rows = chat_rows
        .into_iter()
        .map(|(name, value)| bad(CHAT, chat(name, value), name, "unsupported_parameter"));
    let text_rows = text_rows
        .into_iter()
        .map(|(name, value)| bad(TEXT, text(name, value), name, "unsupported_parameter"));
    chat_rows.chain(text_rows).collect()
}

/// Fields of the other endpoints.
fn text_fields() -> Vec<Bad> {
    let prompt = |value: &str| format!(r#"{{"prompt":{value}}}"#);
    vec![
        bad(TEXT, "{}", "prompt", "missing_required_parameter"),
        bad(TEXT, prompt("\"\""), "prompt", "invalid_value"),
        bad(TEXT, prompt("[]"), "prompt", "invalid_value"),
        bad(TEXT, prompt("[[]]"), "prompt", "invalid_value"),
        bad(TEXT, prompt("[\"a\",1]"), "prompt[1]", "invalid_type"),
        bad(TEXT, prompt("[1,\"a\"]"), "prompt[1]", "invalid_type"),
        bad(TEXT, prompt("[[1],[\"a\"]]"), "prompt[1][0]", "invalid_type"),
        bad(TEXT, prompt("[4294967295]"), "prompt[0]", "invalid_value"),
        bad(TEXT, prompt("[[1],[-1]]"), "prompt[1][0]", "invalid_value"),
        bad(TEXT, prompt("[1.5]"), "prompt[0]", "invalid_type"),
        bad(TEXT, prompt("{}"), "prompt", "invalid_type"),
        bad(TEXT, prompt(&json!(vec!["x"; 100_000]).to_string()), "prompt", "invalid_value"),
        bad(TEXT, text("max_tokens", "0"), "max_tokens", "invalid_value"),
        bad(TEXT, text("max_tokens", "-1"), "max_tokens", "invalid_value"),
        bad(TEXT, text("max_tokens", "4000000000"), "max_tokens", "context_length_exceeded"),
        bad(TEXT, text("logprobs", "6"), "logprobs", "invalid_value"),
        bad(TEXT, text("logprobs", "-1"), "logprobs", "invalid_value"),
        bad(TEXT, text("logprobs", "true"), "logprobs", "invalid_type"),
        bad(TEXT, text("echo", "1"), "echo", "invalid_type"),
        bad("/tokenize", "{}", "prompt", "missing_required_parameter"),
        bad("/tokenize", r#"{"prompt":7}"#, "prompt", "invalid_type"),
        bad("/tokenize", r#"{"messages":[]}"#, "messages", "invalid_value"),
        bad("/detokenize", "{}", "tokens", "missing_required_parameter"),
        bad("/detokenize", r#"{"tokens":[4294967295]}"#, "tokens[0]", "invalid_value"),
        bad("/detokenize", r#"{"tokens":["a"]}"#, "tokens[0]", "invalid_type"),
    ]
}

#[tokio::test]
async fn every_bad_body_is_refused_by_name_while_others_are_served() {
    let rows: Vec<Bad> =
        [malformed(), numbers(), chat_fields(), unsupported(), text_fields()].into_iter().flatten().collect();
    assert!(rows.len() >= 120, "{}", rows.len());
    let router = router();
    let stream = question("What is mosu?", json!({"stream": true, "max_tokens": 64, "ignore_eos": true}));
    let served = tokio::spawn({
        let (router, stream) = (router.clone(), stream.clone());
        async move { post(&router, CHAT, &stream).await.chunks() }
    });
    for Bad { path, body, param, code } in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let reply = send(&router, post_bytes(path, body)).await;
        assert_eq!(reply.status, 400, "{path} {shown}: {}", reply.text);
        let error = reply.error();
        assert_eq!(error["param"], json!(param), "{path} {shown}: {error}");
        assert_eq!(error["code"], code, "{path} {shown}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(reply.text.len() < 4096, "{path} {shown}: an error must be short");
    }
    let undisturbed = post(&router, CHAT, &stream).await.chunks();
    let content = |chunks: &[Value]| {
        chunks.iter().map(|chunk| chunk["choices"][0]["delta"].to_string()).collect::<String>()
    };
    assert_eq!(content(&served.await.unwrap()), content(&undisturbed));
}

#[tokio::test]
async fn a_prompt_over_the_context_says_both_numbers() {
    let context = engine().max_model_len();
    let router = router();
    let prompt = vec![1; context + 1];
    for (path, body, param) in [
        (TEXT, json!({"prompt": prompt}), "prompt"),
        (TEXT, json!({"prompt": "hi", "max_tokens": context}), "max_tokens"),
        (CHAT, question(&"mosu ".repeat(context), json!({})), "messages"),
    ] {
        let reply = post(&router, path, &body).await;
        assert_eq!(reply.status, 400);
        let error = reply.error();
        assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!(param)));
        assert!(error["message"].as_str().unwrap().contains(&context.to_string()), "{error}");
    }
}

#[tokio::test]
async fn only_json_is_taken() {
    for content_type in
        ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    {
        let request =
            Request::post(CHAT).header(header::CONTENT_TYPE, content_type).body(Body::from("{}")).unwrap();
        let reply = send(&router(), request).await;
        assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (415, &json!("unsupported_media_type")));
    }
    let request = Request::post(CHAT)
        .header(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")
        .body(Body::from("{}"));
    assert_eq!(send(&router(), request.unwrap()).await.error()["code"], "missing_required_parameter");
}

#[tokio::test]
async fn large_and_slow_bodies_are_refused() {
    let limits = BodyLimits { max_bytes: 1000, timeout: Duration::from_millis(100) };
    let router = router_with(AppOptions { limits, ..common::options() });
    let reply = send(&router, post_bytes(CHAT, vec![b' '; 1001])).await;
    assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (413, &json!("payload_too_large")));
    // A length that is declared is refused before a byte is read.
    let request = Request::post(CHAT)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, "99999999999");
    let reply = send(&router, request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, 413);
    // A length that is not is refused once it is passed.
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 100])));
    let reply = send(&router, post_bytes(CHAT, Body::from_stream(endless))).await;
    assert_eq!(reply.status, 413);
    let silent = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let reply = send(&router, post_bytes(CHAT, Body::from_stream(silent))).await;
    assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (408, &json!("request_timeout")));
    assert_eq!(get(&router, "/health").await.status, 200);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_json_too() {
    let router = router();
    for path in ["/", "/v1", "/v1/embeddings", "//v1/models", "/v1/models/"] {
        let reply = get(&router, path).await;
        assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (404, &json!("not_found")), "{path}");
    }
    for (method, path, allow) in
        [("GET", CHAT, "POST"), ("POST", "/v1/models", "GET,HEAD"), ("DELETE", "/health", "GET,HEAD")]
    {
        let reply =
            send(&router, Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
        assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (405, &json!("method_not_allowed")));
        assert_eq!(reply.headers[header::ALLOW], allow);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_before_any_work() {
    let engine =
        mosu::Engine::load(mosu::EngineOptions { max_waiting_requests: 1, ..Default::default() }).unwrap();
    let state = mosu_server::state::App::new(
        engine.clone(),
        AppOptions { max_waiting_requests: 1, ..AppOptions::default() },
    );
    let router = mosu_server::router::router(std::sync::Arc::new(state));
    let place = engine.admit().unwrap();
    // Not even the body is looked at.
    let reply = send(&router, post_bytes(CHAT, "not JSON")).await;
    assert_eq!((reply.status.as_u16(), &reply.error()["code"]), (503, &json!("server_is_overloaded")));
    let seconds: u64 = reply.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds));
    drop(place);
    assert_eq!(post(&router, CHAT, &question("hi", json!({}))).await.status, 200);
    // More prompts than the queue can ever hold is the client's fault.
    let reply = post(&router, TEXT, &json!({"prompt": ["a", "b"]})).await;
    assert_eq!((reply.status.as_u16(), &reply.error()["param"]), (400, &json!("prompt")));
    let reply = post(&router, TEXT, &json!({"prompt": "a", "n": 2})).await;
    assert_eq!((reply.status.as_u16(), &reply.error()["param"]), (400, &json!("n")));
}
