//! Which architectures of GGUF files are families here, and how their metadata are spelled in config.json.

use mosu_kernels::ops::RopeLayout;

use serde_json::{Map, Value};

use super::{facts, model::GgufModel, names, names::FeedForward};
use crate::{LoadError, tensor_names::TensorNames};

/// An architecture.
pub(crate) struct Architecture {
    /// As `general.architecture` has it; also what keys begin with.
    pub name: &'static str,
    /// As config.json's `architectures` has it.
    pub family: &'static str,
    /// Keys behind the architecture's name whose value config.json has under another name than [`KEYS`] say; an empty
    /// name leaves it out.
    pub renamed: &'static [(&'static str, &'static str)],
    /// What config.json has beyond the keys.
    pub more: MoreFacts,
    /// Which elements of a head form a pair, where converters reorder the rows of q and k.
    pub rope_layout: Option<RopeLayout>,
    /// What tensors are called.
    pub names: TensorNames,
    /// How the dense network's input projections lie.
    pub feed_forward: FeedForward,
}

/// Adds to a config.json what a model's metadata do not say key by key.
pub(crate) type MoreFacts = fn(&GgufModel, &mut Map<String, Value>) -> Result<(), LoadError>;

/// Keys behind the architecture's name, and what config.json calls them. A key that is in no table is refused, since its
/// effect would be missing.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ("attention.sliding_window", "sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("interleave_moe_layer_step", "moe_layer_interval"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
];

/// Keys behind the architecture's name that `config.rs` reads in a way of its own.
pub(crate) const READ_OTHERWISE: &[&str] = &[
    "attention.causal",
    "attention.key_length_mla",
    "attention.scale",
    "attention.sliding_window_pattern",
    "attention.temperature_scale",
    "attention.value_length",
    "attention.value_length_mla",
    "expert_gating_func",
    "nextn_predict_layers",
    "rope.dimension_count",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
];

/// Keys behind the architecture's name that never change an answer.
pub(crate) const HARMLESS: &[&str] = &["rope.scaling.finetuned", "tensor_data_layout", "vocab_size"];

/// What most architectures are like: Llama's keys and names, rows in the order of config.json's family.
const PLAIN: Architecture = Architecture {
    name: "",
    family: "",
    renamed: &[],
    more: |_, _| Ok(()),
    rope_layout: None,
    names: names::GGUF,
    feed_forward: FeedForward::Gated,
};

const INTERLEAVED: Option<RopeLayout> = Some(RopeLayout::Interleaved);

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "bloom",
        family: "BloomForCausalLM",
        renamed: &[
            ("context_length", "seq_length"),
            ("feed_forward_length", ""),
            ("attention.head_count_kv", ""),
        ],
        feed_forward: FeedForward::Plain,
        ..PLAIN
    },
    Architecture {
        name: "chatglm",
        family: "ChatGLMModel",
        renamed: &[
            ("context_length", "seq_length"),
            ("feed_forward_length", "ffn_hidden_size"),
            ("attention.head_count_kv", "multi_query_group_num"),
            ("attention.key_length", "kv_channels"),
            ("attention.layer_norm_rms_epsilon", "layernorm_epsilon"),
        ],
        feed_forward: FeedForward::Fused,
        ..PLAIN
    },
    Architecture { name: "deepseek2", family: "DeepseekV2ForCausalLM", more: facts::deepseek2, ..PLAIN },
    Architecture { name: "ernie4_5", family: "Ernie4_5ForCausalLM", ..PLAIN },
    Architecture {
        name: "ernie4_5-moe",
        family: "Ernie4_5_MoeForCausalLM",
        renamed: &[
            ("expert_count", "moe_num_experts"),
            ("expert_used_count", "moe_k"),
            ("expert_shared_count", "moe_num_shared_experts"),
            ("expert_shared_feed_forward_length", ""),
            ("leading_dense_block_count", "moe_layer_start_index"),
        ],
        more: facts::ernie4_5_moe,
        ..PLAIN
    },
    Architecture { name: "gemma2", family: "Gemma2ForCausalLM", more: facts::gemma2, ..PLAIN },
    Architecture { name: "gemma3", family: "Gemma3ForCausalLM", more: facts::gemma3, ..PLAIN },
    Architecture { name: "glm4", family: "Glm4ForCausalLM", feed_forward: FeedForward::Fused, ..PLAIN },
    Architecture {
        name: "glm4moe",
        family: "Glm4MoeForCausalLM",
        more: facts::glm4moe,
        names: names::NORM_BEHIND_ATTENTION,
        ..PLAIN
    },
    Architecture {
        name: "gpt-oss",
        family: "GptOssForCausalLM",
        more: facts::gpt_oss,
        names: names::NORM_BEHIND_ATTENTION,
        ..PLAIN
    },
    Architecture {
        name: "gpt2",
        family: "GPT2LMHeadModel",
        renamed: &[
            ("block_count", "n_layer"),
            ("context_length", "n_positions"),
            ("embedding_length", "n_embd"),
            ("feed_forward_length", "n_inner"),
            ("attention.head_count", "n_head"),
            ("attention.head_count_kv", ""),
        ],
        feed_forward: FeedForward::Plain,
        ..PLAIN
    },
    Architecture { name: "hunyuan-dense", family: "HunYuanDenseV1ForCausalLM", ..PLAIN },
    Architecture {
        name: "hunyuan-moe",
        family: "HunYuanMoEV1ForCausalLM",
        renamed: &[
            ("expert_used_count", "moe_topk"),
            ("expert_shared_count", "num_shared_expert"),
            ("expert_shared_feed_forward_length", ""),
        ],
        ..PLAIN
    },
    Architecture { name: "internlm2", family: "InternLM2ForCausalLM", rope_layout: INTERLEAVED, ..PLAIN },
    Architecture {
        name: "llama",
        family: "LlamaForCausalLM",
        more: facts::llama,
        rope_layout: INTERLEAVED,
        ..PLAIN
    },
    Architecture {
        name: "llama4",
        family: "Llama4ForCausalLM",
        renamed: &[
            ("feed_forward_length", "intermediate_size_mlp"),
            ("expert_feed_forward_length", "intermediate_size"),
            ("interleave_moe_layer_step", ""),
            ("leading_dense_block_count", ""),
        ],
        more: facts::llama4,
        ..PLAIN
    },
    Architecture {
        name: "minimax-m2",
        family: "MiniMaxM2ForCausalLM",
        renamed: &[("expert_feed_forward_length", "intermediate_size"), ("feed_forward_length", "")],
        ..PLAIN
    },
    Architecture {
        name: "mistral3",
        family: "Ministral3ForCausalLM",
        more: facts::mistral3,
        rope_layout: INTERLEAVED,
        ..PLAIN
    },
    Architecture { name: "pangu-embedded", family: "PanguEmbeddedForCausalLM", ..PLAIN },
    Architecture { name: "phi3", family: "Phi3ForCausalLM", feed_forward: FeedForward::Fused, ..PLAIN },
    Architecture { name: "qwen2", family: "Qwen2ForCausalLM", ..PLAIN },
    Architecture { name: "qwen2moe", family: "Qwen2MoeForCausalLM", more: facts::qwen2moe, ..PLAIN },
    Architecture { name: "qwen3", family: "Qwen3ForCausalLM", ..PLAIN },
    Architecture { name: "qwen3moe", family: "Qwen3MoeForCausalLM", more: facts::qwen3moe, ..PLAIN },
];

/// An architecture by its name.
pub(crate) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}

/// The names of all of them.
pub(crate) fn known() -> Vec<&'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name).collect()
}

impl Architecture {
    /// What config.json calls the value of a key behind the architecture's name; `None` when it has no place there.
    pub fn key(&self, suffix: &str) -> Option<&'static str> {
        let renamed = self.renamed.iter().find(|(known, _)| *known == suffix);
        renamed.or_else(|| KEYS.iter().find(|(known, _)| *known == suffix)).map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order_and_agree() {
        assert!(known().is_sorted());
        for architecture in ARCHITECTURES {
            for (suffix, _) in architecture.renamed {
                assert!(KEYS.iter().any(|(known, _)| known == suffix), "{}: {suffix}", architecture.name);
            }
        }
        for key in READ_OTHERWISE.iter().chain(HARMLESS) {
            assert!(KEYS.iter().all(|(known, _)| known != key), "{key}");
        }
    }
}
