//! Promise 1: the same request gets the same logits, to the bit, whatever else is computed beside it and however it
//! is cut.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::*;
use mosu_models::Model;

/// Together they use every op of the decoder.
const FIXTURES: [&str; 12] = [
    "bloom",
    "deepseek_v3_bf16",
    "deepseek_v3_fp8_bf16",
    "gemma2_bf16",
    "gpt_oss_bf16",
    "grok2",
    "llama31_bf16",
    "llama4",
    "mistral",
    "qwen2_bf16",
    "qwen3_moe_bf16",
    "step3_7",
];

/// Token ids of a sequence of `len` tokens that starts like no other.
fn ids(sequence: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((sequence * 37 + i * i * 11 + i * 5) % 93 + 3) as u32).collect()
}

/// Fails unless two rows of logits are equal to the bit (NaN included, which must not be there).
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            found.to_bits() == expected.to_bits() && !found.is_nan(),
            "{what}: logit {i}: {found} is not {expected}"
        );
    }
}

fn alone(model: &mut Model, ids: &[u32]) -> Vec<f32> {
    logits_in_chunks(model, ids, ids.len())
}

#[test]
fn chunks_do_not_matter() {
    for name in FIXTURES {
        let ids = ids(0, 150);
        for (name, mut model) in on_every_instruction_set(name, &options(2)) {
            let whole = alone(&mut model, &ids);
            for chunk in [1, 16, 64] {
                let logits = logits_in_chunks(&mut model, &ids, chunk);
                assert_same(&logits, &whole, &format!("{name}, chunks of {chunk}"));
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    for name in FIXTURES {
        let ids = ids(0, 100);
        let one = alone(&mut load(fixture(name), 1).unwrap(), &ids);
        for threads in [2, 4] {
            let mut model = load(fixture(name), threads).unwrap();
            assert_same(&alone(&mut model, &ids), &one, &format!("{name}, {threads} threads"));
            assert_same(
                &logits_in_chunks(&mut model, &ids, 1),
                &one,
                &format!("{name}, {threads} threads, decoding"),
            );
        }
    }
}

/// Sequences of different lengths, some in prefill and some decoding, share every step.
#[test]
fn co_batched_requests_do_not_matter() {
    for name in FIXTURES {
        let mut model = load(fixture(name), 2).unwrap();
        for others in [2, 7, 32] {
            let all: Vec<Vec<u32>> = (0..others).map(|s| ids(s, 20 + (s * 13) % 50)).collect();
            let expected: Vec<Vec<f32>> = all.iter().map(|ids| alone(&mut model, ids)).collect();
            let found = together(&mut model, &all);
            for (s, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_same(found, expected, &format!("{name}, sequence {s} of {others}"));
            }
        }
    }
}

/// Logits of all sequences, computed in shared steps of at most [`MAX_ROWS`] rows; sequence `s` advances by 1 to 8
/// rows at a time.
fn together(model: &mut Model, all: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut next_block = 0;
    let mut sequences: Vec<Sequence> = Vec::new();
    for ids in all {
        sequences.push(Sequence::new(ids, next_block));
        next_block += sequences.last().unwrap().blocks.len() as u32;
    }
    let mut logits = vec![Vec::new(); all.len()];
    while sequences.iter().any(|sequence| sequence.remaining() > 0) {
        let mut step: Vec<(usize, &mut Sequence, usize)> = sequences
            .iter_mut()
            .enumerate()
            .filter(|(_, sequence)| sequence.remaining() > 0)
            .map(|(s, sequence)| {
                let rows = (s % 8 + 1).min(sequence.remaining());
                (s, sequence, rows)
            })
            .collect();
        let order: Vec<(usize, usize)> = step.iter().map(|(s, _, rows)| (*s, *rows)).collect();
        let mut rows: Vec<(&mut Sequence, usize)> =
            step.drain(..).map(|(_, sequence, rows)| (sequence, rows)).collect();
        let batch = advance(model, &mut rows);
        let found = model.step_logits(&batch).unwrap();
        let vocab_size = model.info().vocab_size;
        let mut start = 0;
        for (s, rows) in order {
            let end = start + rows * vocab_size;
            logits[s].extend_from_slice(&found[start..end]);
            start = end;
        }
    }
    logits
}

/// What a prefix-cache hit does: the first KV blocks were written by another sequence.
#[test]
fn a_prefix_computed_by_another_sequence_does_not_matter() {
    for name in FIXTURES {
        let mut model = load(fixture(name), 2).unwrap();
        let ids = ids(5, 100);
        let expected = alone(&mut model, &ids);
        let vocab_size = model.info().vocab_size;
        for shared in [16, 48, 96] {
            let mut first = Sequence::new(&ids[..shared + 3], 10);
            logits_of(&mut model, &mut first);
            let mut second = Sequence::new(&ids, 100);
            second.blocks[..shared / 16].copy_from_slice(&first.blocks[..shared / 16]);
            second.computed = shared;
            let found = logits_of(&mut model, &mut second);
            assert_same(&found, &expected[shared * vocab_size..], &format!("{name}, {shared} tokens shared"));
        }
    }
}

fn logits_of(model: &mut Model, sequence: &mut Sequence) -> Vec<f32> {
    let rows = sequence.remaining();
    let batch = advance(model, &mut [(sequence, rows)]);
    model.step_logits(&batch).unwrap()
}

/// Preemption by recomputation: the blocks are gone, the sequence starts again in others.
#[test]
fn other_blocks_and_their_old_contents_do_not_matter() {
    for name in FIXTURES {
        let mut model = load(fixture(name), 2).unwrap();
        let ids = ids(3, 70);
        let expected = alone(&mut model, &ids);
        let mut moved = Sequence::new(&ids, 0);
        moved.blocks = vec![4, 2, 9, 0, 1];
        assert_same(&logits_of(&mut model, &mut moved), &expected, name);
    }
}
