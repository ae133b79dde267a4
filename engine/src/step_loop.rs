//! The engine's thread: the one that owns all mutable state. It receives commands, steps, and tells the callers.
//!
//! One turn of the loop is one token of every running sequence. Without work the thread sleeps on its channel.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    Event, RequestError,
    active_request::Submission,
    core::{Core, panic_message},
    sequence::RequestId,
    stats::Progress,
};

/// An event, and when the engine gave it.
pub(crate) type TimedEvent = (Instant, Event);

/// What others ask of the engine's thread.
pub(crate) enum Command {
    /// A new request, and where its events go.
    Submit(Box<Submission>, UnboundedSender<TimedEvent>),
    /// A request's caller is gone.
    Abort(RequestId),
    /// End every request with an error.
    AbortAll,
    /// End every request with an error, and the thread.
    Stop,
}

/// The thread's state.
pub(crate) struct StepLoop {
    core: Core,
    /// Where the events of each live request go.
    streams: HashMap<RequestId, UnboundedSender<TimedEvent>>,
    progress: Arc<Progress>,
}

impl StepLoop {
    /// A loop over `core` that reports to `progress`.
    pub fn new(core: Core, progress: Arc<Progress>) -> StepLoop {
        StepLoop { core, streams: HashMap::new(), progress }
    }

    /// Runs until it is told to stop or cannot go on. Then every stream has had its final event.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve(commands)));
        let error = match ended.unwrap_or_else(|panic| Err(panic_message(&*panic))) {
            Ok(()) => RequestError::ShuttingDown,
            Err(reason) => {
                self.progress.set_fatal(reason.clone(), self.streams.len());
                RequestError::Fatal(reason)
            }
        };
        for stream in self.streams.values() {
            let _ = stream.send((Instant::now(), Event::Failed(error.clone())));
        }
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<(), String> {
        self.report();
        while self.receive(commands).is_continue() {
            if !self.core.is_idle() {
                self.core.step()?;
            }
            self.report(); // first, so that no caller finds older statistics than its events
            self.tell_callers();
            if cfg!(debug_assertions) && self.core.is_idle() {
                self.core.check_integrity()?;
            }
        }
        Ok(())
    }

    /// Obeys what was asked since the last step. Without work it sleeps until something is.
    fn receive(&mut self, commands: &Receiver<Command>) -> ControlFlow<()> {
        let mut next = commands.try_recv().ok();
        if next.is_none() && self.core.is_idle() {
            let Ok(command) = commands.recv() else { return ControlFlow::Break(()) };
            next = Some(command);
        }
        while let Some(command) = next {
            self.obey(command)?;
            self.report(); // when the engine was idle, a stall counts from here
            next = commands.try_recv().ok();
        }
        ControlFlow::Continue(())
    }

    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Submit(submission, stream) => {
                self.streams.insert(submission.id, stream);
                self.core.submit(*submission);
            }
            Command::Abort(id) => {
                self.streams.remove(&id);
                self.core.abort(id);
            }
            Command::AbortAll => self.core.fail_all(&RequestError::ShuttingDown),
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// A caller that is gone has sent, or will send, an abort; here it is ignored.
    fn tell_callers(&mut self) {
        let now = Instant::now();
        for (id, event) in self.core.drain_events() {
            let stream =
                if event.is_final() { self.streams.remove(&id) } else { self.streams.get(&id).cloned() };
            let _ = stream.map(|stream| stream.send((now, event)));
        }
    }

    fn report(&self) {
        self.progress.update(self.core.stats(), self.core.is_idle(), Instant::now());
    }
}
