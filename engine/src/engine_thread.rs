//! The engine's thread as others see it: they admit requests, read its progress, and stop it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::mpsc::unbounded_channel;

use crate::{
    GenerationStream, Request, RequestError, Stats,
    active_request::Submission,
    core::{Core, CoreParts},
    queue::{Permit, Queue},
    stats::Progress,
    step_loop::{Command, StepLoop},
    validate::{Limits, validate},
};

/// Dropping it stops the thread and waits for its end, at most one step long.
#[derive(Debug)]
pub(crate) struct EngineThread {
    commands: Sender<Command>,
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    limits: Limits,
    next_id: AtomicU64,
    draining: AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl EngineThread {
    /// Starts an engine, in which at most `limits.max_waiting_requests` with `max_waiting_tokens` may wait.
    ///
    /// # Errors
    /// The system's, when it has no thread to give.
    pub fn start(parts: CoreParts, limits: Limits, max_waiting_tokens: usize) -> io::Result<EngineThread> {
        let (commands, receiver) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let step_loop = StepLoop::new(Core::new(parts), Arc::clone(&progress));
        let thread =
            thread::Builder::new().name("mosu-engine".into()).spawn(move || step_loop.run(&receiver))?;
        Ok(EngineThread {
            commands,
            queue: Queue::new(limits.max_waiting_requests, max_waiting_tokens),
            progress,
            limits,
            next_id: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            thread: Some(thread),
        })
    }

    /// What bounds every request.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a permit in the queue.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`], [`RequestError::ShuttingDown`] or [`RequestError::Fatal`].
    pub fn admit(self: &Arc<EngineThread>) -> Result<Admission, RequestError> {
        if let Some(reason) = self.progress.fatal() {
            return Err(RequestError::Fatal(reason));
        }
        if self.draining.load(Relaxed) {
            return Err(RequestError::ShuttingDown);
        }
        Ok(Admission { permit: self.queue.enter()?, thread: Arc::clone(self) })
    }

    /// The engine as of now.
    pub fn stats(&self) -> Stats {
        self.progress.snapshot(Instant::now())
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Ends every request with an error, after the step that is being computed.
    pub fn abort_all(&self) {
        let _ = self.commands.send(Command::AbortAll);
    }

    fn submit(&self, mut permit: Permit, request: Request) -> Result<GenerationStream, RequestError> {
        let max_tokens = validate(&request, &self.limits)?;
        permit.widen(request.n as usize, request.prompt.len())?;
        let id = self.next_id.fetch_add(1, Relaxed);
        let (sender, events) = unbounded_channel();
        let stream = GenerationStream::new(id, events, self.commands.clone(), Arc::clone(&self.progress));
        let submission = Box::new(Submission { id, request, max_tokens, permit });
        // When the thread is gone, so is the sender, and the stream says why.
        let _ = self.commands.send(Command::Submit(submission, sender));
        Ok(stream)
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // It catches its panics, and reports them itself.
            let _ = thread.join();
        }
    }
}

/// A permit in the queue. Dropping it gives it back.
#[derive(Debug)]
pub struct Admission {
    permit: Permit,
    thread: Arc<EngineThread>,
}

impl Admission {
    /// Hands the request in. It takes one permit per choice, and its prompt tokens count, until it first runs.
    ///
    /// # Errors
    /// What is wrong with the request, or [`RequestError::Overloaded`].
    pub fn generate(self, request: Request) -> Result<GenerationStream, RequestError> {
        self.thread.submit(self.permit, request)
    }
}
