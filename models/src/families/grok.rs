//! xAI's Grok-1 (in the conversions' layout) and Grok-2: norms before and behind each branch, caps, multipliers, two
//! experts of eight; Grok-2 has a dense network beside them.

use mosu_kernels::ops::{Activation, Glu, Router, RouterLogits};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LayerSpec, LoadError, MoeSpec, SharedSpec,
    Temperature,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        ffn::{self, SOFTMAX},
    },
    tensor_names::{ExpertNames, NetworkNames, QkvNames, TensorNames},
};

const GROK: Defaults = Defaults { norm_eps: 1e-5, ..DEFAULTS };
const GEGLU: Glu = Glu::Plain(Activation::GeluTanh);

const NAMES: TensorNames = TensorNames {
    mixer_norm: "pre_attn_norm",
    mixer_post_norm: "post_attn_norm",
    ffn_norm: "pre_moe_norm",
    ffn_post_norm: "post_moe_norm",
    ..TensorNames::MIXTRAL
};

/// Grok-1.
pub(super) fn read_1(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::read(config, &Defaults { tied: true, ..GROK })?;
    multiply(config, &mut base)?;
    let attention = AttentionSpec {
        scale: config.number("attn_output_multiplier")? as f32,
        softcap: softcap(config, "max_attn_value", 30.0)?,
        ..base.attention.clone()
    };
    let moe = ffn::experts(config, config.count("intermediate_size", MAX_WIDTH)?)?;
    let names = TensorNames {
        norm_weight: "scale",
        qkv: QkvNames::Split { q: "attn.q_proj", k: "attn.k_proj", v: "attn.v_proj" },
        o_proj: "attn.o_proj",
        router: "moe_block.gate",
        experts: ExpertNames::Each {
            list: "moe_block.experts",
            network: NetworkNames::split("linear", "linear_v", "linear_1"),
        },
        ..NAMES
    };
    Ok((sandwich(base, attention, MoeSpec { glu: GEGLU, ..moe }), names))
}

/// Grok-2, whose experts lie in pieces in several files.
pub(super) fn read_2(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    if let Some(other) = config.optional_text("rope_type")?.filter(|name| *name != "original") {
        return Err(
            config.error("rope_type", format!("{other:?} is not supported; supported is \"original\""))
        );
    }
    if config.flag("rope_rotate_half_dims", false)? {
        return Err(config.error("rope_rotate_half_dims", "true is not supported"));
    }
    let mut base = Base::read(config, &GROK)?;
    multiply(config, &mut base)?;
    base.head.softcap = softcap(config, "final_logit_softcapping", 0.0)?;
    let length = config.optional_whole("attn_temperature_len")?.filter(|length| *length > 1);
    let attention = AttentionSpec {
        softcap: softcap(config, "attn_logit_softcapping", 30.0)?,
        temperature: length.map(|length| Temperature::Log { length: length as f64, offset: 0.0 }),
        ..base.attention.clone()
    };
    let width = config.count("intermediate_size", MAX_WIDTH)?;
    let expert_width = config.optional_count("moe_intermediate_size", MAX_WIDTH)?.unwrap_or(width);
    let cap = softcap(config, "router_logit_softcapping", 30.0)?;
    let network =
        DenseSpec { intermediate_size: width, activation: FfnActivation::Gated(GEGLU), bias: false };
    let beside = SharedSpec { network, gated: false, sum_scale: std::f32::consts::FRAC_1_SQRT_2 };
    let moe = MoeSpec {
        glu: GEGLU,
        router: Router { logits: cap.map_or(RouterLogits::Plain, RouterLogits::Softcap), ..SOFTMAX },
        shared: config.flag("residual_moe", false)?.then_some(beside),
        ..ffn::experts(config, expert_width)?
    };
    Ok((sandwich(base, attention, moe), TensorNames { shared: TensorNames::LLAMA.dense, ..NAMES }))
}

/// A cap; 0 is none.
fn softcap(config: &ConfigJson, key: &str, default: f64) -> Result<Option<f32>, LoadError> {
    let cap = config.number_or_zero(key)?.unwrap_or(default);
    Ok(Some(cap as f32).filter(|cap| *cap > 0.0))
}

fn multiply(config: &ConfigJson, base: &mut Base) -> Result<(), LoadError> {
    base.embedding.scale = config.number("embedding_multiplier_scale")? as f32;
    base.head.scale = config.number("output_multiplier_scale")? as f32;
    Ok(())
}

fn sandwich(base: Base, attention: AttentionSpec, moe: MoeSpec) -> DecoderSpec {
    let layer = LayerSpec { mixer: attention.into(), ffn: FfnSpec::Moe(moe), post_norms: true };
    let layers = vec![layer; base.num_layers];
    base.decoder(layers)
}
