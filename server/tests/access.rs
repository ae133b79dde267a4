//! No route is open without a key but /health, whatever the method.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use axum::{
    body::Body,
    http::{Request, header},
};
use common::{Reply, options, router_with, send};
use mosu_server::{auth::Access, body::BodyLimits, cors::Cors, router, state::AppOptions};
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
        router::routes().iter().map(|(path, _)| path.replace("{*id}", "mosu-demo")).collect();
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

const PAGE: &str = "https://app.example";

fn for_pages(origins: &[&str]) -> axum::Router {
    let cors = Cors::new(origins.iter().map(|origin| origin.parse().unwrap()).collect());
    let limits = BodyLimits { max_bytes: 1000, ..BodyLimits::default() };
    router_with(AppOptions { access: Access::new(&["right".into()]), cors, limits, ..options() })
}

fn header_of<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.get(name).map(|value| value.to_str().unwrap())
}

/// What a browser asks before it sends a page's request.
fn preflight(path: &str, origin: &str) -> Request<Body> {
    Request::options(path)
        .header(header::ORIGIN, origin)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type,x-stainless-os")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn preflights_of_allowed_pages_are_answered_without_a_key() {
    for (origins, allowed, vary) in
        [(&["https://other.example", PAGE][..], PAGE, Some("origin")), (&["*"], "*", None)]
    {
        let router = for_pages(origins);
        let reply = send(&router, preflight("/v1/chat/completions", PAGE)).await;
        assert_eq!((reply.status.as_u16(), reply.text.as_str()), (204, ""));
        let header = |name| header_of(&reply, name);
        assert_eq!(header("access-control-allow-origin"), Some(allowed));
        assert_eq!(header("access-control-allow-methods"), Some("GET, POST"));
        assert_eq!(header("access-control-allow-headers"), Some("authorization,content-type,x-stainless-os"));
        assert_eq!((header("access-control-max-age"), header("vary")), (Some("600"), vary));
    }
}

#[tokio::test]
async fn allowed_pages_can_read_answers_and_errors() {
    let router = for_pages(&[PAGE]);
    let ask = async |method: &str, path: &str, key: &str, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(path).header(header::ORIGIN, PAGE);
        let request = request
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header(header::CONTENT_TYPE, "application/json");
        send(&router, request.body(body.into()).unwrap()).await
    };
    for (status, reply) in [
        (200, ask("GET", "/v1/models", "right", vec![]).await),
        (400, ask("POST", "/v1/completions", "right", b"{}".to_vec()).await),
        (401, ask("GET", "/v1/models", "wrong", vec![]).await),
        (404, ask("GET", "/nowhere", "right", vec![]).await),
        (405, ask("DELETE", "/v1/models", "right", vec![]).await),
        (413, ask("POST", "/v1/completions", "right", vec![b' '; 1001]).await),
    ] {
        assert_eq!(reply.status, status);
        assert_eq!(header_of(&reply, "access-control-allow-origin"), Some(PAGE), "{status}");
        let exposed = header_of(&reply, "access-control-expose-headers").unwrap();
        assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
    }
}

#[tokio::test]
async fn other_pages_get_no_leave() {
    for (origins, page) in [
        (&[][..], PAGE),
        (&[PAGE], "https://app.example.evil"),
        (&[PAGE], "http://app.example"),
        (&[PAGE], "https://app.example:8443"),
        (&[PAGE], "null"),
    ] {
        let router = for_pages(origins);
        let reply = send(&router, preflight("/v1/models", page)).await;
        assert_eq!(reply.status, 401, "{page}");
        assert_eq!(header_of(&reply, "access-control-allow-origin"), None, "{page}");
        assert_eq!(header_of(&reply, "vary").is_some(), !origins.is_empty());
    }
    // What is no preflight needs its key, whoever may ask.
    let options = Request::options("/v1/models").header(header::ORIGIN, PAGE).body(Body::empty()).unwrap();
    assert_eq!(send(&for_pages(&["*"]), options).await.status, 401);
}
