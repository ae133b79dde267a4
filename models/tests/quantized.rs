//! Checkpoints as GPTQ, AWQ, compressed-tensors and FP8 tools publish them (tests/fixtures/make_quantized.py): logits against
//! those of the weights that the integers and scales stand for, exactness, memory, and refusals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{collections::HashMap, fs, path::PathBuf};

use common::*;
use mosu_kernels::Device;
use mosu_models::{Model, ModelOptions, ModelSource};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

/// Each with the format that its matrices have in memory on the CPU, and how far logits may be off where activations meet
/// floats: bf16, or f32 in checkpoints of f16.
const CHECKPOINTS: [(&str, &str, f32); 12] = [
    ("gptq", "Q4_0", 1e-4),
    ("gptq_zeros", "Q4_1", 0.2),
    ("gptq_v2", "Q4_1", 0.03),
    ("gptq_desc_act", "float16", 0.02),
    ("gptq_8", "Q8_0", 0.2),
    ("awq", "Q4_1", 0.03),
    ("compressed_4", "Q4_0", 0.2),
    ("compressed_4_zeros", "Q4_1", 0.2),
    ("compressed_8", "Q8_0", 0.2),
    ("compressed_w8a8", "Q8_0", 0.2),
    ("fp8_rows", "FP8", 0.2),
    ("fp8_matrix", "FP8", 0.2),
];

fn checkpoint(name: &str) -> PathBuf {
    fixture("").parent().unwrap().join("quantized").join(name)
}

fn load(name: &str, options: &ModelOptions) -> Model {
    let source = ModelSource::at(checkpoint(name));
    Model::load(&source, options, &mut |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn all_options() -> Vec<ModelOptions> {
    let on_gpu = cuda().map(|device| ModelOptions { device, ..options(1) });
    [options(2)].into_iter().chain(on_gpu).collect()
}

/// The CPU rounds the activations that meet integers to 8 bits; logits are of the order of 1 to 5.
#[test]
fn logits_are_those_of_the_published_weights_within_rounding() {
    for (name, format, of_floats) in CHECKPOINTS {
        let golden = Golden::read(&checkpoint(name).join("golden.safetensors"));
        for options in all_options() {
            let mut model = load(name, &options);
            let on_cpu = matches!(options.device, Device::Cpu(_));
            if on_cpu {
                let formats = model.info().formats.clone();
                assert!(formats.iter().any(|(found, _)| found.to_string() == format), "{name}: {formats:?}");
            }
            let bound = if on_cpu && format.starts_with('Q') { 0.5 } else { of_floats };
            let whole = logits_in_chunks(&mut model, &golden.ids, 1000);
            let difference = max_difference(&whole, &golden.logits);
            println!("{name}: {difference}");
            assert!(difference < bound, "{name}: logits are off by {difference}");
            for chunk in [1, 7] {
                let logits = logits_in_chunks(&mut model, &golden.ids, chunk);
                let same = logits.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} in chunks of {chunk}");
            }
        }
    }
}

/// A copy of a checkpoint with another config.json and other weights.
fn changed(name: &str, config: Value, edit: impl FnOnce(&mut HashMap<String, TensorView<'_>>)) -> String {
    let dir = copy_of(&format!("../quantized/{name}"));
    edit_config(dir.path(), |whole| {
        for (key, value) in config.as_object().unwrap() {
            whole["quantization_config"][key] = value.clone();
        }
    });
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
    edit(&mut tensors);
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    match common::load(dir.path(), 1) {
        Ok(_) => panic!("{name} loads"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_config_json_says_must_hold() {
    for (name, config, expected) in [
        ("gptq", json!({"bits": 3}), "`quantization_config.bits`: expected 4 or 8, found 3"),
        ("gptq", json!({"bits": 8}), "tensor `model.layers.0.self_attn.q_proj.qweight`: has shape [8, 64]"),
        (
            "gptq",
            json!({"checkpoint_format": "marlin"}),
            "`marlin` is not supported; expected gptq or gptq_v2",
        ),
        (
            "gptq",
            json!({"quant_method": "exl2"}),
            "method `exl2` is not supported; supported are mxfp4, fp8, gptq, awq",
        ),
        ("gptq_zeros", json!({"sym": true}), "q_proj.qzeros`: has zero points other than the middle"),
        ("awq", json!({"version": "gemv"}), "`quantization_config.version`: `gemv` is not supported"),
        ("awq", json!({"bits": 3}), "`quantization_config.bits`: expected 4, found 3"),
        (
            "compressed_4",
            json!({"format": "marlin-24"}),
            "`marlin-24` is not supported; expected one of pack-quantized",
        ),
        (
            "compressed_4",
            json!({"kv_cache_scheme": {"num_bits": 8}}),
            "a quantised KV cache is not supported",
        ),
        (
            "fp8_matrix",
            json!({"weight_block_size": [64, 64]}),
            "only [128, 128], or a scale per row or matrix",
        ),
    ] {
        let message = changed(name, config, |_| {});
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn scales_and_groups_must_fit() {
    let module = "model.layers.0.self_attn.q_proj";
    let tensor = |end: &str| format!("{module}.{end}");
    let message = changed("gptq", json!({}), |tensors| drop(tensors.remove(&tensor("scales"))));
    assert!(message.contains("q_proj.scales`: not in the checkpoint"), "{message}");

    static NAN: [u8; 2 * 2 * 64] = [0xff; 2 * 2 * 64];
    let scales = TensorView::new(Dtype::F16, vec![2, 64], &NAN).unwrap();
    let message = changed("gptq", json!({}), |tensors| drop(tensors.insert(tensor("scales"), scales)));
    assert!(message.contains("q_proj.scales`: has a scale that is not finite"), "{message}");

    static GROUPS: [u8; 4 * 64] = [9; 4 * 64];
    let indices = TensorView::new(Dtype::I32, vec![64], &GROUPS).unwrap();
    let message = changed("gptq", json!({}), |tensors| drop(tensors.insert(tensor("g_idx"), indices)));
    assert!(message.contains("q_proj.g_idx`: names group 151587081, but there are 2 of scales"), "{message}");

    static WORDS: [u8; 4 * 5 * 64] = [0; 4 * 5 * 64];
    let packed = TensorView::new(Dtype::I32, vec![64, 5], &WORDS).unwrap();
    let message =
        changed("compressed_4", json!({}), |tensors| drop(tensors.insert(tensor("weight_packed"), packed)));
    assert!(message.contains("has rows of 5 words, but 64 weights of 4 or 8 bits are needed"), "{message}");
}
