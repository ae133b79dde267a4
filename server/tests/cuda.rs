//! The program with the simulated CUDA device in place of a driver: the same answers as on the processor, and an orderly
//! end when a kernel fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::process::Command;

use common::binary::{Server, command, post_request};
use serde_json::json;

/// The program with these arguments and the simulated device; `None` where that is not built.
fn on_gpu(args: &[&str]) -> Option<Command> {
    let library = cusim::library_dir();
    // It is built on x86-64 Linux only.
    library.join("libcuda.so").exists().then(|| {
        let mut command = command(args);
        command.env("LD_LIBRARY_PATH", library);
        command
    })
}

#[test]
fn the_answer_on_a_gpu_is_that_of_the_processor() {
    let args = ["run", "--temperature", "0", "--max-tokens", "10", "--max-batch-tokens", "64"];
    let ask = |command: &mut Command| {
        let output = command.args(["--max-model-len", "256", "What is mosu?"]).output().unwrap();
        let (answer, said) = (String::from_utf8(output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        answer.unwrap()
    };
    let Some(mut gpu) = on_gpu(&args) else { return };
    let expected = ask(&mut command(&args));
    assert!(!expected.trim().is_empty());
    assert_eq!(ask(gpu.args(["--device", "cuda:0"])), expected);
}

#[test]
fn a_kernel_that_fails_ends_streams_and_server_with_an_error() {
    let args =
        ["serve", "--port", "0", "--device", "cuda", "--max-batch-tokens", "64", "--max-model-len", "256"];
    let Some(mut command) = on_gpu(&args) else { return };
    // After the first token, and before the last.
    let mut server = Server::start_command(command.env("CUSIM_FAIL_LAUNCH", "150"));
    let body = json!({"prompt": "mosu", "stream": true, "max_tokens": 60, "ignore_eos": true}).to_string();
    let answer = server.ask(&post_request("/v1/completions", &body));
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"text\""), "{answer}");
    assert!(answer.contains("\"code\":\"engine_failed\""), "{answer}");
    assert_eq!(server.wait().code(), Some(70));
}
