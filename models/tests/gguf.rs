//! GGUF files against the checkpoints that they were made from (tests/fixtures/make_gguf.py), and their refusals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{fs, path::PathBuf};

use common::*;
use mosu_models::{Model, ModelOptions, ModelSource, inspect};
use serde_json::Value;

/// Those whose matrices are the checkpoint's and compute in f32.
const SAME: &[&str] = &[
    "bloom",
    "chatglm2",
    "deepseek_v2",
    "deepseek_v2_lite",
    "ernie4_5",
    "ernie4_5_moe",
    "gemma2",
    "gemma3",
    "glm4_0414",
    "glm4_5",
    "gpt2",
    "gpt_oss",
    "hunyuan_dense",
    "hunyuan_moe",
    "internlm2",
    "llama4",
    "llama_f16",
    "minimax_m2",
    "ministral3",
    "pangu_embedded",
    "phi3",
];
/// Matrices in bf16, whose activations are rounded, or in f16 where the checkpoint has f32.
const ROUGHLY: &[&str] = &[
    "deepseek_v3_bf16",
    "llama31_bf16",
    "llama_bias_linear",
    "mixtral",
    "qwen2_bf16",
    "qwen2_moe_bf16",
    "qwen3_bf16",
    "qwen3_moe_bf16",
];

fn file(name: &str) -> PathBuf {
    fixture("").parent().unwrap().join("gguf").join(format!("{name}.gguf"))
}

fn load_gguf(name: &str) -> Model {
    let source = ModelSource::at(file(name));
    assert_eq!(source, ModelSource::Gguf(file(name)));
    Model::load(&source, &options_of(name, options(2)), &mut |_| {})
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The logits that a file should give.
fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let golden = Golden::of(name);
    let dir = copy_of(name);
    match name {
        // GGUF has no sliding layers of Qwen2.
        "qwen2_bf16" => edit_config(dir.path(), |config| {
            config["use_sliding_window"] = false.into();
            config["layer_types"] = Value::Null;
        }),
        // Nor two factors of DeepSeek's scaling, which published models have alike.
        "deepseek_v2" | "deepseek_v2_lite" | "deepseek_v3_bf16" => edit_config(dir.path(), |config| {
            config["rope_parameters"]["mscale"] = config["rope_parameters"]["mscale_all_dim"].clone();
        }),
        // Nor the limit of gpt-oss's activation.
        "gpt_oss" => edit_config(dir.path(), |config| config["swiglu_limit"] = 7.into()),
        // Nor Llama 4's chunks.
        "llama4" => edit_config(dir.path(), |config| {
            config["attention_chunk_size"] = 8192.into();
            config["floor_scale"] = 8192.into();
        }),
        _ => return (golden.ids, golden.logits),
    }
    let logits = logits_in_chunks(&mut load(dir.path(), 2).unwrap(), &golden.ids, 1000);
    (golden.ids, logits)
}

#[test]
fn every_file_is_tested() {
    let mut tested: Vec<String> = SAME.iter().chain(ROUGHLY).map(|name| format!("{name}.gguf")).collect();
    tested.sort();
    let entries = fs::read_dir(file("").parent().unwrap()).unwrap();
    let mut there: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(tested, there);
}

#[test]
fn logits_equal_the_golden_ones() {
    for name in SAME {
        let (ids, golden) = expected(name);
        let mut model = load_gguf(name);
        for chunk in [1, 7, 1000] {
            let difference = max_difference(&logits_in_chunks(&mut model, &ids, chunk), &golden);
            assert!(difference <= 1e-4, "{name} in chunks of {chunk}: off by {difference}");
        }
    }
}

/// The limits of `golden.rs` for bf16.
#[test]
fn rounded_logits_are_within_rounding() {
    for name in ROUGHLY {
        let (ids, golden) = expected(name);
        let logits = logits_in_chunks(&mut load_gguf(name), &ids, 7);
        let squares = logits.iter().zip(&golden).map(|(a, b)| (a - b).powi(2));
        let mean = (squares.sum::<f32>() / logits.len() as f32).sqrt();
        let max = max_difference(&logits, &golden);
        println!("{name}: off by {mean} in quadratic mean, {max} at most");
        assert!(mean <= 0.02 && max <= 0.1, "{name}: off by {mean} in quadratic mean, {max} at most");
    }
}

/// Types that stand beside each other in these files only: norms, biases, sinks and routers in F32, matrices in 16 bits.
/// As in `cuda.rs`, a rounded choice of experts may differ in one row of eight.
#[test]
fn the_simulated_device_agrees() {
    let Some(device) = cuda() else { return };
    let options = ModelOptions { device, ..options(1) };
    for (names, limit) in [(SAME, 1e-4), (ROUGHLY, 0.1)] {
        for name in names {
            let (ids, golden) = expected(name);
            let source = ModelSource::Gguf(file(name));
            let mut model = Model::load(&source, &options_of(name, options.clone()), &mut |_| {}).unwrap();
            let logits = logits_in_chunks(&mut model, &ids, 20);
            let rows = logits.chunks(logits.len() / ids.len()).zip(golden.chunks(golden.len() / ids.len()));
            let near = rows.filter(|(found, golden)| max_difference(found, golden) <= limit).count();
            let least = if limit < 0.1 { ids.len() } else { ids.len() * 7 / 8 };
            assert!(near >= least, "{name}: {near} of {} rows are near the golden ones", ids.len());
        }
    }
}

/// But for what converters change, the spec is the checkpoint's.
#[test]
fn files_are_inspected_like_directories() {
    for name in SAME.iter().chain(ROUGHLY) {
        let found = inspect(&ModelSource::at(file(name)));
        let of_checkpoint = inspect(&ModelSource::at(fixture(name)));
        // The small files have no vocabulary.
        assert_eq!(found.refusals.len(), 1, "{name}: {:?}", found.refusals);
        assert!(found.refusals[0].contains("tokenizer.ggml.model: not found; a GGUF file"), "{found:?}");
        assert_eq!(found.name, *name);
        assert_eq!(found.architecture, of_checkpoint.architecture, "{name}");
        let (spec, original) = (found.spec.unwrap(), of_checkpoint.spec.unwrap());
        assert_eq!(spec.parameters(), original.parameters(), "{name}");
        assert_eq!(spec.max_position_embeddings, original.max_position_embeddings, "{name}");
        assert_eq!(
            (spec.vocab_size, spec.layers.len()),
            (original.vocab_size, original.layers.len()),
            "{name}"
        );
        assert_eq!(found.eos_token_ids, [2], "{name}");
    }
    let behind_the_last = inspect(&ModelSource::at(file("glm4_5"))).ignored_tensors;
    assert!(behind_the_last.iter().all(|name| name.starts_with("blk.2.")), "{behind_the_last:?}");
    assert!(!behind_the_last.is_empty());
}

/// A directory of one GGUF model is that model; of several, none.
#[test]
fn a_directory_may_hold_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(file("llama_f16"), dir.path().join("a.gguf")).unwrap();
    fs::copy(file("gpt2"), dir.path().join("mmproj-b.gguf")).unwrap();
    let source = ModelSource::at(dir.path());
    assert_eq!(source, ModelSource::Gguf(dir.path().join("a.gguf")));
    source.check().unwrap();
    fs::copy(file("gpt2"), dir.path().join("c.gguf")).unwrap();
    let source = ModelSource::at(dir.path());
    assert_eq!(source, ModelSource::Directory(dir.path().into()));
    let message = source.check().unwrap_err().to_string();
    assert!(message.contains("holds 2 GGUF models; give the file of one: a.gguf, c.gguf"), "{message}");
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    ModelSource::at(dir.path()).check().unwrap();
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.gguf"));
    fs::write(&path, bytes).unwrap();
    let error = Model::load(&ModelSource::at(path), &options(1), &mut |_| {}).map(|_| ()).unwrap_err();
    error.to_string()
}

/// The bytes of a file in which a text is replaced by one as long.
fn replaced(name: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(file(name)).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (from, to, expected) in [
        ("llama", "lamas", "architecture \"lamas\" is not supported; supported are bloom, "),
        (
            "llama.block_count",
            "llama.block_counT",
            "`llama.block_count`: expected the number of layers, found nothing",
        ),
        (
            "llama.rope.freq_base",
            "llama.rope.freq_bass",
            "`llama.rope.freq_bass`: is not known for this architecture",
        ),
        ("blk.0.attn_q.weight", "blk.0.attn_Q.weight", "tensor `blk.0.attn_q.weight`: not in the file"),
        ("token_embd.weight", "token_embD.weight", "tensor `token_embd.weight`: not in the file"),
        (
            "general.name\x08\0\0\0",
            "general.type\x08\0\0\0",
            "`general.type`: \"llama_f16\" is not supported",
        ),
        (
            "llama.attention.value_length",
            "llama.attention.value_lengtH",
            "`llama.attention.value_lengtH`: is not known",
        ),
        ("GGUF", "GGML", "not a GGUF file"),
    ] {
        let message = refusal("m", &replaced("llama_f16", from, to));
        assert!(message.contains("m.gguf: ") && message.contains(expected), "{message}");
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let message = refusal("m", pointer.as_bytes());
    assert!(message.contains("m.gguf: a git-lfs pointer"), "{message}");
    // The rest of the file stays what it is: F16 and a type of blocks take other numbers of bytes, I16 as many.
    let mut bytes = fs::read(file("llama_f16")).unwrap();
    let name = "blk.1.ffn_down.weight";
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    let kind = at + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[kind..kind + 4], [1, 0, 0, 0]);
    bytes[kind] = 25;
    let message = refusal("m", &bytes);
    let expected = "tensor `blk.1.ffn_down.weight`: has type I16, which is not supported; supported are F32, F16, Q4_0, ";
    assert!(message.contains(expected), "{message}");
}

/// A file of any name is what its first bytes say.
#[test]
fn files_are_known_by_their_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sha256-0123abcd");
    fs::copy(file("llama_f16"), &path).unwrap();
    assert_eq!(ModelSource::at(path.clone()), ModelSource::Gguf(path));
}

#[test]
fn layers_that_the_metadata_leave_out_are_refused() {
    let mut bytes = fs::read(file("llama_f16")).unwrap();
    let key = "llama.block_count";
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
    let value = at + key.len() + 4;
    assert_eq!(bytes[value..value + 4], [2, 0, 0, 0]);
    bytes[value] = 1;
    let message = refusal("m", &bytes);
    assert!(message.contains("is in a layer behind the 1 of `llama.block_count`"), "{message}");
}

#[test]
fn a_tensor_that_is_left_over_is_refused() {
    let message = refusal("m", &replaced("llama_bias_linear", "blk.0.attn_q.bias", "blk.0.attn_q.blas"));
    // Without that bias there are none of k and v either.
    assert!(message.contains("tensor `blk.0.attn_k.bias`: has no place in `blk.0.attn_k`"), "{message}");
}

#[test]
fn missing_files_are_named() {
    let message = ModelSource::at("/no/such/model.gguf").check().unwrap_err().to_string();
    assert!(
        message.contains("/no/such/model.gguf: not found; give a directory with config.json"),
        "{message}"
    );
    assert_eq!(ModelSource::at("/no/x.gguf").name(), "x");
}
