//! The caller's end of a request.

use std::{
    sync::{Arc, mpsc::Sender},
    time::Instant,
};

use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError};

use crate::{
    Event, RequestError,
    sequence::RequestId,
    stats::Progress,
    step_loop::{Command, TimedEvent},
};

/// The events of one request, the last of which is [`Event::Finished`] or [`Event::Failed`]. Dropping the stream
/// before that aborts the request: its KV blocks are free before the next step.
#[derive(Debug)]
pub struct GenerationStream {
    id: RequestId,
    events: UnboundedReceiver<TimedEvent>,
    commands: Sender<Command>,
    progress: Arc<Progress>,
    event_time: Instant,
    ended: bool,
}

impl GenerationStream {
    pub(crate) fn new(
        id: RequestId,
        events: UnboundedReceiver<TimedEvent>,
        commands: Sender<Command>,
        progress: Arc<Progress>,
    ) -> GenerationStream {
        GenerationStream { id, events, commands, progress, event_time: Instant::now(), ended: false }
    }

    /// The next event; `None` after the final one. Runs on any async runtime, and dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.take(event))
    }

    /// The next event, for which it blocks the thread; `None` after the final one.
    ///
    /// # Panics
    /// In an async runtime, which must not be blocked: use [`GenerationStream::next`] there.
    pub fn next_blocking(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.take(event))
    }

    /// The next event if it is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        match self.events.try_recv() {
            Ok(event) => Some(self.take(Some(event))),
            Err(TryRecvError::Disconnected) => Some(self.take(None)),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// When the engine gave the event that was returned last, however late the caller came for it: all tokens of a
    /// step have the same time. Before the first event, when the request was handed in.
    pub fn event_time(&self) -> Instant {
        self.event_time
    }

    /// Without a final event the channel closes only when the engine's thread is gone.
    fn take(&mut self, received: Option<TimedEvent>) -> Event {
        let (time, event) = received.unwrap_or_else(|| {
            let error = self.progress.fatal().map_or(RequestError::ShuttingDown, RequestError::Fatal);
            (Instant::now(), Event::Failed(error))
        });
        self.event_time = time;
        self.ended = event.is_final();
        event
    }
}

impl Iterator for GenerationStream {
    type Item = Event;

    /// As [`GenerationStream::next_blocking`].
    fn next(&mut self) -> Option<Event> {
        self.next_blocking()
    }
}

impl Drop for GenerationStream {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}
