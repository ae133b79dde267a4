//! The accept loop: connections with limits of number, time and header size, and an orderly end.
//!
//! The end, in order: the listener closes at once; requests that come on open connections are refused;
//! streams finish until the deadline; what still runs then ends with an error event; open connections are
//! flushed. A second signal skips all waiting.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};

use crate::{client::Client, router::router, state::App, write_timeout::WriteTimeout};

/// After the deadline, time for the last error events to reach their clients.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// How often a failed engine is looked for.
const FATAL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of connections, and of the end.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Most connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Most time until a request's headers are complete, once they have begun.
    pub header_timeout: Duration,
    /// Most time between requests, and before the first.
    pub keep_alive_timeout: Duration,
    /// Most bytes of headers.
    pub max_header_bytes: usize,
    /// Most time that a client may leave its answer unread.
    pub write_timeout: Duration,
    /// Most time for streams to finish once the server is told to end.
    pub drain_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> ServeOptions {
        ServeOptions {
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            // Longer than the common proxies keep a connection for another request, so that they end it, not we.
            keep_alive_timeout: Duration::from_secs(75),
            max_header_bytes: 64 << 10,
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Why serving ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The engine failed.
    EngineFailed(String),
}

/// Serves until the first message on `stop`, then ends in order; a second message ends at once.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    options: ServeOptions,
    stop: &mut mpsc::Receiver<()>,
) -> Ended {
    let connections = GracefulShutdown::new();
    let router = router(app.clone());
    let ended = tokio::select! {
        () = accept(&listener, router, options, &connections) => Ended::Stopped,
        _ = stop.recv() => Ended::Stopped,
        cause = engine_failure(&app) => Ended::EngineFailed(cause),
    };
    drop(listener);
    app.drain.begin();
    app.engine.drain();
    tracing::info!("draining for up to {} s; signal again to end now", options.drain_timeout.as_secs());
    tokio::select! {
        () = finish(&app, connections, options.drain_timeout) => {}
        _ = stop.recv() => {}
    }
    ended
}

/// Lets requests finish until the deadline, then ends them.
async fn finish(app: &App, connections: GracefulShutdown, drain_timeout: Duration) {
    if timeout(drain_timeout, app.drain.idle()).await.is_err() {
        tracing::warn!("the drain deadline has passed: ending what still runs");
        app.engine.abort_all();
        // A client that does not read cannot be told; it is cut off.
        let _ = timeout(FLUSH_TIME, app.drain.idle()).await;
    }
    let _ = timeout(FLUSH_TIME, connections.shutdown()).await;
}

/// Ends with the cause when the engine cannot go on.
async fn engine_failure(app: &App) -> String {
    loop {
        sleep(FATAL_CHECK_INTERVAL).await;
        if let Some(cause) = app.engine.stats().fatal {
            return cause;
        }
    }
}

/// Accepts connections, for ever.
async fn accept(
    listener: &TcpListener,
    router: Router,
    options: ServeOptions,
    connections: &GracefulShutdown,
) {
    let permits = Arc::new(Semaphore::new(options.max_connections));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), options, connections);
                tokio::spawn(hold(permit, connection));
            }
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                // Out of file descriptors, most likely: closing connections will help, trying at once will not.
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn hold(_permit: OwnedSemaphorePermit, connection: impl Future<Output = Result<(), hyper::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!("a connection ended early: {error}");
    }
}

/// One connection of HTTP/1.
fn connection(
    stream: TcpStream,
    router: Router,
    options: ServeOptions,
    connections: &GracefulShutdown,
) -> impl Future<Output = Result<(), hyper::Error>> + Send + use<> {
    // Small chunks must leave at once; without the option they still do, later.
    let _ = stream.set_nodelay(true);
    let client = Client::new(stream);
    let stream = WriteTimeout::new(client.clone(), options.write_timeout);
    let connection = http1::Builder::new()
        .half_close(true)
        // Its own would count idle time too.
        .header_read_timeout(None)
        .max_buf_size(options.max_header_bytes)
        .serve_connection(TokioIo::new(stream), client.service(router));
    let connection = connections.watch(connection);
    async move {
        tokio::select! {
            biased; // what has come is looked at before the time
            ended = connection => ended,
            () = client.lost(options.keep_alive_timeout, options.header_timeout) => Ok(()),
        }
    }
}

/// Sends a message for every SIGTERM and SIGINT.
pub fn stop_on_signals() -> io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        while signals.next().await.is_some() {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            signal = self.terminate.recv() => signal,
            signal = self.interrupt.recv() => signal,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> Option<()> {
        tokio::signal::ctrl_c().await.ok()
    }
}
