//! ChatGLM2 and 3, and GLM-4-9B in its first layout: GLM-4 under Megatron's names.

use mosu_kernels::ops::RopeLayout;

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_WIDTH},
        ffn, rope,
    },
    tensor_names::{NetworkNames, QkvNames, TensorNames},
};

const CHATGLM: Defaults = Defaults {
    norm_eps: 1e-5,
    partial_rotary: Some(0.5),
    rope_layout: RopeLayout::Interleaved,
    keys: Keys {
        vocab_size: &["padded_vocab_size", "vocab_size"],
        num_layers: &["num_layers", "num_hidden_layers"],
        num_kv_heads: &["multi_query_group_num"],
        head_dim: &["kv_channels"],
        context: &["seq_length"],
        norm_eps: &["layernorm_epsilon"],
        ..KEYS
    },
    ..DEFAULTS
};

const NAMES: TensorNames = TensorNames {
    embedding: "transformer.embedding.word_embeddings",
    final_norm: "transformer.encoder.final_layernorm",
    lm_head: "transformer.output_layer",
    layers: "transformer.encoder.layers",
    qkv: QkvNames::Fused("self_attention.query_key_value"),
    o_proj: "self_attention.dense",
    dense: NetworkNames::fused("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let fixed = [
        ("rmsnorm", true),
        ("multi_query_attention", true),
        ("post_layer_norm", true),
        ("add_bias_linear", false),
    ];
    for (key, only) in fixed {
        if config.flag(key, only)? != only {
            return Err(config.error(key, format!("only {only} is supported")));
        }
    }
    let key = "apply_residual_connection_post_layernorm";
    if config.flag(key, false)? {
        return Err(config.error(key, "true is not supported"));
    }
    let mut base = Base::without_rope(config, &CHATGLM)?;
    let ratio = config.optional_number("rope_ratio")?.unwrap_or(1.0);
    let mut rope = rope::read(config, base.attention.head_dim, &CHATGLM)?;
    rope.theta *= ratio;
    base.attention.rope = Some(rope);
    let qkv_bias = config.flag("add_qkv_bias", false)?;
    let attention = AttentionSpec { qkv_bias, ..base.attention.clone() };
    let network = ffn::gated(config, config.count("ffn_hidden_size", MAX_WIDTH)?, false)?;
    Ok((base.uniform(attention, FfnSpec::Dense(network)), NAMES))
}
