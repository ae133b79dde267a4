//! Decode steps on a CUDA device: the same bits captured and launch by launch, and few launches.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use common::*;
use mosu_models::{LoadFormat, Model, ModelOptions};

/// The CUDA device: the simulated one, or a real one with `MOSU_TEST_CUDA=real`.
struct Gpu {
    options: ModelOptions,
    simulated: bool,
    /// What is launched is counted for the whole process: tests take turns.
    _turn: MutexGuard<'static, ()>,
}

/// `None` where the simulated device is not built.
fn gpu() -> Option<Gpu> {
    static TURN: Mutex<()> = Mutex::new(());
    let options = ModelOptions { device: cuda()?, ..options(1) };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Gpu { options, simulated: !cusim::is_real(), _turn })
}

/// Token ids of a sequence that starts like no other.
fn ids(sequence: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((sequence * 31 + i * i * 7 + i * 3) % 90 + 3) as u32).collect()
}

/// Prefills all but the last `count` tokens of each sequence, then calls `step` once for each of these.
fn decode(model: &mut Model, sequences: &mut [Sequence], count: usize, mut step: impl FnMut(Vec<f32>)) {
    for sequence in &mut *sequences {
        while sequence.remaining() > count {
            let rows = (sequence.remaining() - count).min(MAX_ROWS);
            let batch = advance(model, &mut [(sequence, rows)]);
            model.step_logits(&batch).unwrap();
        }
    }
    for _ in 0..count {
        let mut all: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
        let batch = advance(model, &mut all);
        step(model.step_logits(&batch).unwrap());
    }
}

/// Three sequences make graphs of four rows; their block tables outgrow one shape.
#[test]
fn captured_steps_give_the_same_bits() {
    let Some(Gpu { options, simulated, _turn }) = gpu() else { return };
    for name in ["llama31_bf16", "qwen3_moe_bf16", "gpt_oss_bf16"] {
        let run = |cuda_graphs| {
            let mut model =
                load_with(fixture(name), &ModelOptions { cuda_graphs, ..options.clone() }).unwrap();
            let graphs = || if simulated { cusim::graph_launches().unwrap() } else { 0 };
            let (before, mut bits) = (graphs(), Vec::new());
            let mut sequences =
                [(0, 12), (1, 38), (2, 25)].map(|(s, len)| Sequence::new(&ids(s, len), 4 * s as u32));
            decode(&mut model, &mut sequences, 10, |logits| {
                assert!(logits.iter().all(|logit| logit.is_finite()));
                bits.push(logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>());
            });
            ((bits, greedy(&mut model, &ids(3, 20), 10)), graphs() - before)
        };
        let ((found, captured), (expected, not_captured)) = (run(true), run(false));
        assert!(found == expected, "{name}: bits differ");
        // The first step of a shape runs launch by launch.
        assert!(!simulated || (captured >= 10 && not_captured == 0), "{name}: {captured} graphs");
    }
}

/// As many rows as there may be sequences are one captured step, whose logits are computed at once.
#[test]
fn seventy_sequences_decode_in_one_captured_step() {
    let Some(Gpu { options, simulated, _turn }) = gpu() else { return };
    let run = |max_sequences, cuda_graphs| {
        let options = ModelOptions { max_sequences, cuda_graphs, ..options.clone() };
        let mut model = load_with(fixture("llama31_bf16"), &options).unwrap();
        let graphs = || if simulated { cusim::graph_launches().unwrap() } else { 0 };
        let (before, mut bits) = (graphs(), Vec::new());
        let mut sequences: Vec<Sequence> =
            (0..70).map(|s| Sequence::new(&ids(s, 3 + s % 3), s as u32)).collect();
        decode(&mut model, &mut sequences, 3, |logits| {
            bits.push(logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>());
        });
        (bits, graphs() - before)
    };
    let ((captured, graphs), (in_two, of_prompts)) = (run(100, true), run(64, true));
    assert!(captured == in_two && captured == run(100, false).0, "bits differ");
    // The first of three steps runs launch by launch.
    assert!(!simulated || graphs == of_prompts + 2, "{graphs} graphs, {of_prompts} of them of prompts");
}

/// Kernels that one layer of a fixture's shape adds to a decode step of `rows` sequences with `context` tokens.
fn launches_of_a_layer(gpu: &Gpu, name: &str, rows: usize, context: usize) -> BTreeMap<String, u64> {
    let launches_with = |layers: usize| {
        let shape = copy_of(name);
        edit_config(shape.path(), |config| {
            config["num_hidden_layers"] = layers.into();
            config["max_position_embeddings"] = 1024.into();
            config["mlp_only_layers"] = serde_json::json!([]);
        });
        let load_format = LoadFormat::Dummy;
        let mut model =
            load_with(shape.path(), &ModelOptions { load_format, ..gpu.options.clone() }).unwrap();
        let blocks = context.div_ceil(mosu_models::BLOCK_SIZE);
        let mut sequences: Vec<Sequence> =
            (0..rows).map(|s| Sequence::new(&ids(s, context), (s * blocks) as u32)).collect();
        let (mut before, mut launches) = (BTreeMap::new(), BTreeMap::new());
        // The third step of a shape is a graph's second run.
        decode(&mut model, &mut sequences, 3, |_| {
            before = std::mem::replace(&mut launches, cusim::launches().unwrap());
        });
        launches.iter_mut().for_each(|(kernel, count)| *count -= before.get(kernel).unwrap_or(&0));
        launches
    };
    let (one, three) = (launches_with(1), launches_with(3));
    let added = three.into_iter().map(|(kernel, count)| {
        let count = count - one.get(&kernel).unwrap_or(&0);
        (kernel, count / 2)
    });
    added.filter(|(_, count)| *count > 0).collect()
}

/// `most` launches in short and long contexts, alone and among others.
fn assert_few_launches(name: &str, most: u64) {
    let Some(gpu) = gpu().filter(|gpu| gpu.simulated) else { return };
    for (rows, context) in [(1, 40), (3, 40), (1, 300)] {
        let launches = launches_of_a_layer(&gpu, name, rows, context);
        let sum: u64 = launches.values().sum();
        println!(
            "{name}: a layer decodes {rows} rows, contexts of {context}, in {sum} launches: {launches:?}"
        );
        assert!((1..=most).contains(&sum), "{name}: {sum} launches, expected at most {most}: {launches:?}");
    }
}

#[test]
fn a_dense_layer_decodes_in_eight_launches() {
    assert_few_launches("llama31_bf16", 8);
}

#[test]
fn a_sparse_layer_decodes_in_twelve_launches() {
    assert_few_launches("qwen3_moe_bf16", 12);
}
