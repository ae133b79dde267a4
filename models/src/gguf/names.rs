//! What GGUF files call the tensors: the same names for all architectures, but for a few.

use super::model::GgufModel;
use crate::tensor_names::{
    ExpertNames, GateUpNames, KvUpNames, LatentNames, NetworkNames, QkvNames, TensorNames,
};

/// How the input projections of a dense network lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeedForward {
    /// gate and up in a tensor each.
    Gated,
    /// gate and up in one tensor, called as up.
    Fused,
    /// One projection without a gate.
    Plain,
}

/// The names that most architectures use.
pub(super) const GGUF: TensorNames = TensorNames {
    prefixes: &[""],
    embedding: "token_embd",
    positions: "position_embd",
    embedding_norm: "token_embd_norm",
    final_norm: "output_norm",
    lm_head: "output",
    layers: "blk",
    norm_weight: "weight",
    mixer_norm: "attn_norm",
    mixer_post_norm: "post_attention_norm",
    qkv: QkvNames::Split { q: "attn_q", k: "attn_k", v: "attn_v" },
    latent: LatentNames {
        q: "attn_q",
        q_down: "attn_q_a",
        q_down_norm: "attn_q_a_norm",
        q_up: "attn_q_b",
        kv_down: "attn_kv_a_mqa",
        kv_norm: "attn_kv_a_norm",
        kv_up: KvUpNames::Split { k: "attn_k_b.weight", v: "attn_v_b.weight" },
    },
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    sinks: "attn_sinks.weight",
    output_gate: "attn_gate",
    o_proj: "attn_output",
    ffn_norm: "ffn_norm",
    ffn_post_norm: "post_ffw_norm",
    dense: NetworkNames::split("ffn_gate", "ffn_up", "ffn_down"),
    router: "ffn_gate_inp",
    e_score_correction_bias: "exp_probs_b.bias",
    expert_scale: "ffn_exp_scale.weight",
    experts: ExpertNames::Stacked {
        gate: "ffn_gate_exps.weight",
        up: "ffn_up_exps.weight",
        down: "ffn_down_exps.weight",
    },
    shared: NetworkNames::split("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
    shared_gate: "ffn_gate_inp_shexp",
    transposed: false,
    // A table of the rotation in old files.
    inert: &[".attn_rot_embd.weight"],
};

/// The norm before the network is called after the attention that it is behind.
pub(super) const NORM_BEHIND_ATTENTION: TensorNames =
    TensorNames { ffn_norm: "post_attention_norm", mixer_post_norm: "attn_post_norm", ..GGUF };

/// Whether the first layer has such a tensor.
fn first_layer_has(model: &GgufModel, name: &str) -> bool {
    model.has_tensor(&format!("blk.0.{name}"))
}

/// The names of a model: converters write q, k and v together or apart.
pub(super) fn of_model(model: &GgufModel, names: &TensorNames, feed_forward: FeedForward) -> TensorNames {
    let qkv = match first_layer_has(model, "attn_qkv.weight") {
        true => QkvNames::Fused("attn_qkv"),
        false => names.qkv,
    };
    let kv_up = match first_layer_has(model, "attn_kv_b.weight") {
        true => KvUpNames::Fused("attn_kv_b"),
        false => names.latent.kv_up,
    };
    let gate_up = match feed_forward {
        FeedForward::Gated => names.dense.gate_up,
        FeedForward::Fused => GateUpNames::Fused("ffn_up"),
        FeedForward::Plain => GateUpNames::Plain("ffn_up"),
    };
    let latent = LatentNames { kv_up, ..names.latent };
    TensorNames { qkv, latent, dense: NetworkNames { gate_up, ..names.dense }, ..names.clone() }
}
