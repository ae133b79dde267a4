//! Step-3.5 and the text model of Step-3.7: norms of `1 + w`, a gate per head, layers of two kinds that differ in mask,
//! heads and rotation; activations clamped layer by layer.

use mosu_kernels::ops::{Activation, AttentionMask, Glu, NormKind, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LoadError, MoeSpec, NormSpec, QkNormSpec,
    RopeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_HEADS, MAX_LAYERS, MAX_WIDTH, check_groups, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
        masks, rope, wrapper,
    },
    tensor_names::{ExpertNames, NetworkNames, TensorNames},
};

const STEP: Defaults = Defaults {
    norm_eps: 1e-5,
    partial_rotary: Some(1.0),
    head_dim: Some(128),
    keys: Keys { num_kv_heads: &["num_key_value_heads", "num_attention_groups"], ..KEYS },
    ..DEFAULTS
};

pub(super) const NAMES: TensorNames = TensorNames {
    router: "moe.gate",
    e_score_correction_bias: "moe.router_bias",
    experts: ExpertNames::Stacked {
        gate: "moe.gate_proj.weight",
        up: "moe.up_proj.weight",
        down: "moe.down_proj.weight",
    },
    shared: NetworkNames::split("share_expert.gate_proj", "share_expert.up_proj", "share_expert.down_proj"),
    ..TensorNames::LLAMA
};

/// The text model.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::without_rope(config, &STEP)?;
    base.norm = NormSpec { kind: NormKind::Rms, one_plus: true, ..base.norm };
    let n = base.num_layers;
    let masks = masks::by_type(config, n, masks::every_layer(config)?, |_| false)?;
    let is_sparse = sparse_layers(config, n)?;
    let ropes = ropes(config, &masks, base.attention.head_dim)?;
    ropes.iter().for_each(|rope| base.extend_context(&rope.scaling));
    let (full, sliding) = attentions(config, &base)?;
    let limits = config.limits("swiglu_limits", n)?;
    let shared_limits = config.limits("swiglu_limits_shared", n)?;
    let experts = experts(config)?;
    let mut layers = Vec::with_capacity(n);
    for (index, rope) in ropes.into_iter().enumerate() {
        let mask = masks[index];
        let attention = if mask == AttentionMask::Full { &full } else { &sliding };
        let attention = AttentionSpec { mask, rope: Some(rope), ..attention.clone() };
        let network = |width| DenseSpec {
            intermediate_size: width,
            activation: FfnActivation::Gated(clamped(shared_limits[index])),
            bias: false,
        };
        let ffn = if is_sparse[index] {
            let shared = ffn::shared(network(config.count("share_expert_dim", MAX_WIDTH)?));
            FfnSpec::Moe(MoeSpec { glu: clamped(limits[index]), shared, ..experts.clone() })
        } else {
            FfnSpec::Dense(network(config.count("intermediate_size", MAX_WIDTH)?))
        };
        layers.push(layer(attention, ffn));
    }
    Ok((base.decoder(layers), NAMES))
}

/// With its vision tower, which is ignored.
pub(super) fn read_multimodal(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    read(&wrapper::text_config(config)?)
}

fn clamped(limit: Option<f64>) -> Glu {
    match limit {
        None => Glu::Plain(Activation::Silu),
        Some(limit) => Glu::Clamped { act: Activation::Silu, limit: limit as f32 },
    }
}

/// Of full and of sliding layers, which may have more query heads.
fn attentions(config: &ConfigJson, base: &Base) -> Result<(AttentionSpec, AttentionSpec), LoadError> {
    for key in ["attention_bias", "mlp_bias"] {
        if config.flag(key, false)? {
            return Err(config.error(key, "true is not supported for this architecture"));
        }
    }
    let scale = match config.optional_number("query_pre_attn_scalar")? {
        Some(scalar) => scalar.powf(-0.5) as f32,
        None => base.attention.scale,
    };
    let full = AttentionSpec {
        qk_norm: Some(QkNormSpec::HEADS),
        output_gate: config.flag("use_head_wise_attn_gate", true)?,
        scale,
        ..base.attention.clone()
    };
    let key = "num_sliding_attention_heads";
    let num_heads = match config.section("attention_other_setting")? {
        Some(other) => other.optional_count("num_attention_heads", MAX_HEADS)?,
        None => config.optional_count(key, MAX_HEADS)?,
    };
    let num_heads = num_heads.unwrap_or(full.num_heads);
    check_groups(config, key, num_heads, full.num_kv_heads)?;
    Ok((full.clone(), AttentionSpec { num_heads, ..full }))
}

/// Vendor files have a list of thetas and one of shares, an entry per layer; transformers has two sections.
fn ropes(config: &ConfigJson, masks: &[AttentionMask], head_dim: usize) -> Result<Vec<RopeSpec>, LoadError> {
    if !config.is_list("rope_theta") {
        let of_kind = |mask: &AttentionMask| rope::read_for(config, masks::kind(*mask), head_dim, &STEP);
        return masks.iter().map(of_kind).collect();
    }
    let n = masks.len();
    let thetas = config.numbers_by_layer("rope_theta", n)?.unwrap_or_else(|| vec![STEP.rope_theta; n]);
    let shares = config.numbers_by_layer("partial_rotary_factors", n)?.unwrap_or_else(|| vec![1.0; n]);
    let rope = |((theta, share), mask): ((f64, f64), &AttentionMask)| {
        let scaled = *mask == AttentionMask::Full;
        rope::of_layer(
            config,
            scaled,
            head_dim,
            &Defaults { rope_theta: theta, partial_rotary: Some(share), ..STEP },
        )
    };
    thetas.into_iter().zip(shares).zip(masks).map(rope).collect()
}

fn sparse_layers(config: &ConfigJson, num_layers: usize) -> Result<Vec<bool>, LoadError> {
    match config.index_list("moe_layers_enum", MAX_LAYERS)? {
        Some(sparse) => Ok((0..num_layers).map(|index| sparse.contains(&index)).collect()),
        None => ffn::sparse_layers(config, num_layers, 3),
    }
}

fn experts(config: &ConfigJson) -> Result<MoeSpec, LoadError> {
    let num_experts = config.count(config.first_of(&["n_routed_experts", "moe_num_experts"]), MAX_EXPERTS)?;
    let chosen = config.count(config.first_of(&["num_experts_per_tok", "moe_top_k"]), num_experts)?;
    let moe = ffn::moe(config, num_experts, chosen, config.count("moe_intermediate_size", MAX_WIDTH)?)?;
    let router = Router {
        score: RouterScore::Sigmoid,
        renormalize: ffn::renormalize(config.flag("norm_expert_weight", true)?),
        scale: config.optional_number("moe_router_scaling_factor")?.unwrap_or(1.0) as f32,
        ..SOFTMAX
    };
    Ok(MoeSpec { router, e_score_correction_bias: config.flag("use_moe_router_bias", true)?, ..moe })
}
