//! Values that stand for none, as transformers reads them.

use mosu_kernels::ops::{AttentionMask, Renormalize, RouterLogits};
use serde_json::{Value, json};

use super::{latent, llama, read_spec, refusal, with};
use crate::LoadError;

/// Python's `or` and `if` take 0 and null for what is not there.
#[test]
fn zeros_of_yarn_are_absent() {
    let spec = |changes: Value| {
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
        read_spec(&with(llama(), json!({"rope_scaling": with(yarn, changes)}))).unwrap()
    };
    let plain = spec(json!({}));
    for key in ["mscale", "mscale_all_dim", "beta_fast", "beta_slow"] {
        assert_eq!(spec(json!({ key: 0 })), plain, "{key}");
        assert_eq!(spec(json!({ key: null })), plain, "{key}");
    }
    assert_eq!(spec(json!({"mscale": 2.0, "mscale_all_dim": 0})), plain);
    assert_ne!(spec(json!({"mscale": 2.0, "mscale_all_dim": 1.0})), plain);
    for (key, value) in [("mscale", json!(-1)), ("factor", json!(0)), ("attention_factor", json!("NaN"))] {
        let message = refusal(
            json!({"rope_scaling": with(json!({"type": "yarn", "factor": 4.0}), json!({ key: value }))}),
        );
        assert!(message.contains(&format!("`rope_scaling.{key}`: expected")), "{message}");
    }
}

/// Values that switch something off, and are no errors.
#[test]
fn nothing_can_be_said_in_several_ways() {
    let grok = json!({"architectures": ["Grok1ForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2,
        "embedding_multiplier_scale": 2.0, "output_multiplier_scale": 0.5});
    let llama4 = json!({"architectures": ["Llama4ForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "intermediate_size_mlp": 64, "head_dim": 16});
    let ernie = json!({"architectures": ["Ernie4_5_MoeForCausalLM"], "moe_num_experts": 4, "moe_k": 2,
        "moe_intermediate_size": 16});
    let gemma = json!({"architectures": ["Gemma2ForCausalLM"]});
    let read =
        |config: &Value, changes: Value| read_spec(&with(with(llama(), config.clone()), changes)).unwrap();
    let same = [
        (&grok, json!({"final_logit_softcapping": 0}), json!({"final_logit_softcapping": null})),
        (&grok, json!({"attn_temperature_len": -1}), json!({})),
        (&gemma, json!({"attn_logit_softcapping": 0}), json!({"attn_logit_softcapping": null})),
        (&llama4, json!({"attention_chunk_size": 0}), json!({"attention_chunk_size": null})),
        (&llama4, json!({"attention_chunk_size": -1}), json!({"attention_chunk_size": null})),
        (&llama4, json!({}), json!({"attention_chunk_size": 8192})),
        (&llama4, json!({"moe_layers": null}), json!({"moe_layers": [0, 1]})),
        (&llama4, json!({"moe_layers": [1], "interleave_moe_layer_step": 0}), json!({"moe_layers": [1]})),
    ];
    for (config, one, other) in same {
        assert_eq!(read(config, one.clone()), read(config, other), "{one}");
    }
    let uncapped = read(&grok, json!({"attn_logit_softcapping": 0, "router_logit_softcapping": 0}));
    assert_eq!(uncapped.layers[0].mixer.attention().unwrap().softcap, None);
    assert_eq!(uncapped.layers[0].ffn.moe().unwrap().router.logits, RouterLogits::Plain);
    let moe = read(&ernie, json!({"moe_norm_min": 0}));
    assert_eq!(moe.layers[1].ffn.moe().unwrap().router.renormalize, Renormalize::SumAtLeast(0.0));
}

#[test]
fn windows_follow_each_familys_rule() {
    let masks = |changes: Value| -> Result<Vec<AttentionMask>, LoadError> {
        let spec = read_spec(&with(llama(), changes))?;
        Ok(spec.layers.iter().map(|layer| layer.mixer.attention().unwrap().mask).collect())
    };
    let sliding = |window| AttentionMask::Sliding { window };
    let mistral = "MistralForCausalLM";
    let (qwen2, gemma) = ("Qwen2ForCausalLM", "Gemma2ForCausalLM");
    let cases = [
        (json!({"architectures": [mistral]}), [sliding(4096); 2]),
        (json!({"architectures": [mistral], "sliding_window": null}), [AttentionMask::Full; 2]),
        (json!({"architectures": [mistral], "sliding_window": 0}), [AttentionMask::Full; 2]),
        (json!({"architectures": [mistral], "sliding_window": -1}), [AttentionMask::Full; 2]),
        (json!({"architectures": [mistral], "sliding_window": 7}), [sliding(7); 2]),
        (
            json!({"architectures": [qwen2], "sliding_window": 7, "max_window_layers": 0}),
            [AttentionMask::Full; 2],
        ),
        (
            json!({"architectures": [qwen2], "sliding_window": 7, "max_window_layers": 1, "use_sliding_window": true}),
            [AttentionMask::Full, sliding(7)],
        ),
        (
            json!({"architectures": [qwen2], "sliding_window": 7, "use_sliding_window": true,
                "layer_types": ["sliding_attention", "full_attention"]}),
            [sliding(7), AttentionMask::Full],
        ),
        // What only matters with windows may be anything without.
        (
            json!({"architectures": [qwen2], "sliding_window": "x", "max_window_layers": -1}),
            [AttentionMask::Full; 2],
        ),
        (
            json!({"architectures": [qwen2], "sliding_window": -1, "use_sliding_window": true}),
            [AttentionMask::Full; 2],
        ),
        (json!({"architectures": [gemma]}), [sliding(4096), AttentionMask::Full]),
        (json!({"architectures": [gemma], "sliding_window": 7}), [sliding(7), AttentionMask::Full]),
        (json!({"sliding_window": 7}), [AttentionMask::Full; 2]),
    ];
    for (changes, expected) in cases {
        assert_eq!(masks(changes.clone()).unwrap(), expected, "{changes}");
    }
    let wrong = [
        json!({"architectures": [qwen2], "layer_types": ["full_attention"]}),
        json!({"architectures": [qwen2], "layer_types": ["full_attention", "chunked_attention"]}),
        json!({"architectures": [qwen2], "layer_types": ["full_attention", "sliding_attention"]}),
        json!({"architectures": [mistral], "sliding_window": -2}),
        json!({"architectures": [mistral], "sliding_window": 0.5}),
        json!({"architectures": [mistral], "sliding_window": "Infinity"}),
        // Its sliding layers need one, as transformers says, too.
        json!({"architectures": [gemma], "sliding_window": null}),
        json!({"architectures": [gemma], "sliding_window": 0}),
        json!({"architectures": [gemma], "sliding_window": -1}),
    ];
    for changes in wrong {
        assert!(masks(changes.clone()).is_err(), "{changes}");
    }
}

#[test]
fn latent_attention_has_neither_groups_nor_a_width_of_heads() {
    let read = |changes: Value| {
        read_spec(&with(with(latent(), json!({"architectures": ["DeepseekV3ForCausalLM"]})), changes))
            .unwrap()
    };
    let deepseek = read(json!({}));
    // The files have keys for them.
    for (key, value) in
        [("num_key_value_heads", json!(3)), ("head_dim", json!(0)), ("num_key_value_heads", Value::Null)]
    {
        assert_eq!(read(json!({ key: value })), deepseek, "{key}");
    }
    for (shared, expected) in [(json!(0), false), (Value::Null, false), (json!(1), true)] {
        let spec = read(json!({"n_shared_experts": shared}));
        assert_eq!(spec.layers[0].ffn.moe().unwrap().shared.is_some(), expected, "{shared}");
    }
    for rank in [json!(0), Value::Null] {
        assert_eq!(read(json!({"q_lora_rank": rank})), deepseek);
    }
    let latent_scale = |spec: &crate::DecoderSpec| spec.layers[0].mixer.latent_attention().unwrap().scale;
    let scale = |mscale_all_dim: Value| {
        let yarn = json!({"type": "yarn", "factor": 4.0, "mscale_all_dim": mscale_all_dim});
        latent_scale(&read(json!({"rope_scaling": yarn})))
    };
    let plain = latent_scale(&deepseek);
    assert_eq!(scale(json!(0)), plain);
    assert!(scale(json!(1)) > plain);
}
