//! Rotary embeddings in config.json. transformers 5 writes one object `rope_parameters`; the hub's files have
//! `rope_theta` beside an object `rope_scaling` whose `type` is also spelt `rope_type`.

use crate::{LoadError, RopeScaling, RopeSpec, config_json::ConfigJson, families::base::MAX_POSITIONS};

pub(super) fn read(config: &ConfigJson, default_theta: f64) -> Result<RopeSpec, LoadError> {
    let (key, section) = match config.section("rope_scaling")? {
        Some(section) => ("rope_scaling", Some(section)),
        None => ("rope_parameters", config.section("rope_parameters")?),
    };
    for at in [Some(*config), section].into_iter().flatten() {
        if at.optional_number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(at.error("partial_rotary_factor", "only 1 is supported for this architecture"));
        }
    }
    let Some(section) = section else {
        let theta = config.optional_number("rope_theta")?.unwrap_or(default_theta);
        return Ok(RopeSpec { theta, scaling: RopeScaling::None });
    };
    for layer_type in ["full_attention", "sliding_attention"] {
        section.refuse(layer_type, "rotary embeddings that differ between layers are not supported")?;
    }
    let theta = match section.optional_number("rope_theta")? {
        Some(theta) => theta,
        None => config.optional_number("rope_theta")?.unwrap_or(default_theta),
    };
    let rope_type = match section.optional_text("rope_type")? {
        Some(name) => name,
        None => section.optional_text("type")?.unwrap_or("default"),
    };
    let scaling = match rope_type {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: section.number("factor")? },
        "llama3" => llama3(config, &section)?,
        "yarn" => yarn(config, &section)?,
        other => {
            let message =
                format!("type {other:?} is not supported; supported are default, linear, llama3, yarn");
            return Err(config.error(key, message));
        }
    };
    Ok(RopeSpec { theta, scaling })
}

/// The context of pre-training: in the section, beside it, or the model's context as such.
fn original_max_position(config: &ConfigJson, section: &ConfigJson) -> Result<usize, LoadError> {
    let key = "original_max_position_embeddings";
    if let Some(original) = section.optional_count(key, MAX_POSITIONS)? {
        return Ok(original);
    }
    match config.optional_count(key, MAX_POSITIONS)? {
        Some(original) => Ok(original),
        None => config.count("max_position_embeddings", MAX_POSITIONS),
    }
}

fn llama3(config: &ConfigJson, section: &ConfigJson) -> Result<RopeScaling, LoadError> {
    let low_freq_factor = section.number("low_freq_factor")?;
    let high_freq_factor = section.number("high_freq_factor")?;
    if high_freq_factor <= low_freq_factor {
        let message =
            format!("expected more than low_freq_factor ({low_freq_factor}), found {high_freq_factor}");
        return Err(section.error("high_freq_factor", message));
    }
    Ok(RopeScaling::Llama3 {
        factor: section.number("factor")?,
        low_freq_factor,
        high_freq_factor,
        original_max_position: original_max_position(config, section)?,
    })
}

fn yarn(config: &ConfigJson, section: &ConfigJson) -> Result<RopeScaling, LoadError> {
    let original_max_position = original_max_position(config, section)?;
    let factor = match section.optional_number("factor")? {
        Some(factor) => factor,
        None => {
            let context = config.count("max_position_embeddings", MAX_POSITIONS)?;
            context as f64 / original_max_position as f64
        }
    };
    let mscale = section.optional_number("mscale")?;
    let mscale_all_dim = section.optional_number("mscale_all_dim")?;
    let attention_factor = match (section.optional_number("attention_factor")?, mscale, mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all),
        _ => yarn_mscale(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: section.optional_number("beta_fast")?.unwrap_or(32.0),
        beta_slow: section.optional_number("beta_slow")?.unwrap_or(1.0),
        original_max_position,
        truncate: section.flag("truncate", true)?,
        attention_factor,
    })
}

/// The paper's temperature: `0.1 ln(factor) + 1`.
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
