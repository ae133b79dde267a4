//! InternLM 1 to 3: Llama with biases under other names; InternLM2 packs q, k and v group by group. Intern-S1 is Qwen3
//! beside a vision tower.

use crate::{
    AttentionSpec, DecoderSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults},
        ffn, qwen_moe, qwen3, wrapper,
    },
    tensor_names::{NetworkNames, QkvNames, TensorNames},
};

/// InternLM 1.
pub(super) fn read_1(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let theta = match config.section("rotary")? {
        Some(rotary) => rotary.optional_number("base")?,
        None => None,
    };
    let base = Base::read(config, &Defaults { rope_theta: theta.unwrap_or(1e4), ..DEFAULTS })?;
    let bias = config.flag("bias", true)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, false)?), TensorNames::LLAMA))
}

/// InternLM 2 and 2.5.
pub(super) fn read_2(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let bias = config.flag("bias", true)?;
    let attention = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    let names = TensorNames {
        embedding: "model.tok_embeddings",
        lm_head: "output",
        mixer_norm: "attention_norm",
        qkv: QkvNames::Grouped("attention.wqkv"),
        o_proj: "attention.wo",
        ffn_norm: "ffn_norm",
        dense: NetworkNames::split("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
        ..TensorNames::LLAMA
    };
    Ok((base.uniform(attention, ffn::dense(config, false)?), names))
}

/// InternLM 3, whose rotation can be extended.
pub(super) fn read_3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, head_dim: Some(128), ..DEFAULTS })?;
    let qkv_bias = config.flag(config.first_of(&["qkv_bias", "attention_bias"]), false)?;
    let bias = config.flag(config.first_of(&["bias", "mlp_bias"]), false)?;
    let attention = AttentionSpec { qkv_bias, o_bias: bias, ..base.attention.clone() };
    Ok((base.uniform(attention, ffn::dense(config, bias)?), TensorNames::LLAMA))
}

/// The text model of Intern-S1.
pub(super) fn read_s1(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let text = wrapper::text_config(config)?;
    let (spec, names) = match text.optional_text("model_type")? {
        Some("qwen3") => qwen3::read(&text)?,
        Some("qwen3_moe") => qwen_moe::read_3(&text)?,
        other => {
            let message = format!("{other:?} is not supported; supported are qwen3, qwen3_moe");
            return Err(text.error("model_type", message));
        }
    };
    let names = TensorNames {
        prefixes: &["model.language_model."],
        embedding: "embed_tokens",
        final_norm: "norm",
        layers: "layers",
        ..names
    };
    Ok((spec, names))
}
