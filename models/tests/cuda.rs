//! Models on a CUDA device: the simulated one, or a real one with `MOSU_TEST_CUDA=real`. The same goldens as on the
//! processor, and the same promise: a request's logits are the same bits whatever else is computed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::*;
use mosu_models::{LoadError, ModelOptions};

/// Options of small models on the CUDA device; `None` where the simulated one is not built.
fn cuda_options() -> Option<ModelOptions> {
    cuda().map(|device| ModelOptions { device, ..options(1) })
}

#[test]
fn logits_of_f32_weights_equal_the_golden_ones() {
    let Some(options) = cuda_options() else { return };
    for name in EXACT {
        let mut model = load_with(fixture(name), &options_of(name, options.clone())).unwrap();
        let golden = Golden::of(name);
        let max = max_difference(&logits_in_chunks(&mut model, &golden.ids, 20), &golden.logits);
        assert!(max <= 1e-4, "{name}: off by {max}");
    }
}

/// As on the processor, but for experts of nearly equal probability: rounding may choose the other one of two, and a
/// token's logits are then another's. So of sparse models one row in eight may differ.
#[test]
fn logits_of_bf16_weights_are_within_rounding() {
    let Some(options) = cuda_options() else { return };
    for name in ROUNDED {
        let mut model = load_with(fixture(name), &options_of(name, options.clone())).unwrap();
        let golden = Golden::of(name);
        let logits = logits_in_chunks(&mut model, &golden.ids, 1000);
        let vocab = logits.len() / golden.ids.len();
        let rows = logits.chunks(vocab).zip(golden.logits.chunks(vocab));
        let near = rows.filter(|(found, golden)| max_difference(found, golden) <= 0.1).count();
        let sparse = name.contains("moe") || name.starts_with("deepseek");
        let least = golden.ids.len() * if sparse { 7 } else { 8 } / 8;
        assert!(near >= least, "{name}: {near} of {} rows are near the golden ones", golden.ids.len());
    }
}

/// Token ids of a sequence of `len` tokens that starts like no other.
fn ids(sequence: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((sequence * 37 + i * i * 11 + i * 5) % 90 + 3) as u32).collect()
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let same = found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits() && !a.is_nan());
    assert!(same, "{what}: bits differ");
}

const PROMISED: [&str; 6] =
    ["qwen3_bf16", "mistral", "deepseek_v2_lite", "deepseek_v3_bf16", "deepseek_v3_fp8_bf16", "gpt_oss_bf16"];

#[test]
fn chunks_do_not_matter() {
    let Some(options) = cuda_options() else { return };
    for name in PROMISED {
        let ids = ids(0, 70);
        let mut model = load_with(fixture(name), &options).unwrap();
        let whole = logits_in_chunks(&mut model, &ids, 1000);
        for chunk in [1, 17] {
            let logits = logits_in_chunks(&mut model, &ids, chunk);
            assert_same(&logits, &whole, &format!("{name} in chunks of {chunk}"));
        }
    }
}

/// Sequences in prefill and decoding share steps.
#[test]
fn co_batched_requests_do_not_matter() {
    let Some(options) = cuda_options() else { return };
    for name in PROMISED {
        let mut model = load_with(fixture(name), &options).unwrap();
        let vocab_size = model.info().vocab_size;
        let all: Vec<Vec<u32>> = (0..5).map(|s| ids(s, 6 + 9 * s)).collect();
        let mut sequences: Vec<Sequence> =
            (0..).zip(&all).map(|(s, ids)| Sequence::new(ids, 4 * s)).collect();
        let mut found = vec![vec![]; all.len()];
        while sequences.iter().any(|sequence| sequence.remaining() > 0) {
            let mut part: Vec<(usize, usize)> = vec![];
            let step: Vec<(&mut Sequence, usize)> = sequences
                .iter_mut()
                .enumerate()
                .filter(|(_, sequence)| sequence.remaining() > 0)
                .map(|(s, sequence)| {
                    let rows = (1 + s * 3).min(sequence.remaining());
                    part.push((s, rows));
                    (sequence, rows)
                })
                .collect();
            let mut step = step;
            let batch = advance(&model, &mut step);
            let logits = model.step_logits(&batch).unwrap();
            let mut rest = &logits[..];
            for (s, rows) in part {
                let (own, others) = rest.split_at(rows * vocab_size);
                found[s].extend_from_slice(own);
                rest = others;
            }
        }
        for (s, (found, ids)) in found.iter().zip(&all).enumerate() {
            let alone = logits_in_chunks(&mut model, ids, 1000);
            assert_same(found, &alone, &format!("{name}, sequence {s}"));
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_the_processor() {
    let Some(options) = cuda_options() else { return };
    for name in ["llama31_bf16", "qwen3"] {
        let golden = Golden::of(name);
        let mut model = load_with(fixture(name), &options).unwrap();
        let tokens = greedy(&mut model, &golden.ids, golden.greedy.len());
        assert_eq!(tokens, golden.greedy, "{name}");
    }
}

#[test]
fn a_model_that_does_not_fit_says_how_much_is_missing() {
    let Some(mut options) = cuda_options() else { return };
    options.kv_cache_bytes = Some(1 << 45);
    match load_with(fixture("llama"), &options).map(|_| ()) {
        Err(error @ LoadError::Memory { .. }) => {
            let message = error.to_string();
            assert!(message.contains("are missing") && message.contains("ask for"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}
