//! Logits against transformers', computed whole, in chunks and token by token, for every family and both dialects of
//! config.json.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::fs;

use common::*;
use serde_json::{Value, json};

const F32: [&str; 11] = [
    "llama",
    "llama31",
    "llama_bias_linear",
    "llama_sharded",
    "llama_yarn",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_unnormalized",
];
/// With the tolerances that rounding explains: see tests/fixtures/README.md for what transformers is off by.
const ROUNDED: [(&str, f32); 5] = [
    ("llama_f16", 1e-4),
    ("llama31_bf16", 0.1),
    ("qwen2_bf16", 0.1),
    ("qwen3_bf16", 0.1),
    ("qwen3_moe_bf16", 0.1),
];

/// Chunk sizes: token by token, one that no KV block is a multiple of, one KV block, everything.
const CHUNKS: [usize; 4] = [1, 7, 16, 1000];

#[test]
fn f32_logits_equal_transformers() {
    for name in F32 {
        let golden = Golden::of(name);
        for (name, mut model) in on_every_instruction_set(name) {
            for chunk in CHUNKS {
                let logits = logits_in_chunks(&mut model, &golden.ids, chunk);
                let difference = max_difference(&logits, &golden.logits);
                assert!(difference <= 1e-4, "{name} in chunks of {chunk}: off by {difference}");
            }
        }
    }
}

/// The golden logits were computed in f32 from the same 16-bit weights, so what differs is the rounding of activations.
/// f16 checkpoints compute in f32: nothing is rounded. In bf16, each of the about 15 roundings on a logit's path (2
/// layers: two norms, q, k, v, attention's output, the activation; then the last norm) is off by 2^-9 / sqrt(3) of
/// its value in quadratic mean; were they independent and neither damped nor amplified, logits of order 1.2 would be
/// off by 0.005. We allow four times that, and in the worst of
/// 6144 logits five times more; transformers' own bf16 is off by up to 0.15.
#[test]
fn logits_of_16_bit_weights_are_within_rounding() {
    for (name, tolerance) in ROUNDED {
        let golden = Golden::of(name);
        for (name, mut model) in on_every_instruction_set(name) {
            for chunk in CHUNKS {
                let logits = logits_in_chunks(&mut model, &golden.ids, chunk);
                let squares = logits.iter().zip(&golden.logits).map(|(a, b)| (a - b).powi(2));
                let mean = (squares.sum::<f32>() / logits.len() as f32).sqrt();
                let max = max_difference(&logits, &golden.logits);
                println!("{name} in chunks of {chunk}: off by {mean} in quadratic mean, {max} at most");
                assert!(mean <= 0.02, "{name} in chunks of {chunk}: off by {mean} in quadratic mean");
                assert!(max <= tolerance, "{name} in chunks of {chunk}: off by {max}");
            }
        }
    }
}

/// Greedy continuations, drawn on the device, against transformers'.
#[test]
fn greedy_tokens_equal_transformers() {
    for name in F32.into_iter().chain(ROUNDED.map(|(name, _)| name)) {
        let golden = Golden::of(name);
        let mut model = load(fixture(name), 2).unwrap();
        let tokens = greedy(&mut model, &golden.ids, golden.greedy.len());
        assert_eq!(tokens, golden.greedy, "{name}");
    }
}

#[test]
fn both_dialects_mean_the_same() {
    for name in F32.into_iter().chain(ROUNDED.map(|(name, _)| name)) {
        let dir = copy_of(name);
        let spec = load(dir.path(), 1).unwrap().info().spec.clone();
        fs::rename(dir.path().join("config.hub.json"), dir.path().join("config.json")).unwrap();
        assert_eq!(load(dir.path(), 1).unwrap().info().spec, spec, "{name}");
    }
}

/// Each switch of each family, turned: the logits must change. A test that cannot fail proves nothing.
#[test]
fn every_switch_is_live() {
    let changed = |mut rope: Value, key: &str, value: Value| {
        rope[key] = value;
        ("rope_parameters", rope)
    };
    let plain = json!({"rope_type": "default", "rope_theta": 1e4});
    let yarn = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.5,
        "original_max_position_embeddings": 32});
    let llama3 = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let linear = json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0});
    let flips = [
        ("llama", ("rms_norm_eps", json!(1e-5))),
        ("llama", changed(plain.clone(), "rope_theta", json!(2e4))),
        ("llama31", changed(llama3.clone(), "factor", json!(2.0))),
        ("llama31", changed(llama3.clone(), "low_freq_factor", json!(2.0))),
        ("llama31", changed(llama3.clone(), "high_freq_factor", json!(2.0))),
        ("llama31", changed(llama3, "original_max_position_embeddings", json!(64))),
        ("llama_bias_linear", changed(linear, "factor", json!(3.0))),
        ("llama_yarn", changed(yarn.clone(), "factor", json!(2.0))),
        ("llama_yarn", changed(yarn.clone(), "beta_fast", json!(4.0))),
        ("llama_yarn", changed(yarn.clone(), "beta_slow", json!(0.1))),
        ("llama_yarn", changed(yarn.clone(), "truncate", json!(false))),
        ("llama_yarn", changed(yarn.clone(), "attention_factor", json!(1.0))),
        ("llama_yarn", changed(yarn, "original_max_position_embeddings", json!(64))),
        ("mistral", ("sliding_window", json!(13))),
        ("mistral", ("sliding_window", Value::Null)),
        ("mixtral", ("num_experts_per_tok", json!(1))),
        ("mixtral", ("sliding_window", json!(12))),
        ("qwen2", ("use_sliding_window", json!(false))),
        ("qwen2", ("sliding_window", json!(11))),
        ("qwen2", ("layer_types", json!(["sliding_attention", "full_attention"]))),
        ("qwen3", changed(plain, "rope_theta", json!(1e5))),
        ("qwen3_moe", ("norm_topk_prob", json!(false))),
        ("qwen3_moe", ("num_experts_per_tok", json!(2))),
        ("qwen3_moe_unnormalized", ("norm_topk_prob", json!(true))),
    ];
    for (name, (key, value)) in flips {
        let golden = Golden::of(name);
        let dir = copy_of(name);
        edit_config(dir.path(), |config| {
            config[key] = value.clone();
            if key == "use_sliding_window" {
                config.as_object_mut().unwrap().remove("layer_types");
            }
        });
        let mut model = load(dir.path(), 2).unwrap();
        let difference = max_difference(&logits_in_chunks(&mut model, &golden.ids, 1000), &golden.logits);
        assert!(difference > 1e-2, "{name} with {key} = {value}: off by {difference} only");
    }
}
