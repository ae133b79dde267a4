//! Connections as clients use them: idle, slow, half-closed and gone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use common::{
    binary::{PATIENCE, Server, post_request, read_to_end, read_until},
    chunks,
};
use serde_json::{Value, json};
use socket2::SockRef;

const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
const COMPLETIONS: &str = "/v1/completions";

/// Until when the server keeps a connection on which nothing more is sent.
fn time_to_close(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection was not closed: {other:?}"),
    }
    started.elapsed()
}

fn ask_health(stream: &mut TcpStream) {
    stream.write_all(HEALTH.as_bytes()).unwrap();
    read_until(stream, r#"{"status":"ok"}"#);
}

#[test]
fn idle_time_and_header_time_are_two_things() {
    let server = Server::start(&["--keep-alive-timeout", "5", "--header-timeout", "0.5"]);
    let (mut idle, mut fresh, mut slow) = (server.open(HEALTH), server.open(""), server.open("GET /hea"));
    read_until(&mut idle, r#"{"status":"ok"}"#);
    let started = Instant::now();
    // More bytes give no more time.
    let mut trickling = server.open("GET /health HTTP/1.1\r\n");
    let trickle = std::thread::spawn(move || {
        let started = Instant::now();
        while trickling.write_all(b"x: y\r\n").is_ok() {
            assert!(started.elapsed() < PATIENCE, "it goes on");
            sleep(Duration::from_millis(100));
        }
        started.elapsed()
    });
    let waited = time_to_close(&mut slow);
    assert!(waited < Duration::from_secs(4), "{waited:?}");
    assert!(trickle.join().unwrap() < Duration::from_secs(4));
    // Neither is idle for long enough yet.
    sleep(Duration::from_millis(1500).saturating_sub(started.elapsed()));
    ask_health(&mut idle);
    ask_health(&mut fresh);
    let waited = time_to_close(&mut idle);
    assert!(waited > Duration::from_secs(4) && waited < PATIENCE / 2, "{waited:?}");
    assert!(time_to_close(&mut fresh) < PATIENCE / 2);
}

#[test]
fn a_second_request_that_is_slow_is_cut_off_too() {
    let server = Server::start(&["--keep-alive-timeout", "60", "--header-timeout", "0.5"]);
    let mut stream = server.open(HEALTH);
    read_until(&mut stream, r#"{"status":"ok"}"#);
    stream.write_all(b"GET /v1/mod").unwrap();
    assert!(time_to_close(&mut stream) < Duration::from_secs(30));
}

#[test]
fn a_request_takes_longer_than_a_connection_may_be_idle() {
    let server = Server::start(&["--keep-alive-timeout", "0.3", "--header-timeout", "0.3"]);
    let request = post_request(COMPLETIONS, r#"{"prompt": "mosu", "max_tokens": 5}"#);
    let (head, body) = request.split_at(request.len() - 10);
    let mut stream = server.open(head);
    sleep(Duration::from_millis(1000));
    stream.write_all(body.as_bytes()).unwrap();
    let answer = read_to_end(stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A completion of so many tokens, in as many choices as to take a while.
fn request(max_tokens: u32, stream: bool) -> String {
    let body =
        json!({"prompt": "mosu", "max_tokens": max_tokens, "ignore_eos": true, "n": 8, "stream": stream});
    post_request(COMPLETIONS, &body.to_string())
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let server = Server::start(&[]);
    for stream in [false, true] {
        for version in ["1.1", "1.0"] {
            let client = server.open(&request(60, stream).replace("HTTP/1.1", &format!("HTTP/{version}")));
            client.shutdown(Shutdown::Write).unwrap();
            let answer = read_to_end(client);
            // An interim answer may come first, but not to HTTP/1.0.
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            let answer = if version == "1.1" { answer.trim_start_matches(interim) } else { &answer };
            assert!(answer.starts_with(&format!("HTTP/{version} 200 OK")), "{answer}");
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            if stream {
                assert_eq!(body.matches("\"finish_reason\":\"length\"").count(), 8, "{body}");
                assert!(body.contains("data: [DONE]"));
                continue;
            }
            let answer: Value = serde_json::from_str(body).unwrap();
            assert_eq!(answer["usage"]["completion_tokens"], 8 * 60);
        }
    }
    let ended = |how: &str| server.metric(&format!("mosu_requests_{how}_total"));
    assert_eq!((ended("finished"), ended("aborted")), (4.0, 0.0));
}

#[test]
fn a_half_closed_client_may_have_pipelined_requests() {
    let server = Server::start(&[]);
    let mut client = server.open(HEALTH);
    client.write_all(HEALTH.repeat(2).as_bytes()).unwrap();
    client.write_all(request(20, true).as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let answers = read_to_end(client);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
    assert_eq!(answers.matches(r#"{"status":"ok"}"#).count(), 3);
    let events: Vec<&str> = answers.lines().filter(|line| line.starts_with("data: ")).collect();
    assert!(!chunks(&events.join("\n")).is_empty());
}

#[test]
fn a_body_that_ends_too_soon_is_not_waited_for() {
    let server = Server::start(&[]);
    let whole = request(5, false);
    let client = server.open(&whole[..whole.len() - 3]);
    client.shutdown(Shutdown::Write).unwrap();
    let started = Instant::now();
    let answer = read_to_end(client);
    assert!(answer.is_empty() || answer.contains("incomplete_body"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(server.metric("mosu_requests_finished_total"), 0.0);
}

type Leave = fn(TcpStream);

/// How a client can leave.
const WAYS: [(&str, Leave); 3] = [
    ("closed", drop),
    ("reset", |client| {
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
    }),
    ("half-closed, then closed", |client| {
        client.shutdown(Shutdown::Write).unwrap();
        sleep(Duration::from_millis(50));
        drop(client);
    }),
];

#[test]
fn a_client_that_is_gone_is_aborted() {
    // Long enough that an answer would be waited for in vain.
    let server = Server::start(&[]);
    let mut aborted = 0.0;
    for (way, leave) in WAYS {
        for stream in [false, true] {
            let mut client = server.open(&request(450, stream));
            if stream {
                read_until(&mut client, "data: ");
            } else {
                server.wait_for_metric("mosu_num_requests_running", |value| value > 0.0);
            }
            leave(client);
            aborted += 1.0;
            server.wait_for_metric("mosu_num_requests_running", |value| value == 0.0);
            assert_eq!(server.metric("mosu_requests_aborted_total"), aborted, "{way}, stream: {stream}");
            server.wait_for_metric("mosu_kv_cache_usage_perc", |value| value == 0.0);
        }
    }
    assert_eq!(server.metric("mosu_requests_finished_total"), 0.0);
}
