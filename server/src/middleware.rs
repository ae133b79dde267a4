//! What happens around every request: its id, its log line, its panics, and the refusal while draining.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::HeaderValue,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;

use crate::{auth::OPEN_ROUTE, drain::Drain, error::ApiError, openai::wire};

const REQUEST_ID: &str = "x-request-id";

/// Longest id taken from a client.
const MAX_ID_CHARS: usize = 128;

/// Gives the request an id and answers in its name, whatever happens inside.
pub async fn identify(State(drain): State<Arc<Drain>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = drain.enter();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_string();
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| ApiError::internal().into_response());
    let millis = started.elapsed().as_millis() as u64;
    // The path is from outside: `?` escapes its control characters.
    tracing::info!(request = id, %method, ?path, status = response.status().as_u16(), millis, "answered");
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert("openai-processing-ms", HeaderValue::from(millis));
    in_flight.with_body_of(response)
}

/// The client's id, if it is harmless, or a new one.
fn request_id(request: &Request) -> String {
    let harmless = |id: &&str| {
        let chars = || id.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c));
        (1..=MAX_ID_CHARS).contains(&id.len()) && chars()
    };
    let sent = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    sent.filter(harmless).map_or_else(|| wire::unique_id("req-"), String::from)
}

/// Refuses new requests on connections that are still open while the server goes away.
pub async fn refuse_while_draining(
    State(drain): State<Arc<Drain>>,
    request: Request,
    next: Next,
) -> Response {
    if drain.is_draining() && request.uri().path() != OPEN_ROUTE {
        return ApiError::shutting_down().into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        async fn panics() {
            panic!("a fault in a handler");
        }
        let drain = Arc::new(Drain::default());
        let router: Router = Router::new()
            .route("/", get(panics))
            .layer(middleware::from_fn_with_state(drain.clone(), identify));
        let response = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(REQUEST_ID));
        drop(response);
        drain.idle().await;
    }
}
