//! DeepSeek V2 and V3 (R1, V3.1): latent attention; the first layers dense, the others with many experts and a network
//! beside them. Of a key's names the second is openPangu Ultra MoE's.

use mosu_kernels::ops::{GroupRank, Renormalize, RopeLayout, Router, RouterScore};

use crate::{
    DecoderSpec, FfnSpec, LatentAttentionSpec, LoadError, LowRankSpec, MoeSpec, RopeScaling,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_HEAD_DIM, MAX_LAYERS, MAX_WIDTH, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
        rope,
    },
    tensor_names::TensorNames,
};

/// The norms of the narrow layers have an epsilon of their own, which no config.json mentions.
const LATENT_EPS: f32 = 1e-6;

/// `num_key_value_heads` and `head_dim` mean nothing to latent attention; files have them, with any value.
const LATENT_KEYS: Keys = Keys {
    num_kv_heads: &["num_attention_heads"],
    head_dim: &["qk_rope_head_dim", "attention_qk_rope_dim"],
    ..KEYS
};

/// DeepSeek V2 and V2-Lite.
pub(super) fn read_v2(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    if config.flag("norm_topk_prob", false)? {
        return Err(config.error("norm_topk_prob", "true is not supported for this architecture"));
    }
    let moe = experts(config)?;
    let groups = match config.optional_text("topk_method")?.unwrap_or("greedy") {
        "greedy" => SOFTMAX.groups,
        "group_limited_greedy" => ffn::groups(config, moe.num_experts, GroupRank::Max)?,
        other => {
            let message = format!("{other:?} is not supported; supported are greedy, group_limited_greedy");
            return Err(config.error("topk_method", message));
        }
    };
    let router = Router { groups, scale: routed_scale(config)?, ..SOFTMAX };
    let variant = Variant {
        norm_eps: DEFAULTS.norm_eps,
        rope_layout: RopeLayout::Interleaved,
        moe: MoeSpec { router, ..moe },
        sparse_layers: sparse_layers(config)?,
    };
    read(config, variant)
}

/// DeepSeek V3.
pub(super) fn read_v3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    read_like_v3(config, DEFAULTS.norm_eps, sparse_layers(config)?)
}

/// A family that differs from V3 in its layers and in what it assumes about its norms.
pub(super) fn read_like_v3(
    config: &ConfigJson,
    norm_eps: f64,
    sparse_layers: Vec<bool>,
) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let rope_layout = match config.flag("rope_interleave", true)? {
        true => RopeLayout::Interleaved,
        false => RopeLayout::HalfSplit,
    };
    let moe = experts_v3(config)?;
    read(config, Variant { norm_eps, rope_layout, moe, sparse_layers })
}

/// What sets these families apart.
struct Variant {
    /// Epsilon of the norms where config.json is silent.
    norm_eps: f64,
    rope_layout: RopeLayout,
    moe: MoeSpec,
    /// Which layers have experts.
    sparse_layers: Vec<bool>,
}

/// Which layers have experts: every so many, after the first ones.
pub(super) fn sparse_layers(config: &ConfigJson) -> Result<Vec<bool>, LoadError> {
    let num_layers = config.count("num_hidden_layers", MAX_LAYERS)?;
    let key = config.first_of(&["first_k_dense_replace", "num_dense_layers"]);
    let first = config.index_or(key, MAX_LAYERS, 0)?;
    let interval = config.optional_count("moe_layer_freq", MAX_LAYERS)?.unwrap_or(1);
    Ok((0..num_layers).map(|index| index >= first && index.is_multiple_of(interval)).collect())
}

fn read(config: &ConfigJson, variant: Variant) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let Variant { norm_eps, rope_layout, moe, sparse_layers } = variant;
    for key in ["attention_bias", "mlp_bias"] {
        if config.flag(key, false)? {
            return Err(config.error(key, "true is not supported for this architecture"));
        }
    }
    let defaults = Defaults { norm_eps, rope_layout, keys: LATENT_KEYS, ..DEFAULTS };
    let mut base = Base::without_rope(config, &defaults)?;
    let attention = attention(config, &mut base, rope_layout)?;
    let (sparse, dense) = (FfnSpec::Moe(moe), ffn::dense(config, false)?);
    let layers = sparse_layers
        .into_iter()
        .map(|is_sparse| layer(attention.clone(), if is_sparse { sparse.clone() } else { dense.clone() }))
        .collect();
    Ok((base.decoder(layers), TensorNames::LLAMA))
}

/// A query head is `qk_nope_head_dim` elements without position and `qk_rope_head_dim` that rotate.
fn attention(
    config: &ConfigJson,
    base: &mut Base,
    rope_layout: RopeLayout,
) -> Result<LatentAttentionSpec, LoadError> {
    let nope_dim = config.count(config.first_of(&["qk_nope_head_dim", "attention_qk_dim"]), MAX_HEAD_DIM)?;
    let rope_dim =
        config.count(config.first_of(&["qk_rope_head_dim", "attention_qk_rope_dim"]), MAX_HEAD_DIM)?;
    let value_dim = config.count(config.first_of(&["v_head_dim", "attention_v_dim"]), MAX_HEAD_DIM)?;
    let kv_rank = config.count(config.first_of(&["kv_lora_rank", "attention_kv_lora_dim"]), MAX_WIDTH)?;
    // 0 and null: queries come directly.
    let q_rank = config.index_or(config.first_of(&["q_lora_rank", "attention_q_lora_dim"]), MAX_WIDTH, 0)?;
    let narrow = |rank| LowRankSpec { rank, norm_eps: LATENT_EPS };
    let rope = rope::read(config, rope_dim, &Defaults { rope_layout, ..DEFAULTS })?;
    base.extend_context(&rope.scaling);
    let scale = ((nope_dim + rope_dim) as f64).powf(-0.5) * mscale(config, &rope.scaling)?.powi(2);
    Ok(LatentAttentionSpec {
        num_heads: base.attention.num_heads,
        nope_dim,
        rope_dim,
        value_dim,
        low_rank_q: (q_rank > 0).then(|| narrow(q_rank)),
        latent: narrow(kv_rank),
        scale: scale as f32,
        rope,
    })
}

/// By how much queries and keys each grow where YaRN extends the context.
fn mscale(config: &ConfigJson, scaling: &RopeScaling) -> Result<f64, LoadError> {
    let RopeScaling::Yarn { factor, .. } = scaling else { return Ok(1.0) };
    let section = config.section(config.first_of(&["rope_scaling", "rope_parameters"]))?;
    let all_dim = match section {
        Some(section) => section.number_unless_zero("mscale_all_dim")?,
        None => None,
    };
    Ok(all_dim.map_or(1.0, |all_dim| rope::yarn_mscale(*factor, all_dim)))
}

fn routed_scale(config: &ConfigJson) -> Result<f32, LoadError> {
    Ok(config.optional_number("routed_scaling_factor")?.unwrap_or(1.0) as f32)
}

/// Experts chosen by softmax, and a network beside them.
fn experts(config: &ConfigJson) -> Result<MoeSpec, LoadError> {
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let key = config.first_of(&["n_shared_experts", "num_shared_experts"]);
    // Null is none.
    let default = usize::from(!config.contains(key));
    let shared = match config.index_or(key, MAX_EXPERTS, default)? {
        0 => None,
        number => ffn::shared(ffn::gated(config, number * width, false)?),
    };
    Ok(MoeSpec { shared, ..ffn::experts(config, width)? })
}

/// V3's experts, and GLM-4.5's: scored by sigmoid, chosen from the best groups with a learned bias.
pub(super) fn experts_v3(config: &ConfigJson) -> Result<MoeSpec, LoadError> {
    let moe = experts(config)?;
    let renormalize = match config.flag("norm_topk_prob", true)? {
        true => Renormalize::SumPlus(1e-20),
        false => Renormalize::No,
    };
    let router = Router {
        score: RouterScore::Sigmoid,
        groups: ffn::groups(config, moe.num_experts, GroupRank::TopTwoSum)?,
        renormalize,
        scale: routed_scale(config)?,
        ..SOFTMAX
    };
    Ok(MoeSpec { router, e_score_correction_bias: true, ..moe })
}
