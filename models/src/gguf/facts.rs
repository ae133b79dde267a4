//! What config.json has of an architecture beyond what the metadata say key by key.

use serde_json::{Map, Value, json};

use super::model::GgufModel;
use crate::LoadError;

/// A count of the architecture, `default` where it is absent.
fn count_or(model: &GgufModel, suffix: &str, default: u64) -> Result<u64, LoadError> {
    let file = model.first();
    let counts = file.counts(&format!("{}.{suffix}", file.architecture()?))?;
    Ok(counts.and_then(|counts| counts.first().copied()).unwrap_or(default))
}

/// Mixtral's experts are under the same name; Mistral's window too.
pub(super) fn llama(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    if count_or(model, "expert_count", 0)? > 0 {
        config.insert("architectures".into(), json!(["MixtralForCausalLM"]));
    } else if config.contains_key("sliding_window") {
        config.insert("architectures".into(), json!(["MistralForCausalLM"]));
    }
    Ok(())
}

/// The chosen experts' weights sum to 1 where the file does not say otherwise.
pub(super) fn qwen3moe(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    config.entry("norm_topk_prob").or_insert(true.into());
    qwen2moe(model, config)
}

/// Layers without a router are dense.
pub(super) fn qwen2moe(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    let dense = layers(model, |has_router| !has_router)?;
    config.insert("mlp_only_layers".into(), dense.into());
    Ok(())
}

/// The last sparse layer is the last one with a router.
pub(super) fn ernie4_5_moe(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    let sparse = layers(model, |has_router| has_router)?;
    config.extend(sparse.last().map(|last| ("moe_layer_end_index".into(), (*last).into())));
    Ok(())
}

/// Layers with a router are sparse. The model of 128 experts is the one without norms of q and k.
pub(super) fn llama4(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    let sparse = layers(model, |has_router| has_router)?;
    config.insert("moe_layers".into(), sparse.into());
    config.insert("use_qk_norm".into(), (count_or(model, "expert_count", 0)? != 128).into());
    Ok(())
}

/// The ends of YaRN's ramp are not rounded to whole dimensions.
pub(super) fn gpt_oss(_model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    if let Some(scaling) = config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        scaling.insert("truncate".into(), false.into());
    }
    Ok(())
}

/// The layers of which `wanted` holds, told whether they have a router.
fn layers(model: &GgufModel, wanted: impl Fn(bool) -> bool) -> Result<Vec<u64>, LoadError> {
    let has_router = |layer: &u64| model.has_tensor(&format!("blk.{layer}.ffn_gate_inp.weight"));
    Ok((0..count_or(model, "block_count", 0)?).filter(|layer| wanted(has_router(layer))).collect())
}

/// Ministral 3: by how much queries grow with their position.
pub(super) fn mistral3(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    let beta = model.first().number("mistral3.attention.temperature_scale")?;
    match (beta, config.get_mut("rope_scaling").and_then(Value::as_object_mut)) {
        (Some(beta), Some(scaling)) => drop(scaling.insert("llama_4_scaling_beta".into(), beta.into())),
        (Some(beta), None) if beta != 0.0 => {
            let message = "is not supported without a scaled rotation, whose original context it needs";
            return Err(model.first().error("mistral3.attention.temperature_scale", message));
        }
        _ => {}
    }
    Ok(())
}

/// DeepSeek V2 and V3, which score experts otherwise. Newer files tell of heads as of one that all share, and of the real
/// ones beside it.
pub(super) fn deepseek2(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    const SIGMOID: u64 = 2;
    let real = |of: &str, default: &str| count_or(model, of, count_or(model, default, 0)?);
    let key_dim = real("attention.key_length_mla", "attention.key_length")?;
    let value_dim = real("attention.value_length_mla", "attention.value_length")?;
    let rope_dim = count_or(model, "rope.dimension_count", 0)?;
    config.insert("qk_rope_head_dim".into(), rope_dim.into());
    config.insert("qk_nope_head_dim".into(), key_dim.saturating_sub(rope_dim).into());
    config.insert("v_head_dim".into(), value_dim.into());
    // All of that part rotates.
    config.remove("partial_rotary_factor");
    config.entry("norm_topk_prob").or_insert(false.into());
    if count_or(model, "expert_gating_func", 1)? == SIGMOID {
        config.insert("architectures".into(), json!(["DeepseekV3ForCausalLM"]));
    } else if count_or(model, "expert_group_count", 1)? > 1 {
        config.insert("topk_method".into(), "group_limited_greedy".into());
    }
    Ok(())
}

/// What GLM-4.5's files leave out.
pub(super) fn glm4moe(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    config.insert("use_qk_norm".into(), model.has_tensor("blk.0.attn_q_norm.weight").into());
    Ok(())
}

/// Gemma 2 multiplies scores by the root of a head's width, but in its largest model, of so many layers.
pub(super) fn gemma2(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    gemma(model, config, 46)
}

/// Gemma 3 likewise. Its sliding layers are told by a period or layer by layer.
pub(super) fn gemma3(model: &GgufModel, config: &mut Map<String, Value>) -> Result<(), LoadError> {
    const PATTERN: &str = "gemma3.attention.sliding_window_pattern";
    let file = model.first();
    if let Ok(Some(period)) = file.count(PATTERN) {
        config.insert("sliding_window_pattern".into(), period.into());
    } else if let Some(sliding) = file.flags(PATTERN)? {
        let kind = |slides| if slides { "sliding_attention" } else { "full_attention" };
        let kinds: Vec<&str> = sliding.into_iter().map(kind).collect();
        config.insert("layer_types".into(), kinds.into());
    }
    gemma(model, config, 62)
}

fn gemma(model: &GgufModel, config: &mut Map<String, Value>, most_layers: u64) -> Result<(), LoadError> {
    let heads = count_or(model, "attention.head_count", 1)?.max(1);
    let per_head = count_or(model, "embedding_length", 0)? / heads;
    let is_largest = count_or(model, "block_count", 0)? == most_layers;
    let scalar = if is_largest { per_head } else { count_or(model, "attention.key_length", per_head)? };
    config.insert("query_pre_attn_scalar".into(), scalar.into());
    Ok(())
}
