//! The rotation in the metadata: its share of a head, and how it is scaled for long contexts.

use serde_json::{Map, Value, json};

use super::{architectures::Architecture, model::GgufModel};
use crate::LoadError;

/// A divisor for each frequency, made of Llama 3.1's rule by the converter.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
/// Phi's divisors for sequences within the original context.
pub(super) const SHORT_DIVISORS: &str = "rope_factors_short.weight";
/// Phi's divisors for longer ones.
pub(super) const LONG_DIVISORS: &str = "rope_factors_long.weight";

/// Keys of the scaling and what config.json calls them in `rope_scaling`.
const NUMBERS: [(&str, &str); 5] = [
    ("factor", "factor"),
    ("original_context_length", "original_max_position_embeddings"),
    ("yarn_attn_factor", "attention_factor"),
    ("yarn_beta_fast", "beta_fast"),
    ("yarn_beta_slow", "beta_slow"),
];

/// Writes what a model says of its rotation into its config.json.
pub(super) fn read(
    model: &GgufModel,
    architecture: &Architecture,
    config: &mut Map<String, Value>,
) -> Result<(), LoadError> {
    let file = model.first();
    let key = |suffix: &str| format!("{}.rope.{suffix}", architecture.name);
    if let Some(rotating) = file.count(&key("dimension_count"))? {
        let of_heads = |config: &Map<String, Value>| {
            let number = |suffix: &str| config.get(architecture.key(suffix)?)?.as_u64();
            number("attention.key_length")
                .or_else(|| number("embedding_length")?.checked_div(number("attention.head_count")?))
        };
        if let Some(head_dim) = of_heads(config).filter(|head_dim| *head_dim > 0) {
            // A little more than the share: it is rounded down to whole elements.
            let share = rotating as f64 / head_dim as f64;
            let share = if rotating == head_dim { 1.0 } else { share * (1.0 + 1e-12) };
            config.insert("partial_rotary_factor".into(), share.into());
        }
    }
    let section = match (model.f32_list(LONG_DIVISORS)?, model.f32_list(DIVISORS)?) {
        (Some(long), _) => divided(model, architecture, long)?,
        (None, Some(divisors)) => {
            // The same for every length of a sequence.
            Some(json!({"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                "attention_factor": 1.0}))
        }
        (None, None) => None,
    };
    let scaled = scaling(model, architecture)?;
    match (section, scaled) {
        (Some(_), Some(_)) => {
            Err(file.error(&key("scaling.type"), "is not supported beside a tensor of divisors"))
        }
        (section, scaled) => {
            if let Some(section) = section.or(scaled) {
                config.insert("rope_scaling".into(), section);
            }
            Ok(())
        }
    }
}

/// Phi's LongRoPE.
fn divided(
    model: &GgufModel,
    architecture: &Architecture,
    long: Vec<f64>,
) -> Result<Option<Value>, LoadError> {
    let file = model.first();
    let key = |suffix: &str| format!("{}.rope.scaling.{suffix}", architecture.name);
    let short = model.f32_list(SHORT_DIVISORS)?;
    let mut section = Map::new();
    section.insert("rope_type".into(), "longrope".into());
    section.insert("long_factor".into(), long.into());
    section.insert("short_factor".into(), short.unwrap_or_default().into());
    if let Some(original) = file.count(&key("original_context_length"))? {
        section.insert("original_max_position_embeddings".into(), original.into());
    }
    if let Some(factor) = file.number(&key("attn_factor"))? {
        section.insert("attention_factor".into(), factor.into());
    }
    Ok(Some(section.into()))
}

/// Scaling by a rule; `None` where nothing is scaled.
fn scaling(model: &GgufModel, architecture: &Architecture) -> Result<Option<Value>, LoadError> {
    let file = model.first();
    let key = |suffix: &str| format!("{}.rope.{suffix}", architecture.name);
    let of_scaling = |suffix: &str| key(&format!("scaling.{suffix}"));
    let old_factor = file.number(&key("scale_linear"))?;
    let kind = file.text(&of_scaling("type"))?;
    let factor = file.number(&of_scaling("factor"))?.or(old_factor);
    let kind = match (kind, factor) {
        (Some("none" | "longrope"), _) => return Ok(None),
        (Some(kind @ ("linear" | "yarn")), _) => kind,
        (Some(other), _) => {
            let message = format!(
                "{:?} is not supported; supported are none, linear, longrope, yarn",
                super::fault::shown(other)
            );
            return Err(file.error(&of_scaling("type"), message));
        }
        // 0 and 1 change nothing.
        (None, Some(factor)) if factor != 0.0 && factor != 1.0 => "linear",
        (None, _) => return Ok(None),
    };
    let mut section = Map::new();
    section.insert("rope_type".into(), kind.into());
    for (suffix, name) in NUMBERS {
        if let Some(number) = file.number(&of_scaling(suffix))? {
            let value = if number.fract() == 0.0 { json!(number as i64) } else { json!(number) };
            section.insert(name.into(), value);
        }
    }
    if let Some(factor) = factor {
        section.insert("factor".into(), factor.into());
    }
    if kind == "yarn" {
        only_one(model, &of_scaling("yarn_ext_factor"))?;
        only_one(model, &of_scaling("attn_factor"))?;
        if let Some(log_multiplier) =
            file.number(&of_scaling("yarn_log_multiplier"))?.filter(|number| *number != 0.0)
        {
            // 0.1 is YaRN's own.
            let mscale = log_multiplier / 0.1;
            section.insert("mscale".into(), mscale.into());
            section.insert("mscale_all_dim".into(), mscale.into());
        }
    }
    Ok(Some(section.into()))
}

/// A factor that must be 1 if it is there.
fn only_one(model: &GgufModel, key: &str) -> Result<(), LoadError> {
    match model.first().number(key)? {
        None | Some(1.0) => Ok(()),
        Some(other) => Err(model.first().error(key, format!("only 1 is supported, found {other}"))),
    }
}
