//! Directories and options that cannot work: each is an error that names the file or option, never a panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{collections::HashMap, fs, path::Path};

use common::*;
use mosu_models::{LoadError, LoadFormat, Model, ModelOptions, ModelSource};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

fn refusal(dir: &Path) -> String {
    match load(dir, 1) {
        Ok(_) => panic!("{} loads", dir.display()),
        Err(error) => error.to_string(),
    }
}

/// Writes a directory's weights again, changed.
fn edit_weights(dir: &Path, edit: impl FnOnce(&mut HashMap<String, TensorView>)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().collect();
    edit(&mut tensors);
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
}

#[test]
fn a_missing_directory_and_a_missing_config() {
    let message = refusal(Path::new("/no/such/model"));
    assert!(message.contains("/no/such/model/config.json: not found; a model directory"), "{message}");
    let dir = copy_of("llama");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors: not found"));
}

#[test]
fn broken_json() {
    let dir = copy_of("llama");
    let deep = "[".repeat(1 << 20);
    for broken in ["", "{", "[1]", "\"x\"", "nul", deep.as_str()] {
        fs::write(dir.path().join("config.json"), broken).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("config.json: "), "{message}");
    }
    fs::write(dir.path().join("config.json"), b"{\"a\": \"\xff\"}").unwrap();
    assert!(refusal(dir.path()).contains("not valid JSON"));
}

#[test]
fn a_config_that_the_weights_contradict() {
    let cases = [
        ("vocab_size", json!(129), "has shape [128, 40], but config.json implies [129, 40]"),
        (
            "intermediate_size",
            json!(55),
            "mlp.gate_proj.weight`: has shape [56, 40], but config.json implies [55, 40]",
        ),
        ("num_hidden_layers", json!(3), "`model.layers.2.input_layernorm.weight`: not in the checkpoint"),
        ("num_hidden_layers", json!(1), "`model.layers.1.input_layernorm.weight`: has no place in the model"),
        (
            "num_hidden_layers",
            json!(1_000_000_000_000_u64),
            "`num_hidden_layers`: expected an integer from 1 to 4096",
        ),
        ("attention_bias", json!(true), "self_attn.q_proj.bias`: not in the checkpoint"),
        ("hidden_size", json!(1 << 20), "but config.json implies"),
    ];
    for (key, value, expected) in cases {
        let dir = copy_of("llama");
        edit_config(dir.path(), |config| config[key] = value);
        let message = refusal(dir.path());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_tensor_too_many_and_one_too_few() {
    let dir = copy_of("llama");
    edit_weights(dir.path(), |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        tensors.insert("model.extra.weight".into(), norm);
    });
    assert!(refusal(dir.path()).contains("model.safetensors: tensor `model.extra.weight`: has no place"));
    let dir = copy_of("qwen3_moe");
    edit_weights(dir.path(), |tensors| {
        tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight");
    });
    assert!(
        refusal(dir.path())
            .contains("tensor `model.layers.2.mlp.experts.7.up_proj.weight`: not in the checkpoint")
    );
}

#[test]
fn known_extras_are_ignored() {
    let dir = copy_of("llama31");
    edit_weights(dir.path(), |tensors| {
        let table = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), table);
        let norm = tensors["model.norm.weight"].clone();
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), norm);
    });
    load(dir.path(), 1).unwrap();
}

#[test]
fn matrices_of_two_compute_types_are_refused() {
    let dir = copy_of("llama31_bf16");
    let name = "model.layers.1.mlp.down_proj.weight";
    edit_weights(dir.path(), |tensors| {
        let shape = tensors[name].shape().to_vec();
        let zeros = vec![0; shape.iter().product::<usize>() * 4].leak();
        tensors.insert(name.into(), TensorView::new(safetensors::Dtype::F32, shape, zeros).unwrap());
    });
    let message = refusal(dir.path());
    assert!(message.contains(&format!("tensor `{name}`: is float32")), "{message}");
}

#[test]
fn truncated_weights() {
    let dir = copy_of("llama");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("model.safetensors: "), "{message}");
    }
}

/// Headers with bytes changed at random: an error that names the file, or a model; never a panic, and never memory for a
/// tensor that the file does not have.
#[test]
fn mutated_headers_are_errors_that_name_the_file() {
    let dir = copy_of("ernie4_5_moe");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=random(3) {
            bytes[random(header)] = b"0123456789[]{}:,\"FBU\xff\0"[random(21)];
        }
        fs::write(&path, bytes).unwrap();
        if let Err(error) = load(dir.path(), 1) {
            assert!(error.to_string().contains("model.safetensors"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 200, "{refused}");
}

/// What a text model leaves aside of a multimodal checkpoint is said.
#[test]
fn ignored_tensors_are_listed() {
    let model = load(fixture("gemma3_multimodal"), 1).unwrap();
    let ignored = &model.info().ignored_tensors;
    assert!(ignored.iter().any(|name| name.contains("vision")), "{ignored:?}");
    assert!(ignored.iter().all(|name| !name.starts_with("language_model.")), "{ignored:?}");
    assert!(load(fixture("llama"), 1).unwrap().info().ignored_tensors.is_empty());
}

#[test]
fn options_that_contradict_the_model() {
    let try_options = |change: fn(&mut ModelOptions)| {
        let mut options = options(1);
        change(&mut options);
        let error = Model::load(&ModelSource::Directory(fixture("llama")), &options, &mut |_| {}).map(|_| ());
        error.unwrap_err().to_string()
    };
    let cases = [
        (try_options(|options| options.max_model_len = Some(257)), "max_model_len: expected 1 to 256"),
        (try_options(|options| options.max_model_len = Some(0)), "max_model_len: expected 1 to 256"),
        (try_options(|options| options.max_batch_tokens = Some(0)), "max_batch_tokens: expected 1 to"),
        (
            try_options(|options| options.max_batch_tokens = Some(usize::MAX)),
            "max_batch_tokens: expected 1 to",
        ),
        (try_options(|options| options.kv_cache_bytes = Some(usize::MAX)), "the KV cache needs"),
        (try_options(|options| options.kv_cache_bytes = Some(0)), "the KV cache of one sequence"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn random_weights_need_a_config_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("qwen3_moe_bf16").join("config.json"), dir.path().join("config.json")).unwrap();
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..options(2) };
    let mut last = mosu_models::LoadProgress::default();
    let source = ModelSource::Directory(dir.path().into());
    let mut model = Model::load(&source, &options, &mut |progress| last = progress).unwrap();
    assert_eq!((last.tensors_done, last.bytes_done), (last.tensors_total, last.bytes_total));
    assert_eq!(model.info().weight_bytes, last.bytes_total);
    let real = load(fixture("qwen3_moe_bf16"), 1).unwrap();
    assert_eq!(model.info().spec, real.info().spec);
    assert_eq!(model.info().weight_bytes, real.info().weight_bytes);
    let logits = logits_in_chunks(&mut model, &[5, 6, 7], 3);
    assert!(logits.iter().all(|logit| logit.is_finite()) && logits.iter().any(|logit| *logit != logits[0]));
}

#[test]
fn random_weights_that_do_not_fit_are_refused_before_they_are_made() {
    let dir = copy_of("llama");
    edit_config(dir.path(), |config| {
        for key in ["hidden_size", "intermediate_size"] {
            config[key] = json!(1 << 20);
        }
        config["num_attention_heads"] = json!(4096);
        config["head_dim"] = Value::Null;
        config["num_hidden_layers"] = json!(4096);
    });
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..options(1) };
    let error = Model::load(&ModelSource::Directory(dir.path().into()), &options, &mut |_| {}).map(|_| ());
    let Err(LoadError::Memory { needed, available, plan, .. }) = error else { panic!("{error:?}") };
    assert!(needed > 1 << 50 && available < needed && plan.weights < needed);
}
