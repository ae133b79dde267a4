//! GPT-2: LayerNorms, learned positions, a network without a gate, biases everywhere, matrices stored `[in, out]`.

use mosu_kernels::ops::{Activation, NormKind};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_WIDTH, layer},
        ffn,
    },
    tensor_names::{GateUpNames, NetworkNames, QkvNames, TensorNames},
};

const GPT2: Defaults = Defaults {
    norm_eps: 1e-5,
    tied: true,
    keys: Keys {
        hidden_size: &["n_embd"],
        num_layers: &["n_layer"],
        num_heads: &["n_head"],
        num_kv_heads: &["n_head"],
        context: &["n_positions", "n_ctx"],
        norm_eps: &["layer_norm_epsilon"],
        ..KEYS
    },
    ..DEFAULTS
};

const NAMES: TensorNames = TensorNames {
    prefixes: &["transformer.", ""],
    embedding: "wte",
    positions: "wpe",
    final_norm: "ln_f",
    layers: "h",
    mixer_norm: "ln_1",
    qkv: QkvNames::Fused("attn.c_attn"),
    o_proj: "attn.c_proj",
    ffn_norm: "ln_2",
    dense: NetworkNames { gate_up: GateUpNames::Plain("mlp.c_fc"), down: "mlp.c_proj" },
    transposed: true,
    // The causal masks of old files.
    inert: &[".attn.bias", ".attn.masked_bias"],
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::without_rope(config, &GPT2)?;
    base.norm.kind = NormKind::Layer;
    base.embedding.learned_positions = Some(base.max_position_embeddings);
    let scaled = config.flag("scale_attn_weights", true)?;
    let scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    let act = ffn::activation(config, "activation_function", Activation::GeluTanh)?;
    let intermediate_size = config.optional_count("n_inner", MAX_WIDTH)?.unwrap_or(4 * base.hidden_size);
    let network = DenseSpec { intermediate_size, activation: FfnActivation::Plain(act), bias: true };
    let layers = (0..base.num_layers)
        .map(|index| {
            let scale = if scaled { base.attention.scale } else { 1.0 };
            let scale = if scaled_by_layer { scale / (index + 1) as f32 } else { scale };
            let attention = AttentionSpec { qkv_bias: true, o_bias: true, scale, ..base.attention.clone() };
            layer(attention, FfnSpec::Dense(network.clone()))
        })
        .collect();
    Ok((base.decoder(layers), NAMES))
}
