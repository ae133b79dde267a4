//! The program with the simulated CUDA device in place of a driver: the same answers as on the processor, an orderly end
//! when a kernel fails, and a reason when there is no device to use.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use common::binary::{Server, command, post_request, read_to_end, read_until};
use serde_json::{Value, json};

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

/// Three streams are under way, and a request whose body does not come keeps the server from ending.
#[test]
fn a_kernel_that_fails_ends_streams_and_server_with_an_error() {
    let args: Vec<&str> = "serve --port 0 --device cuda --max-batch-tokens 64 --max-model-len 256 \
                           --header-timeout 60 --body-timeout 60"
        .split_whitespace()
        .collect();
    let Some(mut command) = on_gpu(&args) else { return };
    // A step is about 55 launches.
    let mut server = Server::start_command(command.env("CUSIM_FAIL_LAUNCH", "700"));
    let mut supervisor = server.open("");
    assert!(health(&mut supervisor).ends_with("{\"status\":\"ok\"}"));
    let body = |prompt| json!({"prompt": prompt, "stream": true, "max_tokens": 60, "ignore_eos": true});
    let ask = |prompt| server.open(&post_request("/v1/completions", &body(prompt).to_string()));
    let held = server.open(post_request("/v1/completions", "{}").trim_end_matches("{}"));
    for stream in ["mosu", "What", "I"].map(ask) {
        let answer = read_to_end(stream);
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"text\""), "{answer}");
        assert!(answer.contains("\"code\":\"engine_failed\""), "{answer}");
    }
    for _ in 0..2 {
        let sick = health(&mut supervisor);
        assert!(sick.starts_with("HTTP/1.1 503") && sick.contains("\"code\":\"engine_failed\""), "{sick}");
    }
    drop(held);
    assert_eq!(server.wait().code(), Some(70));
}

/// The answer to `GET /health` on a connection that stays open.
fn health(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let head = read_until(connection, "\r\n\r\n");
    let (_, length) = head.split_once("content-length: ").unwrap();
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

#[test]
fn doctor_describes_a_gpu() {
    let Some(mut doctor) = on_gpu(&["doctor", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&doctor.output().unwrap().stdout).unwrap();
    let device = &report["devices"][1];
    assert_eq!((&device["name"], &device["usable"]), (&"cuda:0".into(), &true.into()), "{report}");
    assert!(device["gpu"]["memory_bytes"].as_u64() > Some(0), "{report}");
}

/// The simulated device is far slower than the processor, whose limits would show a share of nothing.
#[test]
fn bench_measures_the_limits_of_the_gpu() {
    let args: Vec<&str> =
        "bench --device cuda --json --batch 1 --repeat 1 --prompt-tokens 8 --output-tokens 3 \
                           --max-batch-tokens 64 --max-model-len 64"
            .split_whitespace()
            .collect();
    let Some(mut bench) = on_gpu(&args) else { return };
    let output = bench.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let limits = &report["runs"][0]["limits_before"];
    assert_eq!(limits, &report["runs"][0]["limits_after"], "measured once, before the model had the memory");
    let cpu = mosu::limits::measure("cpu", None).unwrap();
    let bandwidth = limits["read_bandwidth"].as_f64().unwrap();
    assert!(bandwidth > 0.0 && bandwidth < cpu.read_bandwidth, "{report}");
}

/// A folder with a `libcuda.so` that is no driver; removed when dropped.
struct NoDriver(PathBuf);

impl NoDriver {
    fn new(name: &str, make: impl Fn(&Path)) -> NoDriver {
        let folder = std::env::temp_dir().join(format!("mosu-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        ["libcuda.so", "libcuda.so.1"].iter().for_each(|file| make(&folder.join(file)));
        NoDriver(folder)
    }
}

impl Drop for NoDriver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A library that is no driver: the C library, which this test has loaded.
fn some_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|file| file.contains("libc.so"))
        .unwrap()
        .into()
}

#[test]
fn every_command_says_why_a_gpu_cannot_be_used() {
    let simulated = cusim::library_dir();
    if !simulated.join("libcuda.so").exists() {
        return;
    }
    let broken = NoDriver::new("broken-driver", |file| fs::write(file, "not a library").unwrap());
    let old = NoDriver::new("old-driver", |file| std::os::unix::fs::symlink(some_library(), file).unwrap());
    for (library, variable, device, reason) in [
        (&*broken.0, None, "cuda", "the NVIDIA driver's library (libcuda) was not found or does not load"),
        (&old.0, None, "cuda", "the NVIDIA driver is too old: it has no cuInit; update it"),
        (simulated, Some(("CUSIM_INIT_RESULT", "803")), "cuda", "the NVIDIA driver does not start: cuInit"),
        (simulated, Some(("CUSIM_DEVICES", "0")), "cuda", "the NVIDIA driver finds no GPU in this machine"),
        (
            simulated,
            Some(("CUSIM_DRIVER", "12040")),
            "cuda",
            "the NVIDIA driver is for CUDA 12.4, the kernels need 13.0 or newer; update the driver",
        ),
        (
            simulated,
            Some(("CUSIM_CAPABILITY", "7.5")),
            "cuda",
            "compute capability 7.5, the kernels need 8.0 (Ampere) or newer; use `--device cpu`",
        ),
        (simulated, None, "cuda:9", "device \"cuda:9\": this machine has one GPU, `cuda:0`"),
    ] {
        for args in [&["run", "hi"][..], &["serve", "--port", "0"], &["bench"], &["doctor"]] {
            let mut command = command(args);
            command.args(["--device", device]).env("LD_LIBRARY_PATH", library).envs(variable);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{args:?}, {reason}: {said}");
            assert!(said.contains(reason), "{args:?}, {reason}: {said}");
        }
    }
}
