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
    assert!(message.contains("/no/such/model: not found; give a directory with config.json"), "{message}");
    let dir = copy_of("llama");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors: not found"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("config.json: not found; a model directory"));
}

#[test]
fn a_file_in_place_of_a_directory() {
    let dir = copy_of("llama");
    fs::write(dir.path().join("model.gguf"), "GGUF").unwrap();
    for (file, expected) in [
        ("model.safetensors", "model.safetensors: is a file; give the directory around it"),
        ("config.json", "config.json: is a file; give the directory around it"),
        ("model.gguf", "model.gguf: is a file; give the directory around it"),
    ] {
        let message = refusal(&dir.path().join(file));
        assert!(message.contains(expected), "{message}");
    }
}

/// Files that git-lfs has not fetched, of every kind, wherever they are read.
#[test]
fn a_git_lfs_pointer_says_so() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n";
    let sharded = ["model-00001-of-00003.safetensors", "model.safetensors.index.json"];
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "tokenizer.model",
    ]
    .iter()
    .chain(&sharded)
    {
        let dir = if sharded.contains(file) { copy_of("llama_sharded") } else { copy_of("llama") };
        fs::write(dir.path().join(file), pointer).unwrap();
        let source = ModelSource::Directory(dir.path().into());
        let found = mosu_models::inspect(&source);
        // A model whose template cannot be read runs all the same.
        let template = found.chat_template.and_then(Result::err);
        let said: Vec<String> = found.refusals.into_iter().chain(template).collect();
        let expected =
            format!("{file}: a git-lfs pointer, not the file that it stands for; run `git lfs pull`");
        assert!(said.iter().any(|refusal| refusal.contains(&expected)), "{file}: {said:?}");
    }
    let dir = copy_of("llama");
    for file in ["config.json", "model.safetensors"] {
        fs::write(dir.path().join(file), pointer).unwrap();
        assert!(refusal(dir.path()).contains(&format!("{file}: a git-lfs pointer")), "{file}");
        fs::copy(fixture("llama").join(file), dir.path().join(file)).unwrap();
    }
    load(dir.path(), 1).unwrap();
}

/// Python writes these and reads them; they are no numbers that a model can be made of.
#[test]
fn pythons_constants() {
    let dir = copy_of("llama");
    let path = dir.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let with = |members: &str| config.replacen('{', &format!("{{{members},"), 1);
    fs::write(&path, with(r#""time_step_limit": [0.0, Infinity], "unused": {"a": NaN, "b": -Infinity}"#))
        .unwrap();
    load(dir.path(), 1).unwrap();
    for (key, value) in [("rms_norm_eps", "NaN"), ("hidden_size", "Infinity"), ("head_dim", "-Infinity")] {
        let others: String = config.lines().filter(|line| !line.contains(&format!("\"{key}\""))).collect();
        fs::write(&path, others.replacen('{', &format!("{{\"{key}\": {value},"), 1)).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains(&format!("`{key}`: expected")) && message.contains(value), "{message}");
    }
    fs::write(&path, &config).unwrap();
    fs::write(
        dir.path().join("generation_config.json"),
        r#"{"temperature": NaN, "eos_token_id": [3, null, -1]}"#,
    )
    .unwrap();
    assert_eq!(load(dir.path(), 1).unwrap().info().eos_token_ids, [3]);
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

/// What belongs to a module that is needed would change the answer.
#[test]
fn a_tensor_too_many() {
    let cases = [
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_proj"),
        ("model.layers.1.mlp.down_proj.weight_scale", "model.layers.1.mlp.down_proj"),
        ("model.layers.1.mlp.down_proj.weight_scale_inv", "model.layers.1.mlp.down_proj"),
        ("model.layers.0.self_attn.v_proj.qzeros", "model.layers.0.self_attn.v_proj"),
        ("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn"),
        ("model.layers.1.post_feedforward_layernorm.weight", "model.layers.1"),
        ("model.embed_tokens.weight_scale", "model.embed_tokens"),
        ("model.norm.bias", "model.norm"),
        ("lm_head.bias", "lm_head"),
    ];
    for (name, module) in cases {
        let dir = copy_of("llama");
        edit_weights(dir.path(), |tensors| {
            let norm = tensors["model.norm.weight"].clone();
            tensors.insert(name.into(), norm);
        });
        let message = refusal(dir.path());
        let expected = format!("model.safetensors: tensor `{name}`: has no place in `{module}`");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn a_tensor_too_few() {
    let dir = copy_of("qwen3_moe");
    edit_weights(dir.path(), |tensors| {
        tensors.remove("model.layers.2.mlp.experts.7.up_proj.weight");
    });
    assert!(
        refusal(dir.path())
            .contains("tensor `model.layers.2.mlp.experts.7.up_proj.weight`: not in the checkpoint")
    );
}

/// What stands outside of what is needed is listed, and the answers are the same; so are tables of a layer, and the scales
/// of a quantised KV cache.
#[test]
fn extras_are_listed() {
    let extras = [
        "lm_head.weight",
        "model.extra.weight",
        "model.layers.0.self_attn.k_proj.k_scale",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.v_scale",
        "model.layers.2.mlp.down_proj.weight",
        "model.mtp_block.0.mlp.down_proj.weight",
        "mtp.fc.weight",
    ];
    let dir = copy_of("llama31");
    edit_weights(dir.path(), |tensors| {
        let table = tensors["model.embed_tokens.weight"].clone();
        tensors.extend(extras.map(|name| (name.to_string(), table.clone())));
    });
    let mut model = load(dir.path(), 1).unwrap();
    assert_eq!(model.info().ignored_tensors, extras);
    let source = ModelSource::Directory(dir.path().into());
    assert_eq!(mosu_models::inspect(&source).ignored_tensors, extras);
    let mut original = load(fixture("llama31"), 1).unwrap();
    let tokens = [5, 6, 7];
    assert_eq!(logits_in_chunks(&mut model, &tokens, 3), logits_in_chunks(&mut original, &tokens, 3));
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
