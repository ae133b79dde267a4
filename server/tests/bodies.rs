//! Compressed bodies, through the router.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::io::Write;

use axum::http::{HeaderValue, Request, header};
use common::{Reply, completion, options, post, router, router_with, send};
use flate2::{Compression, write::GzEncoder};
use mosu_server::{body::BodyLimits, state::AppOptions};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

const PATH: &str = "/v1/completions";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

async fn send_encoded(router: &axum::Router, encodings: &[&str], body: Vec<u8>) -> Reply {
    let mut request = Request::post(PATH).header(header::CONTENT_TYPE, "application/json");
    for encoding in encodings {
        request = request.header(header::CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap());
    }
    send(router, request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn a_compressed_body_is_answered_as_the_plain_one() {
    let router = router();
    let body = completion("What is mosu?", json!({}));
    let plain = post(&router, PATH, &body).await.json()["choices"].clone();
    let body = body.to_string().into_bytes();
    for (encoding, encoded) in [
        ("identity", body.clone()),
        ("gzip", gzip(&body)),
        ("x-gzip", gzip(&body)),
        ("GZIP", gzip(&body)),
        ("zstd", zstd(&body)),
    ] {
        let reply = send_encoded(&router, &[encoding], encoded).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text);
        assert_eq!(reply.json()["choices"], plain, "{encoding}");
    }
}

#[tokio::test]
async fn other_encodings_and_several_are_refused() {
    let gzipped = gzip(b"{}");
    for encodings in [
        &["br"][..],
        &["deflate"],
        &["compress"],
        &[""],
        &["*"],
        &["gzip, gzip"],
        &["gzip", "zstd"],
        &["identity, gzip"],
    ] {
        let reply = send_encoded(&router(), encodings, gzipped.clone()).await;
        assert_eq!(reply.status, 415, "{encodings:?}");
        assert_eq!(reply.error()["code"], "unsupported_content_encoding");
        assert_eq!(reply.headers[header::ACCEPT_ENCODING], "gzip, zstd");
    }
}

#[tokio::test]
async fn what_is_too_large_or_broken_is_refused_by_name() {
    let limits = BodyLimits { max_bytes: 100_000, ..BodyLimits::default() };
    let router = router_with(AppOptions { limits, ..options() });
    let of = async |encoding: &str, body: Vec<u8>| {
        let reply = send_encoded(&router, &[encoding], body).await;
        (reply.status.as_u16(), reply.error()["code"].as_str().unwrap().to_string())
    };
    let bomb = vec![b' '; 50 << 20];
    for (encoding, encode) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let encoded = encode(&bomb);
        assert!(encoded.len() < 100_000, "{}", encoded.len());
        assert_eq!(of(encoding, encoded).await, (413, "payload_too_large".into()), "{encoding}");
        assert_eq!(of(encoding, encode(&[b' '; 100_001])).await.0, 413, "{encoding}");
        // One byte less, and it is the JSON that is at fault.
        assert_eq!(of(encoding, encode(&[b' '; 100_000])).await, (400, "invalid_json".into()), "{encoding}");
        let whole = encode(b"{\"prompt\": \"What is mosu?\"}");
        for broken in [b"{}".to_vec(), whole[..whole.len() - 5].to_vec(), [&whole[..], b"{}"].concat()] {
            assert_eq!(of(encoding, broken).await, (400, "invalid_encoding".into()), "{encoding}");
        }
        assert_eq!(of(encoding, encode(b"\xff")).await, (400, "invalid_utf8".into()), "{encoding}");
    }
}
