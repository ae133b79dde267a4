//! Qwen 1: Qwen 2 without groups of heads, under other names. Beyond `seq_length` it changes rotation and queries as a
//! sequence grows, which keys in a cache cannot follow: that is its context here.

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_WIDTH},
        ffn,
    },
    tensor_names::{NetworkNames, QkvNames, TensorNames},
};

const KEYS_1: Keys = Keys {
    num_kv_heads: &["num_attention_heads"],
    head_dim: &["kv_channels"],
    context: &["seq_length"],
    norm_eps: &["layer_norm_epsilon"],
    ..KEYS
};

const NAMES: TensorNames = TensorNames {
    embedding: "transformer.wte",
    final_norm: "transformer.ln_f",
    layers: "transformer.h",
    mixer_norm: "ln_1",
    qkv: QkvNames::Fused("attn.c_attn"),
    o_proj: "attn.c_proj",
    ffn_norm: "ln_2",
    // The second matrix is the one that is activated.
    dense: NetworkNames::split("mlp.w2", "mlp.w1", "mlp.c_proj"),
    inert: &[".attn.masked_bias"],
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    for key in ["no_bias", "scale_attn_weights"] {
        if !config.flag(key, true)? {
            return Err(config.error(key, "false is not supported"));
        }
    }
    if config.optional_number("rotary_pct")?.is_some_and(|share| share != 1.0) {
        return Err(config.error("rotary_pct", "only 1 is supported"));
    }
    let theta = config.optional_number("rotary_emb_base")?.unwrap_or(1e4);
    let base = Base::read(config, &Defaults { rope_theta: theta, keys: KEYS_1, ..DEFAULTS })?;
    let attention = AttentionSpec { qkv_bias: true, ..base.attention.clone() };
    // gate and up together.
    let width = config.count("intermediate_size", MAX_WIDTH)? / 2;
    Ok((base.uniform(attention, FfnSpec::Dense(ffn::gated(config, width, false)?)), NAMES))
}
