//! BLOOM (also BloombergGPT's architecture): ALiBi, LayerNorms, one more of them behind the embeddings, q, k and v
//! interleaved head by head.

use mosu_kernels::ops::{Activation, NormKind};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LoadError,
    config_json::ConfigJson,
    families::base::{Base, DEFAULTS, Defaults, KEYS, Keys},
    tensor_names::{GateUpNames, NetworkNames, QkvNames, TensorNames},
};

const BLOOM: Defaults = Defaults {
    norm_eps: 1e-5,
    tied: true,
    // ALiBi has no context of its own; this is what the published models were trained with.
    context: Some(2048),
    keys: Keys {
        hidden_size: &["hidden_size", "n_embed"],
        num_layers: &["n_layer", "num_hidden_layers"],
        num_heads: &["n_head", "num_attention_heads"],
        num_kv_heads: &["n_head", "num_attention_heads"],
        context: &["seq_length"],
        norm_eps: &["layer_norm_epsilon"],
        ..KEYS
    },
    ..DEFAULTS
};

const NAMES: TensorNames = TensorNames {
    prefixes: &["transformer.", ""],
    embedding: "word_embeddings",
    embedding_norm: "word_embeddings_layernorm",
    final_norm: "ln_f",
    layers: "h",
    qkv: QkvNames::Grouped("self_attention.query_key_value"),
    o_proj: "self_attention.dense",
    dense: NetworkNames { gate_up: GateUpNames::Plain("mlp.dense_h_to_4h"), down: "mlp.dense_4h_to_h" },
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let key = "apply_residual_connection_post_layernorm";
    if config.flag(key, false)? {
        return Err(config.error(key, "true is not supported"));
    }
    let mut base = Base::without_rope(config, &BLOOM)?;
    base.norm.kind = NormKind::Layer;
    base.embedding.norm = true;
    let attention = AttentionSpec { qkv_bias: true, o_bias: true, alibi: true, ..base.attention.clone() };
    let network = DenseSpec {
        intermediate_size: 4 * base.hidden_size,
        activation: FfnActivation::Plain(Activation::GeluTanh),
        bias: true,
    };
    Ok((base.uniform(attention, FfnSpec::Dense(network)), NAMES))
}
