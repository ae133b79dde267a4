//! Logits against those of independent implementations, computed whole, in chunks and token by token, for every family
//! and both dialects of config.json.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::fs;

use common::*;
use mosu_models::{LoadError, Model};
use serde_json::{Map, Value};

/// Chunk sizes: token by token, one that no KV block is a multiple of, one KV block, everything.
const CHUNKS: [usize; 4] = [1, 7, 16, 1000];

fn load_fixture(name: &str) -> Result<Model, LoadError> {
    load_with(fixture(name), &options_of(name, options(2)))
}

#[test]
fn every_fixture_is_tested() {
    let mut tested: Vec<&str> = EXACT.iter().chain(ROUNDED).copied().collect();
    tested.sort();
    let has_golden = |name: &str| fixture(name).join("golden.safetensors").exists();
    let entries = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut there: Vec<String> =
        entries.map(|name| name.into_string().unwrap()).filter(|name| has_golden(name)).collect();
    there.sort();
    assert_eq!(tested, there);
}

#[test]
fn logits_equal_the_golden_ones() {
    for name in EXACT {
        let golden = Golden::of(name);
        for (on, mut model) in on_every_instruction_set(name, &options_of(name, options(2))) {
            for chunk in CHUNKS {
                let logits = logits_in_chunks(&mut model, &golden.ids, chunk);
                let difference = max_difference(&logits, &golden.logits);
                assert!(difference <= 1e-4, "{on} in chunks of {chunk}: off by {difference}");
            }
        }
    }
}

/// The golden logits were computed in f32 from the same 16-bit weights, so what differs is the rounding of activations.
/// Each of the about 15 roundings on a logit's path (2 layers: two norms, q, k, v, attention's output, the activation;
/// then the last norm) is off by 2^-9 / sqrt(3) of its value in quadratic mean; were they independent and neither damped
/// nor amplified, logits of order 1.2 would be off by 0.005. We allow four times that, and in the worst of
/// 6144 logits five times more; transformers' own bf16 is off by up to 0.15.
#[test]
fn logits_of_bf16_weights_are_within_rounding() {
    for name in ROUNDED {
        let golden = Golden::of(name);
        for (on, mut model) in on_every_instruction_set(name, &options_of(name, options(2))) {
            for chunk in CHUNKS {
                let logits = logits_in_chunks(&mut model, &golden.ids, chunk);
                let squares = logits.iter().zip(&golden.logits).map(|(a, b)| (a - b).powi(2));
                let mean = (squares.sum::<f32>() / logits.len() as f32).sqrt();
                let max = max_difference(&logits, &golden.logits);
                println!("{on} in chunks of {chunk}: off by {mean} in quadratic mean, {max} at most");
                assert!(mean <= 0.02, "{on} in chunks of {chunk}: off by {mean} in quadratic mean");
                assert!(max <= 0.1, "{on} in chunks of {chunk}: off by {max}");
            }
        }
    }
}

/// Greedy continuations, sampled on the device.
#[test]
fn greedy_tokens_equal_the_golden_ones() {
    for name in EXACT.iter().chain(ROUNDED) {
        let golden = Golden::of(name);
        let mut model = load_fixture(name).unwrap();
        let tokens = greedy(&mut model, &golden.ids, golden.greedy.len());
        assert_eq!(tokens, golden.greedy, "{name}");
    }
}

#[test]
fn both_dialects_mean_the_same() {
    for name in EXACT.iter().chain(ROUNDED) {
        let dir = copy_of(name);
        // Some families have one dialect only.
        if !dir.path().join("config.hub.json").exists() {
            continue;
        }
        let spec = load(dir.path(), 1).unwrap().info().spec.clone();
        fs::rename(dir.path().join("config.hub.json"), dir.path().join("config.json")).unwrap();
        assert_eq!(load(dir.path(), 1).unwrap().info().spec, spec, "{name}");
    }
}

/// Each switch that a fixture's config.json turns, turned: the logits must change. A test that cannot fail proves
/// nothing.
#[test]
fn every_switch_of_config_json_is_live() {
    for name in EXACT.iter().chain(ROUNDED) {
        let golden = Golden::of(name);
        let switches = fs::read(fixture(name).join("switches.json")).unwrap_or_else(|_| b"{}".to_vec());
        let switches: Map<String, Value> = serde_json::from_slice(&switches).unwrap();
        for (switch, turned) in switches {
            let dir = copy_of(name);
            edit_config(dir.path(), |config| merge(config, &turned["config"]));
            let mut model = match load_with(dir.path(), &options_of(name, options(2))) {
                Ok(model) => model,
                // Without a norm its weights have no place, without scaling the context is too long.
                Err(LoadError::Checkpoint { .. } | LoadError::Option { .. }) => continue,
                Err(error) => panic!("{name}, {switch}: {error}"),
            };
            let logits = logits_in_chunks(&mut model, &golden.ids, 1000);
            let difference = max_difference(&logits, &golden.logits);
            let expected = turned["difference"].as_f64().unwrap() as f32;
            println!("{name}, {switch}: off by {difference}, expected {expected}");
            let live = match EXACT.contains(name) {
                true => (difference - expected).abs() <= 0.05 * expected,
                false => difference >= 0.5 * expected,
            };
            assert!(live, "{name}, {switch}: off by {difference}, expected {expected}");
        }
    }
}

/// Replaces keys; null removes them.
fn merge(config: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            value => config[key] = value.clone(),
        }
    }
}
