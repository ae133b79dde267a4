//! GGUF files whose matrices are packed, each in another format (tests/fixtures/make_packed_gguf.py): logits against those
//! of the decoded weights, exactness, and how much memory they take.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{fs, path::PathBuf};

use common::*;
use mosu_kernels::Device;
use mosu_models::{Model, ModelOptions, ModelSource};

const FILES: [&str; 2] = ["llama", "qwen3_moe"];

fn file(name: &str) -> PathBuf {
    fixture("").parent().unwrap().join("packed_gguf").join(name)
}

fn load_packed(name: &str, options: &ModelOptions) -> Model {
    let source = ModelSource::at(file(&format!("{name}.gguf")));
    Model::load(&source, options, &mut |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn golden(name: &str) -> Golden {
    Golden::read(&file(&format!("{name}.golden.safetensors")))
}

/// The processor, and the CUDA device where one answers.
fn all_options() -> Vec<ModelOptions> {
    let on_gpu = cuda().map(|device| ModelOptions { device, ..options(1) });
    [options(2)].into_iter().chain(on_gpu).collect()
}

/// Weights are exact on the CPU, whose activations are rounded to 8 bits where they meet them; on a GPU both are rounded to
/// bf16. A rounded choice of experts may differ in a row.
#[test]
fn logits_are_those_of_the_decoded_weights_within_rounding() {
    for name in FILES {
        let Golden { ids, logits: golden, .. } = golden(name);
        for options in all_options() {
            let mut model = load_packed(name, &options);
            let bound = if matches!(options.device, Device::Cpu(_)) { 0.2 } else { 0.1 };
            for chunk in [1, 7, 1000] {
                let logits = logits_in_chunks(&mut model, &ids, chunk);
                let width = logits.len() / ids.len();
                let rows = logits.chunks(width).zip(golden.chunks(width));
                let differences: Vec<f32> = rows.map(|(a, b)| max_difference(a, b)).collect();
                println!("{name} in chunks of {chunk}: {differences:?}");
                let near = differences.iter().filter(|difference| **difference <= bound).count();
                assert!(near >= ids.len() * 9 / 10, "{name}: {near} rows of {} are near", ids.len());
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_chunks() {
    for name in FILES {
        let ids = golden(name).ids;
        for options in all_options() {
            let mut model = load_packed(name, &options);
            let whole = logits_in_chunks(&mut model, &ids, 1000);
            for chunk in [1, 5, 16] {
                let logits = logits_in_chunks(&mut model, &ids, chunk);
                let same = logits.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && !logits.iter().any(|x| x.is_nan()), "{name} in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn they_stay_packed_in_memory() {
    for name in FILES {
        let model = load_packed(name, &options(1));
        let info = model.info();
        let size = fs::metadata(file(&format!("{name}.gguf"))).unwrap().len();
        assert!(info.weight_bytes <= size, "{name}: {} bytes of a file of {size}", info.weight_bytes);
        assert!(info.formats.len() >= 8, "{}", info.format_names());
        assert!(info.active_weight_bytes < info.weight_bytes);
    }
}
