//! What a family's checkpoints call their tensors.

/// Names of a checkpoint's tensors. Modules stand without `.weight` and `.bias`; those of a layer are relative to
/// `<layers>.<index>`, those of an expert to `<experts>.<index>`.
#[derive(Clone, Debug)]
pub(crate) struct TensorNames {
    /// Token embedding.
    pub embedding: &'static str,
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The output projection.
    pub lm_head: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The norm before attention.
    pub attention_norm: &'static str,
    /// Query projection.
    pub q_proj: &'static str,
    /// Key projection.
    pub k_proj: &'static str,
    /// Value projection.
    pub v_proj: &'static str,
    /// Output projection of attention.
    pub o_proj: &'static str,
    /// The norm of each query head.
    pub q_norm: &'static str,
    /// The norm of each key head.
    pub k_norm: &'static str,
    /// The norm before the feed-forward part.
    pub ffn_norm: &'static str,
    /// A dense layer's feed-forward network.
    pub dense: GatedNames,
    /// A sparse layer's router.
    pub router: &'static str,
    /// A sparse layer's list of experts.
    pub experts: &'static str,
    /// One expert.
    pub expert: GatedNames,
    /// Ends of the names of tensors that may be there and are not needed.
    pub ignored: &'static [&'static str],
}

/// Names of the three projections of a gated feed-forward network.
#[derive(Clone, Debug)]
pub(crate) struct GatedNames {
    /// The projection that is activated.
    pub gate: &'static str,
    /// The projection that it multiplies.
    pub up: &'static str,
    /// The projection back.
    pub down: &'static str,
}

impl TensorNames {
    /// Llama's names, from which the other families differ in a few.
    pub const LLAMA: TensorNames = TensorNames {
        embedding: "model.embed_tokens",
        final_norm: "model.norm",
        lm_head: "lm_head",
        layers: "model.layers",
        attention_norm: "input_layernorm",
        q_proj: "self_attn.q_proj",
        k_proj: "self_attn.k_proj",
        v_proj: "self_attn.v_proj",
        o_proj: "self_attn.o_proj",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        ffn_norm: "post_attention_layernorm",
        dense: GatedNames { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
        router: "mlp.gate",
        experts: "mlp.experts",
        expert: GatedNames { gate: "gate_proj", up: "up_proj", down: "down_proj" },
        ignored: &["rotary_emb.inv_freq"],
    };
}
