//! What the black-box tests share: a server without a socket, and the binary with one.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod binary;

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use mosu::{Engine, EngineOptions};
use mosu_server::state::{App, AppOptions};
use serde_json::{Value, json};
use tower::ServiceExt;

/// The demonstration model, loaded once per test program.
pub fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::load(EngineOptions::default()).unwrap()).clone()
}

/// Options of a server that anyone may ask.
pub fn options() -> AppOptions {
    AppOptions {
        max_waiting_requests: EngineOptions::default().max_waiting_requests,
        ..AppOptions::default()
    }
}

/// A server in front of the demonstration model.
pub fn router() -> Router {
    router_with(options())
}

/// The same, with options.
pub fn router_with(options: AppOptions) -> Router {
    mosu_server::router::router(Arc::new(App::new(engine(), options)))
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The member `error` of the body, with all its four members.
    pub fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        let members: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(members.len(), 4, "{members:?}");
        for member in ["message", "type", "param", "code"] {
            assert!(error.get(member).is_some(), "{member}: {error}");
        }
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        error
    }

    /// The JSON chunks of a stream that ended as it should.
    pub fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "text/event-stream");
        chunks(&self.text)
    }
}

/// The JSON chunks of a stream, which must end in `[DONE]`.
pub fn chunks(text: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends a request and reads the whole answer.
pub async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Reply { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// A POST of raw bytes that claim to be JSON.
pub fn post_bytes(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

/// POSTs JSON.
pub async fn post(router: &Router, path: &str, body: &Value) -> Reply {
    send(router, post_bytes(path, body.to_string())).await
}

/// GETs a path.
pub async fn get(router: &Router, path: &str) -> Reply {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

/// A chat of one question, with further fields.
pub fn question(text: &str, fields: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// A text completion, with further fields.
pub fn completion(prompt: impl Into<Value>, fields: Value) -> Value {
    let mut body = json!({"prompt": prompt.into(), "temperature": 0, "max_tokens": 8});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// A value of `/metrics`.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

/// The texts of all chunks, by choice.
pub fn texts(chunks: &[Value], pointer: &str, choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let text = choice.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        texts[choice["index"].as_u64().unwrap() as usize].push_str(text);
    }
    texts
}
