//! The other end of a connection: how long it may leave the connection idle, and whether it is still there.
//!
//! A client may shut down its sending half once its request is sent, and wait for the answer; one that closes its socket
//! waits for nothing. From here both look alike, until something is sent: what comes for a socket that is closed is
//! answered with a reset. A streamed answer finds it out by itself. Before any other, an interim answer asks.

use std::{
    convert::Infallible,
    future::pending,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, http::Version, response::Response};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep},
};

use crate::drain::GuardedBody;

/// Clients of HTTP/1.1 take any number of these before an answer, and this one is known to all of them.
const INTERIM_ANSWER: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request has begun, since then.
    Idle(Instant),
    /// A request's headers come, since then.
    Headers(Instant),
    /// A request's body comes.
    Body,
    /// The request is complete, and nothing of its answer is written.
    Answer,
    /// The answer is being written, or may be.
    Writing,
    /// The answer's last part is on its way into the socket.
    Flushing,
}

/// One client, as its connection's task shares it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: Arc<TcpStream>,
    phase: Arc<watch::Sender<Phase>>,
}

impl Client {
    /// The client at the other end of a socket.
    pub fn new(socket: TcpStream) -> Client {
        let phase = watch::Sender::new(Phase::Idle(Instant::now()));
        Client { socket: Arc::new(socket), phase: Arc::new(phase) }
    }

    /// Asks `router` for answers, noting when they begin and end.
    pub fn service(
        &self,
        router: Router,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + use<> {
        let (client, router) = (self.clone(), TowerToHyperService::new(router));
        service_fn(move |request| {
            let client = client.clone();
            let answer = router.call(client.begin(request));
            async move { answer.await.map(|response| client.end(response)) }
        })
    }

    fn begin(&self, request: Request<Incoming>) -> Request {
        // HTTP/1.0 has no interim answers.
        let has_interim = request.version() >= Version::HTTP_11;
        self.advance(|_| if has_interim { Phase::Body } else { Phase::Writing });
        let come = |phase| if phase == Phase::Body { Phase::Answer } else { phase };
        let guard = AdvanceOnDrop { client: self.clone(), next: come };
        request.map(|body| GuardedBody::wrap(Body::new(body), guard))
    }

    fn end(&self, response: Response) -> Response {
        let guard = AdvanceOnDrop { client: self.clone(), next: |_| Phase::Flushing };
        response.map(|body| GuardedBody::wrap(body, guard))
    }

    fn advance(&self, next: impl FnOnce(Phase) -> Phase) {
        self.phase.send_if_modified(|phase| {
            let before = *phase;
            *phase = next(before);
            *phase != before
        });
    }

    /// Ends when the client is gone, or takes too long to begin a request, or to send its headers.
    pub async fn lost(&self, idle_limit: Duration, header_limit: Duration) {
        tokio::select! {
            _ = self.socket.ready(Interest::ERROR) => {}
            () = self.late_or_closed(idle_limit, header_limit) => {}
        }
    }

    async fn late_or_closed(&self, idle_limit: Duration, header_limit: Duration) {
        let mut phases = self.phase.subscribe();
        loop {
            let phase = *phases.borrow_and_update();
            let lost = async {
                match phase {
                    Phase::Idle(since) => sleep(idle_limit.saturating_sub(since.elapsed())).await,
                    Phase::Headers(since) => sleep(header_limit.saturating_sub(since.elapsed())).await,
                    Phase::Answer => self.closed().await,
                    Phase::Body | Phase::Writing | Phase::Flushing => pending().await,
                }
            };
            tokio::select! {
                // The sender is `self`.
                _ = phases.changed() => {}
                () = lost => return,
            }
        }
    }

    /// Asks a client that will send nothing more whether it waits for its answer. [`Client::lost`] hears of the reset that
    /// says no; this ends only when the question cannot be put whole.
    async fn closed(&self) {
        match self.socket.peek(&mut [0]).await {
            Ok(0) => {}
            // The next request is there already.
            Ok(_) => return pending().await,
            Err(_) => return,
        }
        // Nothing of an answer is written, so the interim one comes between two messages.
        match self.socket.try_write(INTERIM_ANSWER) {
            Ok(written) if written < INTERIM_ANSWER.len() => {}
            _ => pending().await,
        }
    }
}

/// Notes that a body has been read or written, or given up.
struct AdvanceOnDrop {
    client: Client,
    next: fn(Phase) -> Phase,
}

impl Drop for AdvanceOnDrop {
    fn drop(&mut self) {
        self.client.advance(self.next);
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            match self.socket.try_read(buffer.initialize_unfilled()) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(count) => {
                    buffer.advance(count);
                    self.advance(|phase| match phase {
                        Phase::Idle(_) => Phase::Headers(Instant::now()),
                        phase => phase,
                    });
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Client {
    fn poll_write_with(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.advance(|phase| if phase == Phase::Answer { Phase::Writing } else { phase });
        loop {
            ready!(self.socket.poll_write_ready(context))?;
            match write(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// A socket has nothing to flush; but who flushes has written all it had.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.advance(|phase| if phase == Phase::Flushing { Phase::Idle(Instant::now()) } else { phase });
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write))
    }
}
