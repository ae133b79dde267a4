//! Gemma 2 and 3: norms of `1 + w` before and behind each branch, GeGLU, scaled embeddings, sliding layers between full
//! ones. Gemma 2 caps scores and logits; Gemma 3 norms q and k, and its sliding layers rotate otherwise.

use mosu_kernels::ops::{Activation, AttentionMask, Glu, NormKind};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LayerSpec, LoadError, NormSpec,
    QkNormSpec, RopeScaling, RopeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_LAYERS, MAX_WIDTH},
        ffn, masks, rope, wrapper,
    },
    tensor_names::TensorNames,
};

const GEMMA: Defaults = Defaults { head_dim: Some(256), tied: true, ..DEFAULTS };

/// Gemma 3's multimodal files leave most of this out.
const GEMMA3: Defaults = Defaults {
    context: Some(131_072),
    vocab_size: Some(262_208),
    num_heads: Some(8),
    num_kv_heads: Some(4),
    ..GEMMA
};

/// transformers' window where config.json does not mention one.
const DEFAULT_WINDOW: usize = 4096;

const NAMES: TensorNames = TensorNames {
    mixer_post_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    ffn_post_norm: "post_feedforward_layernorm",
    ..TensorNames::LLAMA
};

/// Gemma 2.
pub(super) fn read_2(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::read(config, &GEMMA)?;
    let attention = attention(config, &mut base)?;
    base.head.softcap = softcap(config, "final_logit_softcapping", Some(30.0))?;
    let attention =
        AttentionSpec { softcap: softcap(config, "attn_logit_softcapping", Some(50.0))?, ..attention };
    let ffn = network(config)?;
    let layers =
        masks::by_type(config, base.num_layers, masks::some_layers(config, DEFAULT_WINDOW)?, |layer| {
            layer % 2 == 0
        })?
        .into_iter()
        .map(|mask| sandwich(AttentionSpec { mask, ..attention.clone() }, &ffn))
        .collect();
    Ok((base.decoder(layers), NAMES))
}

/// Gemma 3's text model.
pub(super) fn read_3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.error("use_bidirectional_attention", "true is not supported"));
    }
    let mut base = Base::without_rope(config, &GEMMA3)?;
    base.head.softcap = softcap(config, "final_logit_softcapping", None)?;
    let head_dim = base.attention.head_dim;
    // Hub files scale the rotation of full layers only, and call the other theta `rope_local_base_freq`.
    let full = Defaults { rope_theta: 1e6, ..DEFAULTS };
    let full = rope::read_for(config, masks::FULL, head_dim, &full)?;
    let local_theta = config.optional_number("rope_local_base_freq")?.unwrap_or(1e4);
    let sliding = match rope::of_layer_type(config, masks::SLIDING)? {
        Some(_) => rope::read_for(config, masks::SLIDING, head_dim, &DEFAULTS)?,
        None => RopeSpec { theta: local_theta, scaling: RopeScaling::None, ..full.clone() },
    };
    base.extend_context(&full.scaling);
    let attention = attention(config, &mut base)?;
    let softcap = softcap(config, "attn_logit_softcapping", None)?;
    let attention = AttentionSpec { qk_norm: Some(QkNormSpec::HEADS), softcap, ..attention };
    let ffn = network(config)?;
    let pattern = config.optional_count("sliding_window_pattern", MAX_LAYERS)?.unwrap_or(6);
    let is_sliding = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let layers =
        masks::by_type(config, base.num_layers, masks::some_layers(config, DEFAULT_WINDOW)?, is_sliding)?
            .into_iter()
            .map(|mask| {
                let rope = if mask == AttentionMask::Full { &full } else { &sliding };
                sandwich(AttentionSpec { mask, rope: Some(rope.clone()), ..attention.clone() }, &ffn)
            })
            .collect();
    Ok((base.decoder(layers), NAMES))
}

/// Gemma 3 with its vision tower, which is ignored.
pub(super) fn read_3_multimodal(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let (spec, names) = read_3(&wrapper::text_config(config)?)?;
    Ok((spec, wrapper::below_language_model(names)))
}

/// What both have in common: scale, biases, norms, scaled embeddings.
fn attention(config: &ConfigJson, base: &mut Base) -> Result<AttentionSpec, LoadError> {
    base.norm = NormSpec { kind: NormKind::Rms, one_plus: true, ..base.norm };
    base.embedding.scale = (base.hidden_size as f32).sqrt();
    base.embedding.scale_rounded = true;
    let bias = config.flag("attention_bias", false)?;
    let scalar = config.optional_number("query_pre_attn_scalar")?.unwrap_or(256.0);
    Ok(AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        scale: scalar.powf(-0.5) as f32,
        ..base.attention.clone()
    })
}

fn sandwich(attention: AttentionSpec, ffn: &FfnSpec) -> LayerSpec {
    LayerSpec { mixer: attention.into(), ffn: ffn.clone(), post_norms: true }
}

fn network(config: &ConfigJson) -> Result<FfnSpec, LoadError> {
    let key = config.first_of(&["hidden_activation", "hidden_act"]);
    Ok(FfnSpec::Dense(DenseSpec {
        intermediate_size: config.count("intermediate_size", MAX_WIDTH)?,
        activation: FfnActivation::Gated(Glu::Plain(ffn::activation(config, key, Activation::GeluTanh)?)),
        bias: false,
    }))
}

/// A cap; null and 0 turn it off, absent is `default`.
fn softcap(config: &ConfigJson, key: &str, default: Option<f64>) -> Result<Option<f32>, LoadError> {
    let cap = if config.contains(key) { config.number_unless_zero(key)? } else { default };
    Ok(cap.map(|cap| cap as f32))
}
