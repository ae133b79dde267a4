//! Llama 4 (Scout, Maverick): most layers rotate, see a chunk and norm q and k without weights; every fourth sees all,
//! does not rotate, and its queries grow with their position. One expert of many, whose input is weighted.

use mosu_kernels::ops::{ApplyRouterWeight, AttentionMask, NormOrder, RopeLayout, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, QkNormSpec, Temperature,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, layer},
        ffn::{self, SOFTMAX},
        wrapper,
    },
    tensor_names::{ExpertNames, NetworkNames, TensorNames},
};

const LLAMA4: Defaults = Defaults {
    norm_eps: 1e-5,
    rope_theta: 5e5,
    rope_layout: RopeLayout::Interleaved,
    head_dim: Some(128),
    ..DEFAULTS
};

/// transformers' chunk where config.json does not mention one.
const DEFAULT_CHUNK: usize = 8192;

const NAMES: TensorNames = TensorNames {
    dense: NetworkNames::split("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"),
    router: "feed_forward.router",
    experts: ExpertNames::Transposed {
        gate_up: "feed_forward.experts.gate_up_proj",
        down: "feed_forward.experts.down_proj",
        interleaved: false,
    },
    shared: NetworkNames::split(
        "feed_forward.shared_expert.gate_proj",
        "feed_forward.shared_expert.up_proj",
        "feed_forward.shared_expert.down_proj",
    ),
    ..TensorNames::LLAMA
};

/// The text model.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &LLAMA4)?;
    let (rotating, other) = attentions(config, &base)?;
    let (sparse, dense) = (FfnSpec::Moe(experts(config)?), dense(config)?);
    let rotates = rotating_layers(config, base.num_layers)?;
    let sparse_layers = sparse_layers(config, base.num_layers)?;
    let layers = (0..base.num_layers)
        .map(|index| {
            let attention = if rotates[index] { &rotating } else { &other };
            let ffn = if sparse_layers[index] { &sparse } else { &dense };
            layer(attention.clone(), ffn.clone())
        })
        .collect();
    Ok((base.decoder(layers), NAMES))
}

/// With its vision tower, which is ignored.
pub(super) fn read_multimodal(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let (spec, names) = read(&wrapper::text_config(config)?)?;
    Ok((spec, wrapper::below_language_model(names)))
}

/// Of layers that rotate, and of those that do not.
fn attentions(config: &ConfigJson, base: &Base) -> Result<(AttentionSpec, AttentionSpec), LoadError> {
    let bias = config.flag("attention_bias", false)?;
    let common = AttentionSpec { qkv_bias: bias, o_bias: bias, ..base.attention.clone() };
    let norm = QkNormSpec { order: NormOrder::AfterRope, weighted: false, ..QkNormSpec::HEADS };
    let chunk = match config.contains("attention_chunk_size") {
        true => config.window("attention_chunk_size", MAX_POSITIONS)?,
        false => Some(DEFAULT_CHUNK),
    };
    let rotating = AttentionSpec {
        qk_norm: config.flag("use_qk_norm", true)?.then_some(norm),
        mask: chunk.map_or(AttentionMask::Full, |chunk| AttentionMask::Chunked { chunk }),
        ..common.clone()
    };
    let temperature = Temperature::Steps {
        beta: config.number_or_zero("attn_scale")?.unwrap_or(0.1),
        interval: config.optional_number("floor_scale")?.unwrap_or(8192.0),
        offset: 1.0,
    };
    let temperature = config.flag("attn_temperature_tuning", true)?.then_some(temperature);
    Ok((rotating, AttentionSpec { rope: None, temperature, ..common }))
}

/// `no_rope_layers` has 1 where a layer rotates; absent or empty, every fourth does not.
fn rotating_layers(config: &ConfigJson, num_layers: usize) -> Result<Vec<bool>, LoadError> {
    let listed = config.indices("no_rope_layers")?;
    if listed.is_empty() {
        let interval = config.optional_count("no_rope_layer_interval", MAX_LAYERS)?.unwrap_or(4);
        return Ok((0..num_layers).map(|index| !(index + 1).is_multiple_of(interval)).collect());
    }
    if listed.len() != num_layers {
        let message = format!("expected {num_layers} entries, one per layer, found {}", listed.len());
        return Err(config.error("no_rope_layers", message));
    }
    Ok(listed.into_iter().map(|rotates| rotates != 0).collect())
}

/// `moe_layers` lists them; without it, every so many layers one is sparse.
fn sparse_layers(config: &ConfigJson, num_layers: usize) -> Result<Vec<bool>, LoadError> {
    if let Some(listed) = config.index_list("moe_layers", MAX_LAYERS)? {
        return Ok((0..num_layers).map(|index| listed.contains(&index)).collect());
    }
    let step = config.optional_count("interleave_moe_layer_step", MAX_LAYERS)?.unwrap_or(1);
    Ok((0..num_layers).map(|index| (index + 1).is_multiple_of(step)).collect())
}

fn experts(config: &ConfigJson) -> Result<MoeSpec, LoadError> {
    let width = config.count("intermediate_size", MAX_WIDTH)?;
    let moe = ffn::experts(config, width)?;
    Ok(MoeSpec {
        router: Router { score: RouterScore::Sigmoid, ..SOFTMAX },
        weigh: ApplyRouterWeight::OnInput,
        shared: ffn::shared(ffn::gated(config, width, false)?),
        ..moe
    })
}

fn dense(config: &ConfigJson) -> Result<FfnSpec, LoadError> {
    let width = config.count("intermediate_size_mlp", MAX_WIDTH)?;
    Ok(FfnSpec::Dense(ffn::gated(config, width, false)?))
}
