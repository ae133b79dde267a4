//! Several engine streams as one.

use std::{future::Future, pin::Pin};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mosu::{Event, GenerationStream, RequestError};

/// The events of several streams in the order in which they come. Dropping it aborts what still runs.
pub struct SelectAll {
    waiting: FuturesUnordered<NextEvent>,
}

type NextEvent = Pin<Box<dyn Future<Output = (usize, GenerationStream, Option<Event>)> + Send>>;

fn next_event(index: usize, mut stream: GenerationStream) -> NextEvent {
    Box::pin(async move {
        let event = stream.next().await;
        (index, stream, event)
    })
}

impl SelectAll {
    /// Streams, each known by its place.
    pub fn new(streams: Vec<GenerationStream>) -> SelectAll {
        SelectAll {
            waiting: streams
                .into_iter()
                .enumerate()
                .map(|(index, stream)| next_event(index, stream))
                .collect(),
        }
    }

    /// The next event and the place of its stream; `None` when all streams have ended. Each stream's last event is
    /// final.
    pub async fn next(&mut self) -> Option<(usize, Event)> {
        let (index, stream, event) = self.waiting.next().await?;
        let event = event.unwrap_or_else(|| Event::Failed(RequestError::Fatal("its thread ended".into())));
        if !matches!(event, Event::Finished(_) | Event::Failed(_)) {
            self.waiting.push(next_event(index, stream));
        }
        Some((index, event))
    }

    /// Drops all streams.
    pub fn abort(&mut self) {
        self.waiting.clear();
    }
}
