//! Going away: which requests are still being answered, and whether new ones are taken.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;

/// Counts requests until their last byte is written, and says when no more are taken.
#[derive(Debug, Default)]
pub struct Drain {
    draining: AtomicBool,
    in_flight: watch::Sender<usize>,
}

impl Drain {
    /// From now on new requests are refused.
    pub fn begin(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn enter(self: &Arc<Drain>) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(self.clone())
    }

    /// Waits until nothing is being answered.
    pub async fn idle(&self) {
        // The sender is `self`, so the wait cannot fail.
        let _ = self.in_flight.subscribe().wait_for(|&count| count == 0).await;
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight(Arc<Drain>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

impl InFlight {
    /// Keeps the request in flight until its response's body is written or dropped.
    pub fn with_body_of(self, response: Response) -> Response {
        response.map(|body| GuardedBody::wrap(body, self))
    }
}

/// A body that drops its guard with itself: once it has been read or written, or given up.
pub struct GuardedBody<G> {
    body: Body,
    _guard: G,
}

impl<G: Send + Unpin + 'static> GuardedBody<G> {
    /// Keeps `guard` as long as `body`.
    pub fn wrap(body: Body, guard: G) -> Body {
        Body::new(GuardedBody { body, _guard: guard })
    }
}

impl<G: Unpin> HttpBody for GuardedBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_body_is_dropped() {
        let drain = Arc::new(Drain::default());
        let response = drain.enter().with_body_of("hello".into_response());
        assert_eq!(drain.idle().now_or_never(), None);
        drop(response);
        drain.idle().await;
    }
}
