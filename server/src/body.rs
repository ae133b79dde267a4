//! Reading a JSON body, compressed or not, within limits of size and time.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use futures_util::StreamExt;

use crate::{blocking::blocking, decompress::Encoding, error::ApiError};

/// How large and how slow a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes, as sent and as decompressed.
    pub max_bytes: usize,
    /// Most time until the last byte.
    pub timeout: Duration,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits { max_bytes: 32 << 20, timeout: Duration::from_secs(30) }
    }
}

/// The text of a body that says it is JSON, decompressed.
pub async fn read_json(request: Request, limits: &BodyLimits) -> Result<String, ApiError> {
    check_content_type(request.headers())?;
    let encoding = Encoding::of(request.headers()).ok_or_else(ApiError::unsupported_encoding)?;
    let declared = content_length(request.headers());
    if declared.is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large(limits));
    }
    let read = collect(request, declared, limits);
    let bytes = tokio::time::timeout(limits.timeout, read).await.map_err(|_| too_slow(limits))??;
    let bytes = match encoding {
        Encoding::Identity => bytes,
        Encoding::Gzip | Encoding::Zstd => {
            let limits = *limits;
            blocking(move || decompress(bytes, encoding, &limits)).await?
        }
    };
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_utf8",
            format!("the body is not UTF-8 at byte {place}"),
        )
    })
}

async fn collect(request: Request, declared: Option<u64>, limits: &BodyLimits) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(declared.map_or(0, |length| length.min(1 << 16) as usize));
    let mut frames = request.into_body().into_data_stream();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", "the connection broke inside the body")
        })?;
        if bytes.len() + frame.len() > limits.max_bytes {
            return Err(too_large(limits));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

fn decompress(bytes: Vec<u8>, encoding: Encoding, limits: &BodyLimits) -> Result<Vec<u8>, ApiError> {
    let text = encoding.decode(bytes, limits.max_bytes).map_err(|error| {
        let message = format!("the body cannot be decompressed as its `content-encoding` says: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_encoding", message)
    })?;
    if text.len() > limits.max_bytes { Err(too_large(limits)) } else { Ok(text) }
}

/// A page in a browser can send forms to this machine without asking, but not JSON: so only JSON is taken.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = sent.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "the body must be JSON: send the header `content-type: application/json`",
    ))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limits: &BodyLimits) -> ApiError {
    let message = format!("the body is larger than {} bytes, the limit of this server", limits.max_bytes);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
}

fn too_slow(limits: &BodyLimits) -> ApiError {
    let message = format!("the body was not there after {} s", limits.timeout.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
}
