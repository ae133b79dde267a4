//! A streamed answer: one `data:` line per chunk, then `data: [DONE]`.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::HeaderValue,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde::Serialize;

use super::{generation::Generation, writer::Writer};
use crate::error::ApiError;

/// A silent stream sends a comment this often, so that no proxy takes it for dead.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// One line of JSON.
pub fn line<T: Serialize>(chunk: &T) -> String {
    serde_json::to_string(chunk).unwrap_or_else(|error| {
        tracing::error!("a chunk could not be written as JSON: {error}");
        String::from(r#"{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}"#)
    })
}

/// The response that streams a generation. The generation lives in the body: when the client leaves, it is aborted.
pub fn respond(generation: Generation, writer: impl Writer) -> Response {
    let stream = Stream { generation, writer, ready: VecDeque::new(), done: false };
    let events = stream::unfold(stream, |mut stream| async move {
        let data = stream.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), stream))
    });
    let ping = KeepAlive::new().interval(PING_INTERVAL).text("ping");
    let mut response = Sse::new(events).keep_alive(ping).into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Stream<W> {
    generation: Generation,
    writer: W,
    ready: VecDeque<String>,
    done: bool,
}

impl<W: Writer> Stream<W> {
    /// The next line; `None` after `[DONE]`.
    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.done {
            self.advance().await;
        }
        self.ready.pop_front()
    }

    async fn advance(&mut self) {
        match self.generation.next().await {
            Some(Ok(piece)) => {
                let usage = self.generation.usage();
                self.ready.extend(self.writer.chunks(piece, usage));
                return;
            }
            Some(Err(error)) => {
                let error = ApiError::from(error);
                self.ready.push_back(line(&error.body()));
            }
            None if self.writer.common().stream.include_usage => {
                self.ready.push_back(self.writer.usage_chunk(self.generation.usage()));
            }
            None => {}
        }
        self.ready.push_back("[DONE]".into());
        self.done = true;
    }
}
