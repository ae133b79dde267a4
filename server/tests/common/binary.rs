//! The binary `mosu`, run as a user would, and a plain HTTP client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::metric;

/// Long enough for a loaded machine, short enough to notice a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program with arguments and none of the caller's variables.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mosu"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOSU_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// `mosu serve` on a free port; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What it printed before it was ready.
    pub table: String,
}

impl Server {
    /// Starts it with further arguments and waits until it listens.
    pub fn start(args: &[&str]) -> Server {
        Server::start_command(command(&["serve", "--port", "0", "--log-level", "warn"]).args(args))
    }

    /// Starts a prepared command.
    pub fn start_command(command: &mut Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut table = String::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the server ended: {table}");
            table.push_str(&line);
            if let Some(rest) = line.split_once("http://").map(|(_, rest)| rest) {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        // A full pipe would stop the server.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Server { child, address, table }
    }

    /// A connection with a request on its way.
    pub fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Sends a request on a connection of its own and reads until the server closes it.
    pub fn ask(&self, request: &str) -> String {
        read_to_end(self.open(request))
    }

    /// A value of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.ask(&get_request("/metrics")), name)
    }

    /// Waits until a metric has a value.
    pub fn wait_for_metric(&self, name: &str, right: impl Fn(f64) -> bool) {
        let started = Instant::now();
        while !right(self.metric(name)) {
            assert!(started.elapsed() < PATIENCE, "{name} is still {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET after which the connection closes.
pub fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// A POST of JSON after which the connection closes.
pub fn post_request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// All that comes until the connection closes.
pub fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Reads until `needle` has come.
pub fn read_until(stream: &mut TcpStream, needle: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(needle.as_bytes()) {
        assert_ne!(
            stream.read(&mut byte).unwrap(),
            0,
            "ended before {needle:?}: {}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}
