mod optional;

use std::{
    fs,
    path::{Path, PathBuf},
};

use mosu_kernels::ops::{AttentionMask, Renormalize};
use serde_json::{Value, json};

use super::*;
use crate::{FfnSpec, RopeScaling};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    })
}

/// A model with latent attention, and experts.
fn latent() -> Value {
    let sizes = json!({"num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
        "kv_lora_rank": 48, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 8});
    with(llama(), sizes)
}

fn with(base: Value, changes: Value) -> Value {
    let mut config = base;
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The spec of a config.json.
pub(crate) fn read_spec(config: &Value) -> Result<DecoderSpec, LoadError> {
    let config = ConfigJson::new(Path::new("config.json"), config)?;
    read(&config).map(|family| family.spec)
}

/// The message of the error that these changes of Llama's config.json cause.
fn refusal(changes: Value) -> String {
    match read_spec(&with(llama(), changes.clone())) {
        Ok(_) => panic!("{changes} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn absent_keys_take_transformers_defaults() {
    let spec = read_spec(&llama()).unwrap();
    let attention = spec.layers[1].mixer.attention().unwrap();
    assert_eq!((spec.layers.len(), spec.norm.eps, spec.dtype), (2, 1e-6, None));
    let rope = attention.rope.as_ref().unwrap();
    assert_eq!((attention.head_dim, rope.theta, attention.mask), (16, 1e4, AttentionMask::Full));
    assert!(!(spec.head.tied || attention.qkv_bias || attention.o_bias || attention.qk_norm.is_some()));
}

#[test]
fn absurd_values_are_errors_that_name_the_key() {
    let absurd = [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000_000_000_u64)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-4)),
        ("num_attention_heads", json!(6)),
        ("num_attention_heads", json!("four")),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(1.5)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", Value::Null),
        ("head_dim", json!(15)),
        ("head_dim", json!(1024)),
        ("vocab_size", json!(1_u64 << 40)),
        ("intermediate_size", json!([96])),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(-1e-6)),
        ("rms_norm_eps", json!("1e-6")),
        ("rope_theta", json!(0)),
        ("tie_word_embeddings", json!("yes")),
        ("attention_bias", json!(1)),
        ("hidden_act", json!("relu")),
        ("dtype", json!("float8_e4m3fn")),
        ("torch_dtype", json!("int8")),
        ("quantization_config", json!({"quant_method": "exl2"})),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_scaling", json!("linear")),
        ("rope_scaling", json!({"rope_type": "ntk", "factor": 2.0})),
        ("rope_parameters", json!({"rope_type": "proportional", "rope_theta": 1e4})),
        ("architectures", json!([])),
        ("architectures", json!("LlamaForCausalLM")),
    ];
    for (key, value) in absurd {
        let message = refusal(json!({ key: value }));
        assert!(message.contains(&format!("`{key}`")), "{key} = {value}: {message}");
    }
}

#[test]
fn unsupported_rope_types_are_named() {
    let message = refusal(json!({"rope_scaling": {"type": "proportional"}}));
    assert_eq!(
        message,
        "config.json: `rope_scaling`: type \"proportional\" is not supported; supported are default, linear, \
         dynamic, llama3, yarn, longrope"
    );
}

#[test]
fn rope_errors_name_the_section() {
    let cases = [
        (json!({"rope_type": "linear"}), "`rope_scaling.factor`"),
        (json!({"type": "yarn", "factor": -4.0}), "`rope_scaling.factor`"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
            "`rope_scaling.high_freq_factor`",
        ),
        (json!({"rope_type": 3}), "`rope_scaling.rope_type`"),
        (json!({"full_attention": {"rope_theta": 1e4}}), "`rope_scaling.full_attention`"),
    ];
    for (section, key) in cases {
        let message = refusal(json!({ "rope_scaling": section }));
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let message = refusal(json!({"architectures": ["PersimmonForCausalLM"]}));
    assert!(message.contains("\"PersimmonForCausalLM\" is not supported"), "{message}");
    for (known, _) in FAMILIES {
        assert!(message.contains(known), "{message}");
    }
}

/// Qwen2.5's model card adds YaRN without touching `max_position_embeddings`.
#[test]
fn yarn_extends_the_context() {
    let yarn =
        json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}});
    let spec = read_spec(&with(llama(), yarn)).unwrap();
    assert_eq!(spec.max_position_embeddings, 1024);
    let RopeScaling::Yarn { attention_factor, beta_fast, .. } = spec.layers[0].mixer.rope().unwrap().scaling
    else {
        panic!("not YaRN");
    };
    assert!((attention_factor - (0.1 * 4.0_f64.ln() + 1.0)).abs() <= 1e-12);
    assert_eq!(beta_fast, 32.0);
}

/// DeepSeek's two scales cancel out where they are equal.
#[test]
fn yarn_takes_the_ratio_of_two_scales() {
    let scaling =
        json!({"rope_scaling": {"type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}});
    let spec = read_spec(&with(llama(), scaling)).unwrap();
    assert!(matches!(
        spec.layers[0].mixer.rope().unwrap().scaling,
        RopeScaling::Yarn { attention_factor: 1.0, original_max_position: 256, .. }
    ));
}

#[test]
fn experts_are_read_in_both_dialects() {
    let moe = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 16, "mlp_only_layers": [0], "norm_topk_prob": true});
    let spec = read_spec(&with(llama(), moe.clone())).unwrap();
    assert!(matches!(&spec.layers[0].ffn, FfnSpec::Dense(dense) if dense.intermediate_size == 96));
    let experts = spec.layers[1].ffn.moe().unwrap();
    assert_eq!((experts.num_experts, experts.num_experts_per_tok, experts.intermediate_size), (8, 3, 16));
    assert_eq!(experts.router.renormalize, Renormalize::Sum);
    let mut renamed = with(llama(), moe);
    let count = renamed.as_object_mut().unwrap().remove("num_experts").unwrap();
    renamed["num_local_experts"] = count;
    assert_eq!(read_spec(&renamed).unwrap(), spec);
    let message = refusal(
        json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 3}),
    );
    assert!(message.contains("`num_experts_per_tok`: expected an integer from 1 to 2, found 3"), "{message}");
}

#[test]
fn families_like_deepseek_v3_differ_in_norms_layers_and_bias() {
    let read = |architecture: &str, changes: Value| {
        read_spec(&with(with(latent(), json!({"architectures": [architecture]})), changes))
    };
    let sparse =
        |spec: &DecoderSpec| spec.layers.iter().map(|layer| layer.ffn.moe().is_some()).collect::<Vec<_>>();
    let latent_eps = |spec: &DecoderSpec| spec.layers[1].mixer.latent_attention().unwrap().latent.norm_eps;

    let deepseek = read("DeepseekV3ForCausalLM", json!({})).unwrap();
    assert_eq!((deepseek.norm.eps, latent_eps(&deepseek), sparse(&deepseek)), (1e-6, 1e-6, vec![true, true]));
    let glm = read("Glm4MoeLiteForCausalLM", json!({})).unwrap();
    assert_eq!((glm.norm.eps, latent_eps(&glm), sparse(&glm)), (1e-5, 1e-6, vec![false, true]));

    let ultra = |changes| read("PanguUltraMoEForCausalLM", changes);
    let plain = ultra(json!({"num_dense_layers": 1})).unwrap();
    assert_eq!((plain.norm.eps, latent_eps(&plain), sparse(&plain)), (1e-5, 1e-5, vec![false, true]));
    assert!(!plain.layers[1].post_norms && !plain.layers[1].ffn.moe().unwrap().e_score_correction_bias);
    let with_both = ultra(json!({"sandwich_norm": true, "router_enable_expert_bias": true})).unwrap();
    assert!(with_both.layers[1].post_norms && with_both.layers[1].ffn.moe().unwrap().e_score_correction_bias);
    for none in [json!(0), json!(-1), Value::Null] {
        assert_eq!(ultra(json!({"num_dense_layers": 1, "sliding_window": none})).unwrap(), plain);
    }
    let message = ultra(json!({"sliding_window": 7})).unwrap_err().to_string();
    assert!(message.contains("`sliding_window`: windows are not supported"), "{message}");
}

/// Published sizes, from the shapes alone: Llama-3.2-1B and Qwen3-30B-A3B.
#[test]
fn parameters_are_counted() {
    let llama = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "max_position_embeddings": 131072, "tie_word_embeddings": true,
    });
    let spec = read_spec(&llama).unwrap();
    assert_eq!(spec.parameters(), Some(1_235_814_400));
    assert_eq!(spec.active_parameters(), spec.parameters());
    assert_eq!(spec.tensors(), 146);
    assert_eq!(spec.kv_elements_per_token(), 16 * 2 * 8 * 64);
    let qwen = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "max_position_embeddings": 40960,
    });
    let spec = read_spec(&qwen).unwrap();
    assert_eq!(spec.parameters(), Some(30_532_122_624));
    let (input_table, idle_experts) = (151_936 * 2048, 48 * 120 * 3 * 2048 * 768);
    assert_eq!(spec.active_parameters(), Some(30_532_122_624 - input_table - idle_experts));
}

#[test]
fn the_largest_sizes_can_be_counted() {
    let huge = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 20,
        "num_hidden_layers": 1 << 12, "num_attention_heads": 1 << 12, "head_dim": 512, "num_experts": 1 << 10,
        "num_experts_per_tok": 1 << 10, "moe_intermediate_size": 1 << 20, "max_position_embeddings": 1 << 28,
    });
    let spec = read_spec(&huge).unwrap();
    // 4096 layers of 1024 experts of three matrices of 2^40 weights, and what stands beside them.
    assert!(spec.parameters().unwrap() > (4096 * 1024 * 3) << 40);
}

#[test]
fn what_a_known_architecture_lacks_is_named() {
    let cases = [
        ("Qwen3NextForCausalLM", "gated delta net layers"),
        ("MiniMaxText01ForCausalLM", "lightning attention layers"),
        ("DeepseekV32ForCausalLM", "sparse attention with an indexer"),
        ("HYV4ForCausalLM", "hyper-connections"),
        ("Qwen2_5_VLForConditionalGeneration", "rotation by place in an image"),
    ];
    for (architecture, needs) in cases {
        let message = refusal(json!({"architectures": [architecture]}));
        let expected = format!("{architecture} needs {needs}, not supported yet");
        assert!(message.contains(&expected), "{message}");
    }
}

/// The JSON files directly in a directory below `tests`.
fn configs_in(dir: &str) -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let configs = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read = |path: PathBuf| serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    configs.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_string(), read(path))).collect()
}

/// Published models at full size: parameters as counted from transformers' own classes, and equal specs from both
/// dialects.
#[test]
fn published_models_have_their_parameters() {
    let mut shapes = configs_in("shapes");
    let index = shapes.iter().position(|(name, _)| name == "parameters").unwrap();
    let (_, parameters) = shapes.swap_remove(index);
    assert!(shapes.len() > 20);
    for (name, config) in &shapes {
        let spec = read_spec(config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(spec.parameters(), parameters[name].as_u64(), "{name}");
    }
    for (name, config) in configs_in("shapes/transformers5") {
        let (_, hub) = shapes.iter().find(|(known, _)| *known == name).unwrap();
        let spec = read_spec(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(spec, read_spec(hub).unwrap(), "{name}");
    }
}

/// Every key of every published config, in sections too, replaced by absurd values: a spec or an error, never a panic.
#[test]
fn no_mutation_of_a_published_config_causes_a_panic() {
    let absurd = [
        json!(0),
        json!(-1),
        json!(7),
        json!(1_000_000_000_000_u64),
        json!(u64::MAX),
        json!(1e308),
        json!(1e-308),
        json!("text"),
        json!([]),
        json!([0, "x", null]),
        json!([1e308, -1.0]),
        json!({"rope_type": "longrope", "factor": 1e308, "short_factor": [1], "long_factor": [1]}),
        json!({"rope_type": "dynamic", "factor": 1e308, "alpha": 1e308}),
        json!(true),
        Value::Null,
    ];
    let (mut accepted, mut refused) = (0, 0);
    for (name, config) in configs_in("shapes").into_iter().chain(configs_in("shapes/transformers5")) {
        for path in paths_of(&config, String::new()) {
            for value in &absurd {
                let mut mutated = config.clone();
                *mutated.pointer_mut(&path).unwrap() = value.clone();
                match read_spec(&mutated) {
                    Err(_) => refused += 1,
                    Ok(spec) => {
                        assert!(
                            spec.parameters().is_some() && spec.tensors() > 0,
                            "{name}: {path} = {value}"
                        );
                        assert!(spec.longest_context() > 0, "{name}: {path} = {value}");
                        accepted += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} accepted, {refused} refused");
}

/// JSON pointers to all values of an object, in nested objects too.
fn paths_of(value: &Value, prefix: String) -> Vec<String> {
    let Some(object) = value.as_object() else { return Vec::new() };
    let below = |(key, value): (&String, &Value)| {
        let path = format!("{prefix}/{key}");
        let mut paths = paths_of(value, path.clone());
        paths.push(path);
        paths
    };
    object.iter().flat_map(below).collect()
}

/// Whatever stands at whatever key of whatever family: a spec or an error, never a panic.
#[test]
fn no_value_causes_a_panic() {
    let values = [
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(1 << 20),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(1e-308),
        json!(0.5),
        json!("text"),
        json!([]),
        json!([1, "x", null]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e308}),
        json!({"rope_type": "llama3", "factor": 1e-308, "low_freq_factor": 1e-308, "high_freq_factor": 1e308}),
        json!(true),
        Value::Null,
    ];
    let keys = [
        "attention_bias",
        "decoder_sparse_step",
        "dtype",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_types",
        "max_position_embeddings",
        "max_window_layers",
        "mlp_bias",
        "mlp_only_layers",
        "moe_intermediate_size",
        "norm_topk_prob",
        "num_attention_heads",
        "num_experts",
        "num_experts_per_tok",
        "num_hidden_layers",
        "num_key_value_heads",
        "num_local_experts",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "quantization_config",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "use_sliding_window",
        "vocab_size",
    ];
    let mut accepted = 0;
    for (architecture, _) in FAMILIES {
        let base = json!({"architectures": [architecture], "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16});
        for key in keys {
            for value in &values {
                let config = with(with(llama(), base.clone()), json!({ key: value }));
                if let Ok(spec) = read_spec(&config) {
                    spec.parameters();
                    spec.active_parameters();
                    accepted += usize::from(spec.tensors() > 0 && spec.kv_elements_per_token() > 0);
                }
            }
        }
    }
    assert!(accepted > 500, "{accepted}");
}
