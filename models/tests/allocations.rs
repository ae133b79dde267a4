//! What is read of a checkpoint before it is loaded takes memory in proportion to its files, whatever stands in them.

#![allow(unsafe_code, reason = "counting allocations takes an allocator")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use common::*;
use mosu_models::{Device, LoadFormat, Model, ModelOptions, ModelSource, inspect};
use serde_json::{Value, json};

/// The system's, which keeps count.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `run` has at once.
fn most_bytes(run: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    run();
    MOST.load(Relaxed) - before
}

/// Looks into a directory or a GGUF file and plans the model there, of its weights and of random ones; `true` when the model would
/// load. `described` is the size of what describes it, `times` how many times as much may be taken.
fn look(path: &Path, options: &ModelOptions, times: usize, described: usize, what: &str) -> bool {
    let source = ModelSource::at(path);
    let mut loads = false;
    let inspected = most_bytes(|| drop(inspect(&source)));
    let planned = most_bytes(|| loads = Model::plan(&source, options).is_ok());
    let random = ModelOptions { load_format: LoadFormat::Dummy, ..options.clone() };
    let made_up = most_bytes(|| drop(Model::plan(&source, &random)));
    // JSON as values, and a name and a shape of every tensor; and what does not depend on the files.
    let limit = times * described + (32 << 10);
    for (bytes, part) in [(inspected, "inspect"), (planned, "plan"), (made_up, "plan of random weights")] {
        assert!(bytes <= limit, "{part} takes {bytes} bytes, {described} describe the model: {what}");
    }
    loads
}

/// One test, since others would be counted too.
#[test]
fn nothing_is_taken_beyond_the_files() {
    let options = options(1);
    let options = ModelOptions { device: Device::cpu(None), max_batch_tokens: Some(64), ..options };
    for name in ["ernie4_5_moe", "deepseek_v3_fp8", "gpt_oss"] {
        let dir = copy_of(name);
        let (config, weights) = (dir.path().join("config.json"), dir.path().join("model.safetensors"));
        let (described, whole) = (fs::read(&config).unwrap(), fs::read(&weights).unwrap());
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let size = described.len() + header;
        assert!(look(dir.path(), &options, 8, size, name), "{name} is whole");
        let mut refused = 0;
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                bytes[random(header)] = b"0123456789[]{}:,\"FBU\xff\0"[random(21)];
            }
            fs::write(&weights, bytes).unwrap();
            refused += usize::from(!look(dir.path(), &options, 8, size, name));
        }
        fs::write(&weights, &whole).unwrap();
        let config_json: Value = serde_json::from_slice(&described).unwrap();
        for key in config_json.as_object().unwrap().keys() {
            for value in [json!(0), json!(7), json!(1_u64 << 40), json!(-1), json!([1e308, "x"]), Value::Null]
            {
                let mut mutated = config_json.clone();
                mutated[key] = value.clone();
                fs::write(&config, mutated.to_string()).unwrap();
                refused +=
                    usize::from(!look(dir.path(), &options, 8, size, &format!("{name}: {key} = {value}")));
            }
        }
        assert!(refused > 100, "{name}: {refused} refused");
    }
    for name in ["mixtral", "llama31_bf16"] {
        let whole =
            fs::read(fixture("").parent().unwrap().join("gguf").join(format!("{name}.gguf"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.gguf");
        // Metadata and entries: the last entry ends where the last name is.
        let last = whole.windows(4).rposition(|window| window == b"blk." || window == b"outp").unwrap();
        let header = last + 60;
        let look = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            // The same would be several times as long in JSON.
            look(&file, &options, 20, header, name)
        };
        assert!(look(&whole), "{name} is whole");
        let (mut refused, mut seed) = (0, 1_u64);
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                bytes[random(header)] = random(256) as u8;
            }
            refused += usize::from(!look(&bytes));
        }
        // Counts, sizes and dimensions that the file cannot hold.
        for at in (8..header - 8).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&(1_u64 << (at % 50)).to_le_bytes());
            refused += usize::from(!look(&bytes));
        }
        assert!(refused > 100, "{name}: {refused} refused");
    }
}
