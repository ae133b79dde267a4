//! No route is open without a key but /health, whatever the method.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use axum::{
    body::Body,
    http::{Request, header},
};
use common::{options, router_with, send};
use mosu_server::{app, app::AppOptions, auth::Access};
use serde_json::json;

fn guarded() -> axum::Router {
    router_with(AppOptions { access: Access::new(&["right".into(), "other".into()]), ..options() })
}

fn request(method: &str, path: &str, authorization: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn every_route_and_method_needs_a_key() {
    let router = guarded();
    let known: Vec<String> =
        app::routes().iter().map(|(path, _)| path.replace("{*id}", "mosu-demo")).collect();
    assert!(known.len() >= 10);
    let unknown = ["/", "/v1", "//v1/models", "/%2fhealth", "/health/", "/health/../metrics", "/nope"]
        .map(String::from);
    for path in known.iter().chain(&unknown) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let reply = send(&router, request(method, path, None)).await;
            if path == "/health" {
                assert_ne!(reply.status, 401, "{method} {path}");
                continue;
            }
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
            if method != "HEAD" {
                assert_eq!(reply.error()["code"], "invalid_api_key");
            }
        }
    }
}

#[tokio::test]
async fn a_right_key_opens_and_a_wrong_one_does_not() {
    let router = guarded();
    for (value, status) in [
        ("Bearer right", 200),
        ("Bearer other", 200),
        ("bearer right", 200),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("Bearer right,other", 401),
        ("Basic right", 401),
        ("right", 401),
    ] {
        assert_eq!(send(&router, request("GET", "/v1/models", Some(value))).await.status, status, "{value}");
    }
    assert_eq!(send(&router, request("GET", "/v1/models?key=right", None)).await.status, 401);
}

#[tokio::test]
async fn holders_of_different_keys_share_no_prefix() {
    let router = guarded();
    // Longer than a few KV blocks, and in no other test.
    let text = "zebra ".repeat(20);
    let cached = async |key: &str| {
        let body = json!({"prompt": text, "max_tokens": 1}).to_string();
        let request = Request::post("/v1/completions")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {key}"));
        let reply = send(&router, request.body(Body::from(body)).unwrap()).await;
        reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("right").await, 0);
    assert_ne!(cached("right").await, 0, "one's own prefix is found");
    assert_eq!(cached("other").await, 0, "another's is not");
}

#[tokio::test]
async fn without_keys_only_loopback_names_are_served() {
    let router = router_with(AppOptions { access: Access::new(&[]).loopback_names_only(), ..options() });
    for (host, status) in
        [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("attacker.example:8000", 403)]
    {
        let request = Request::get("/v1/models").header(header::HOST, host).body(Body::empty()).unwrap();
        let reply = send(&router, request).await;
        assert_eq!(reply.status, status, "{host}");
        assert!(!reply.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
