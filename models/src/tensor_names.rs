//! What a family's checkpoints call their tensors, and how they lay them out.

use crate::{DecoderSpec, FfnActivation, LayerSpec};

/// Names of a checkpoint's tensors. Modules stand without `.weight` and `.bias`; those of a layer are relative to
/// `<layers>.<index>`. Fields said to be *whole* name a tensor, not a module.
#[derive(Clone, Debug)]
pub(crate) struct TensorNames {
    /// What stands before every name but that of the output projection; the first of these under which there is an
    /// embedding.
    pub prefixes: &'static [&'static str],
    /// Token embedding.
    pub embedding: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// The norm of the embeddings.
    pub embedding_norm: &'static str,
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The output projection.
    pub lm_head: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// What the norms call their weight.
    pub norm_weight: &'static str,
    /// The norm before attention.
    pub mixer_norm: &'static str,
    /// The norm behind attention.
    pub mixer_post_norm: &'static str,
    /// Query, key and value projections of grouped-query attention.
    pub qkv: QkvNames,
    /// The projections of latent attention.
    pub latent: LatentNames,
    /// The norm of queries.
    pub q_norm: &'static str,
    /// The norm of keys.
    pub k_norm: &'static str,
    /// Attention's sinks, whole.
    pub sinks: &'static str,
    /// The projection to the heads' gates.
    pub output_gate: &'static str,
    /// Output projection of attention.
    pub o_proj: &'static str,
    /// The norm before the feed-forward part.
    pub ffn_norm: &'static str,
    /// The norm behind the feed-forward part.
    pub ffn_post_norm: &'static str,
    /// A dense layer's feed-forward network.
    pub dense: NetworkNames,
    /// A sparse layer's router.
    pub router: &'static str,
    /// The router's bias that only chooses, whole.
    pub e_score_correction_bias: &'static str,
    /// The router's multipliers, whole.
    pub expert_scale: &'static str,
    /// A sparse layer's experts.
    pub experts: ExpertNames,
    /// The shared expert.
    pub shared: NetworkNames,
    /// The projection to that network's gate.
    pub shared_gate: &'static str,
    /// The layers' matrices are stored `[in, out]` (GPT-2's Conv1D); transposed copies are made.
    pub transposed: bool,
    /// Ends of names of tensors that may be in the layers and never change an answer.
    pub inert: &'static [&'static str],
}

/// Where queries, keys and values come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QkvNames {
    /// Three modules.
    Split {
        /// Query projection.
        q: &'static str,
        /// Key projection.
        k: &'static str,
        /// Value projection.
        v: &'static str,
    },
    /// One module, rows `[q; k; v]`.
    Fused(&'static str),
    /// One module, rows `[Hkv, Hq / Hkv + 2, D]`: the queries of a KV head, then its key and its value. With as many
    /// KV heads as query heads, that is `[heads, 3, D]`. The rows are copied into the order of `Fused`.
    Grouped(&'static str),
    /// Queries by way of a narrow layer.
    LowRank {
        /// To the narrow layer.
        q_down: &'static str,
        /// Its norm.
        q_down_norm: &'static str,
        /// To the queries.
        q_up: &'static str,
        /// Key projection.
        k: &'static str,
        /// Value projection.
        v: &'static str,
    },
}

/// The projections of latent attention; queries directly or by way of a narrow layer, as the spec says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentNames {
    /// Query projection.
    pub q: &'static str,
    /// To the narrow layer of the queries.
    pub q_down: &'static str,
    /// Its norm.
    pub q_down_norm: &'static str,
    /// From the narrow layer to the queries.
    pub q_up: &'static str,
    /// To the latent and the rotated part of the keys.
    pub kv_down: &'static str,
    /// The latent's norm.
    pub kv_norm: &'static str,
    /// From the latent to keys and values.
    pub kv_up: KvUpNames,
}

/// The matrix from the latent to keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KvUpNames {
    /// One module, rows `[Hq, N + D]`. It is copied into the two that attention needs.
    Fused(&'static str),
    /// The two that attention needs, whole: to keys, transposed `[Hq, L, N]`, and to values `[Hq, D, L]`.
    Split {
        /// To keys.
        k: &'static str,
        /// To values.
        v: &'static str,
    },
}

/// Names of a feed-forward network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkNames {
    /// The projections in.
    pub gate_up: GateUpNames,
    /// The projection back.
    pub down: &'static str,
}

impl NetworkNames {
    /// Llama's names below `$module`.
    pub const fn split(gate: &'static str, up: &'static str, down: &'static str) -> NetworkNames {
        NetworkNames { gate_up: GateUpNames::Split { gate, up }, down }
    }

    /// gate and up in one module.
    pub const fn fused(gate_up: &'static str, down: &'static str) -> NetworkNames {
        NetworkNames { gate_up: GateUpNames::Fused(gate_up), down }
    }
}

/// The projections into a feed-forward network.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GateUpNames {
    /// Two modules.
    Split {
        /// The projection that is activated.
        gate: &'static str,
        /// The projection that it multiplies.
        up: &'static str,
    },
    /// One module, rows `[gate; up]`.
    Fused(&'static str),
    /// A single projection without a gate.
    Plain(&'static str),
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExpertNames {
    /// Modules `<list>.<expert>.<name>`.
    Each {
        /// The list.
        list: &'static str,
        /// Names within an expert.
        network: NetworkNames,
    },
    /// Whole tensors gate and up `[E, I, H]`, down `[E, H, I]`. Biases are called `.bias` instead of `.weight`.
    Stacked {
        /// gate
        gate: &'static str,
        /// up
        up: &'static str,
        /// down
        down: &'static str,
    },
    /// Whole tensors `[E, H, 2I]`, whose last dimension is `[gate, up]`, and `[E, I, H]`. Biases are called
    /// `<name>_bias`. Transposed copies are made.
    Transposed {
        /// gate and up
        gate_up: &'static str,
        /// down
        down: &'static str,
        /// gate and up alternate element by element, gate first (gpt-oss).
        interleaved: bool,
    },
}

impl TensorNames {
    /// Llama's names, from which the other families differ in a few.
    pub const LLAMA: TensorNames = TensorNames {
        prefixes: &[""],
        embedding: "model.embed_tokens",
        positions: "model.position_embeddings",
        embedding_norm: "model.embedding_norm",
        final_norm: "model.norm",
        lm_head: "lm_head",
        layers: "model.layers",
        norm_weight: "weight",
        mixer_norm: "input_layernorm",
        mixer_post_norm: "post_self_attn_layernorm",
        qkv: QkvNames::Split { q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj" },
        latent: LatentNames {
            q: "self_attn.q_proj",
            q_down: "self_attn.q_a_proj",
            q_down_norm: "self_attn.q_a_layernorm",
            q_up: "self_attn.q_b_proj",
            kv_down: "self_attn.kv_a_proj_with_mqa",
            kv_norm: "self_attn.kv_a_layernorm",
            kv_up: KvUpNames::Fused("self_attn.kv_b_proj"),
        },
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        sinks: "self_attn.sinks",
        output_gate: "self_attn.g_proj",
        o_proj: "self_attn.o_proj",
        ffn_norm: "post_attention_layernorm",
        ffn_post_norm: "post_mlp_layernorm",
        dense: NetworkNames::split("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        router: "mlp.gate",
        e_score_correction_bias: "mlp.gate.e_score_correction_bias",
        expert_scale: "mlp.router_scale",
        experts: ExpertNames::Each {
            list: "mlp.experts",
            network: NetworkNames::split("gate_proj", "up_proj", "down_proj"),
        },
        shared: NetworkNames::split(
            "mlp.shared_experts.gate_proj",
            "mlp.shared_experts.up_proj",
            "mlp.shared_experts.down_proj",
        ),
        shared_gate: "mlp.shared_expert_gate",
        transposed: false,
        inert: &[],
    };

    /// Mixtral's experts, otherwise Llama's names.
    pub const MIXTRAL: TensorNames = TensorNames {
        router: "block_sparse_moe.gate",
        experts: ExpertNames::Each {
            list: "block_sparse_moe.experts",
            network: NetworkNames::split("w1", "w3", "w2"),
        },
        ..TensorNames::LLAMA
    };

    /// The plainest layout of a spec's tensors, for weights that no file holds.
    pub fn for_dummy(spec: &DecoderSpec) -> TensorNames {
        let mut names = TensorNames::LLAMA;
        let low_rank =
            |layer: &LayerSpec| layer.mixer.attention().is_some_and(|spec| spec.low_rank_q.is_some());
        if let (QkvNames::Split { q, k, v }, true) = (names.qkv, spec.layers.iter().any(low_rank)) {
            let (q_down, q_down_norm) = ("self_attn.q_down_proj", "self_attn.q_down_norm");
            names.qkv = QkvNames::LowRank { q_down, q_down_norm, q_up: q, k, v };
        }
        let plain = |layer: &LayerSpec| {
            layer.ffn.dense().is_some_and(|dense| matches!(dense.activation, FfnActivation::Plain(_)))
        };
        if spec.layers.iter().any(plain) {
            names.dense.gate_up = GateUpNames::Plain("mlp.up_proj");
        }
        names
    }
}
