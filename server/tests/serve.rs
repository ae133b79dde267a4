//! `mosu serve` as its users meet it: with a socket, clients that leave, signals and keys.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{
    binary::{PATIENCE, Server, command, get_request, post_request, read_to_end, read_until},
    chunks,
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A chat that streams so many tokens, or as many as the context holds.
fn long_stream(max_tokens: Option<u32>) -> String {
    let body = json!({
        "messages": [{"role": "user", "content": "What is mosu?"}],
        "stream": true, "ignore_eos": true, "temperature": 1, "n": 8, "max_tokens": max_tokens,
    });
    post_request(CHAT, &body.to_string())
}

/// A directory of its own, removed when dropped.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("mosu-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn serve_prints_what_runs_and_streams() {
    let server = Server::start(&[]);
    for word in ["mosu-demo", "context", "KV cache", "weights", "device"] {
        assert!(server.table.contains(word), "{}", server.table);
    }
    let answer = server.ask(&long_stream(Some(20)));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("data: [DONE]"));
}

#[test]
fn a_broken_template_refuses_chats_only() {
    let model = Directory::new("broken-template");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo/");
        std::fs::copy(format!("{demo}{file}"), model.0.join(file)).unwrap();
    }
    model.file("chat_template.jinja", "{% if %}");
    let server = Server::start(&["--model", model.0.to_str().unwrap(), "--load-format", "dummy"]);
    assert!(server.table.contains("chat_template.jinja"), "{}", server.table);
    let chat = server.ask(&post_request(CHAT, r#"{"messages":[{"role":"user","content":"hi"}]}"#));
    assert!(chat.starts_with("HTTP/1.1 400"), "{chat}");
    assert!(chat.contains("invalid_chat_template") && chat.contains("syntax error"), "{chat}");
    let text = server.ask(&post_request("/v1/completions", r#"{"prompt":"hi","max_tokens":2}"#));
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
}

#[test]
fn a_client_that_leaves_frees_its_blocks() {
    let server = Server::start(&[]);
    for _ in 0..20 {
        let mut streams: Vec<TcpStream> = (0..4).map(|_| server.open(&long_stream(None))).collect();
        for stream in &mut streams {
            read_until(stream, "data: ");
        }
        // The killed client: its socket closes mid-stream.
        drop(streams);
    }
    // Every request ends once: none is lost.
    let ended =
        || ["finished", "aborted", "failed"].map(|end| server.metric(&format!("mosu_requests_{end}_total")));
    let started = Instant::now();
    while ended().iter().sum::<f64>() < 80.0 {
        assert!(started.elapsed() < PATIENCE, "{:?}", ended());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ended().iter().sum::<f64>(), 80.0);
    assert!(ended()[1] > 0.0, "none was aborted: {:?}", ended());
    server.wait_for_metric("mosu_kv_cache_usage_perc", |value| value == 0.0);
    assert_eq!(server.metric("mosu_num_requests_running"), 0.0);
}

#[test]
fn a_client_that_leaves_before_its_answer_is_aborted_too() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "mosu", "max_tokens": 100, "ignore_eos": true, "n": 16}).to_string();
    let stream = server.open(&post_request("/v1/completions", &body));
    server.wait_for_metric("mosu_num_requests_running", |value| value > 0.0);
    drop(stream);
    server.wait_for_metric("mosu_kv_cache_usage_perc", |value| value == 0.0);
}

#[test]
fn sigterm_lets_streams_finish() {
    let mut server = Server::start(&["--drain-timeout", "60"]);
    let mut stream = server.open(&long_stream(Some(40)));
    let begun = read_until(&mut stream, "data: ");
    server.signal("TERM");
    let rest = read_to_end(stream);
    let body = format!("{begun}{rest}").split_once("\r\n\r\n").unwrap().1.replace("\r\n", "\n");
    let finishes = body.matches("\"finish_reason\":\"length\"").count();
    assert_eq!(finishes, 8, "{rest}");
    assert!(body.contains("data: [DONE]"));
    assert_eq!(server.wait().code(), Some(0));
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn while_draining_open_connections_are_refused() {
    let mut server = Server::start(&["--drain-timeout", "5"]);
    let keep_alive = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = server.open(keep_alive);
    read_until(&mut idle, r#"{"status":"ok"}"#);
    // A body that does not come holds the server in flight.
    let _held = server.open(&format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    let started = Instant::now();
    while TcpStream::connect(server.address).is_ok() {
        assert!(started.elapsed() < PATIENCE, "the listener is still open");
        std::thread::sleep(Duration::from_millis(5));
    }
    idle.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let answer = read_to_end(idle);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(answer.contains("server_is_shutting_down"), "{answer}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn after_the_deadline_streams_end_with_an_error() {
    let mut server = Server::start(&["--drain-timeout", "0"]);
    let mut stream = server.open(&long_stream(None));
    let begun = read_until(&mut stream, "data: ");
    server.signal("TERM");
    let answer = format!("{begun}{}", read_to_end(stream));
    let events: Vec<&str> = answer.lines().filter(|line| line.starts_with("data: ")).collect();
    let chunks = chunks(&events.join("\n"));
    assert_eq!(chunks.last().unwrap()["error"]["code"], "server_is_shutting_down", "{answer}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&[]);
    let _held = server.open(&format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(200));
    server.signal("INT");
    std::thread::sleep(Duration::from_millis(200));
    server.signal("INT");
    let started = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn slow_and_large_headers_are_cut_off() {
    let server = Server::start(&[]);
    let mut slow = server.open("GET /health HTTP/1.1\r\nhost: loc");
    let started = Instant::now();
    let large =
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n", "x".repeat(600_000));
    let mut stream = server.open("");
    // The server may close before it has read all.
    let _ = stream.write_all(large.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert!(server.ask(&get_request("/health")).starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(9) && waited < Duration::from_secs(30), "{waited:?}");
}

#[test]
fn keys_come_from_the_variable_and_from_a_file() {
    let directory = Directory::new("keys");
    let file = directory.file("keys", "# two\nalpha\nbeta\n");
    let server = Server::start_command(
        command(&["serve", "--port", "0", "--host", "0.0.0.0", "--api-key-file", &file])
            .env("MOSU_API_KEY", "gamma"),
    );
    assert!(server.table.contains("3 keys"), "{}", server.table);
    assert!(!["alpha", "beta", "gamma"].iter().any(|key| server.table.contains(key)));
    let ask = |key: &str| {
        let request = get_request("/v1/models")
            .replace("\r\n\r\n", &format!("\r\nauthorization: Bearer {key}\r\n\r\n"));
        server.ask(&request)
    };
    for key in ["alpha", "beta", "gamma"] {
        assert!(ask(key).starts_with("HTTP/1.1 200"));
    }
    assert!(ask("delta").starts_with("HTTP/1.1 401"));
    assert!(server.ask(&get_request("/health")).starts_with("HTTP/1.1 200"));
}

#[test]
fn many_connections_wait_their_turn() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut first = server.open("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut second = server.open("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
    read_until(&mut first, "}");
    read_until(&mut second, "}");
    let mut third = server.open(&get_request("/health"));
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.read(&mut [0]).is_err(), "a third connection was served");
    drop(first);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_to_end(third).starts_with("HTTP/1.1 200"));
}

#[test]
fn another_template_can_be_given() {
    let directory = Directory::new("template");
    let template =
        directory.file("chat.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
    let server = Server::start(&["--chat-template", &template, "--served-model-name", "a,org/b"]);
    let body = r#"{"model":"org/b","messages":[{"role":"user","content":"hi"}]}"#;
    let answer = server.ask(&post_request("/tokenize", body));
    let tokens: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let body = json!({"tokens": tokens["tokens"]}).to_string();
    assert!(server.ask(&post_request("/detokenize", &body)).contains("<user>hi"));
}
