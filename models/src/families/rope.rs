//! Rotary embeddings in config.json. transformers 5 writes one object `rope_parameters`; the hub's files have
//! `rope_theta` beside an object `rope_scaling` whose `type` is also spelt `rope_type`.

use crate::{
    LoadError, RopeScaling, RopeSpec,
    config_json::ConfigJson,
    families::{defaults::Defaults, limits::MAX_POSITIONS},
};

const TYPES: &str = "default, linear, dynamic, llama3, yarn, longrope";

/// The rotation of all layers.
pub(super) fn read(config: &ConfigJson, head_dim: usize, defaults: &Defaults) -> Result<RopeSpec, LoadError> {
    let section = section(config)?;
    if let Some((_, section)) = &section {
        for layer_type in ["full_attention", "sliding_attention"] {
            section.refuse(layer_type, "rotary embeddings that differ between layers are not supported")?;
        }
    }
    read_section(config, section, head_dim, defaults)
}

/// The rotation of layers of one type: in `rope_parameters.<layer_type>` if that is there, else that of all layers.
pub(super) fn read_for(
    config: &ConfigJson,
    layer_type: &'static str,
    head_dim: usize,
    defaults: &Defaults,
) -> Result<RopeSpec, LoadError> {
    match of_layer_type(config, layer_type)? {
        Some(section) => read_section(config, Some((layer_type, section)), head_dim, defaults),
        None => read_section(config, section(config)?, head_dim, defaults),
    }
}

/// The rotation of a layer whose theta and share of the head are `defaults`'; scaled as the file says if `scaled`.
pub(super) fn of_layer(
    config: &ConfigJson,
    scaled: bool,
    head_dim: usize,
    defaults: &Defaults,
) -> Result<RopeSpec, LoadError> {
    let plain = RopeSpec {
        theta: defaults.rope_theta,
        rotary_dim: check_rotary_dim(config, head_dim, defaults.partial_rotary.unwrap_or(1.0))?,
        layout: defaults.rope_layout,
        scaling: RopeScaling::None,
    };
    match section(config)? {
        Some((key, section)) if scaled => with_scaling(config, key, &section, plain),
        _ => Ok(plain),
    }
}

/// `rope_parameters.<layer_type>`.
pub(super) fn of_layer_type<'a>(
    config: &ConfigJson<'a>,
    layer_type: &str,
) -> Result<Option<ConfigJson<'a>>, LoadError> {
    match config.section("rope_parameters")? {
        Some(section) => section.section(layer_type),
        None => Ok(None),
    }
}

fn section<'a>(config: &ConfigJson<'a>) -> Result<Option<(&'static str, ConfigJson<'a>)>, LoadError> {
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(section) = config.section(key)? {
            return Ok(Some((key, section)));
        }
    }
    Ok(None)
}

fn read_section(
    config: &ConfigJson,
    section: Option<(&'static str, ConfigJson)>,
    head_dim: usize,
    defaults: &Defaults,
) -> Result<RopeSpec, LoadError> {
    let of_section = section.as_ref().map(|(_, section)| section);
    let theta = match of_section.map(|section| section.optional_number("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => config.optional_number("rope_theta")?.unwrap_or(defaults.rope_theta),
    };
    let rotary_dim = rotary_dim(config, of_section, head_dim, defaults.partial_rotary)?;
    let plain = RopeSpec { theta, rotary_dim, layout: defaults.rope_layout, scaling: RopeScaling::None };
    match section {
        Some((key, section)) => with_scaling(config, key, &section, plain),
        None => Ok(plain),
    }
}

/// A rotation with the context extension of a section.
fn with_scaling(
    config: &ConfigJson,
    key: &str,
    section: &ConfigJson,
    plain: RopeSpec,
) -> Result<RopeSpec, LoadError> {
    let rope_type = match section.optional_text("rope_type")? {
        Some(name) => name,
        None => section.optional_text("type")?.unwrap_or("default"),
    };
    let scaling = match rope_type {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: section.number("factor")? },
        "dynamic" => return dynamic(config, section, plain),
        "llama3" => llama3(config, section)?,
        "yarn" => yarn(config, section)?,
        "longrope" | "su" => long_rope(config, section, plain.rotary_dim)?,
        other => {
            let message = format!("type {other:?} is not supported; supported are {TYPES}");
            return Err(config.error(key, message));
        }
    };
    Ok(RopeSpec { scaling, ..plain })
}

/// The share of a head that rotates, as elements.
fn rotary_dim(
    config: &ConfigJson,
    section: Option<&ConfigJson>,
    head_dim: usize,
    default: Option<f64>,
) -> Result<usize, LoadError> {
    let key = "partial_rotary_factor";
    let mut factor = None;
    for at in section.into_iter().chain([config]) {
        factor = factor.or(at.optional_number(key)?);
        if default.is_none() && factor.is_some_and(|factor| factor != 1.0) {
            return Err(at.error(key, "only 1 is supported for this architecture"));
        }
    }
    if let (Some(dim), None, true) =
        (config.optional_count("rotary_dim", head_dim)?, factor, default.is_some())
    {
        factor = Some(dim as f64 / head_dim as f64);
    }
    check_rotary_dim(config, head_dim, factor.or(default).unwrap_or(1.0))
}

fn check_rotary_dim(config: &ConfigJson, head_dim: usize, factor: f64) -> Result<usize, LoadError> {
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if (2..=head_dim).contains(&rotary_dim) && rotary_dim.is_multiple_of(2) {
        return Ok(rotary_dim);
    }
    let message = format!("expected an even part of head_dim ({head_dim}), found {rotary_dim} elements");
    Err(config.error("partial_rotary_factor", message))
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

/// NTK-aware scaling; Hunyuan's `alpha` fixes the growth of theta once and for all.
fn dynamic(config: &ConfigJson, section: &ConfigJson, plain: RopeSpec) -> Result<RopeSpec, LoadError> {
    if plain.rotary_dim < 4 {
        return Err(section.error("rope_type", "dynamic scaling needs four or more rotating elements"));
    }
    if let Some(alpha) = section.number_unless_zero("alpha")? {
        let d = plain.rotary_dim as f64;
        return Ok(RopeSpec { theta: plain.theta * alpha.powf(d / (d - 2.0)), ..plain });
    }
    let scaling = RopeScaling::Dynamic {
        factor: section.number("factor")?,
        max_position: config.count("max_position_embeddings", MAX_POSITIONS)?,
    };
    Ok(RopeSpec { scaling, ..plain })
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

/// The factor of the section, or by how much the context exceeds the original one.
fn factor(config: &ConfigJson, section: &ConfigJson, original: usize) -> Result<f64, LoadError> {
    match section.optional_number("factor")? {
        Some(factor) => Ok(factor),
        None => Ok(config.count("max_position_embeddings", MAX_POSITIONS)? as f64 / original as f64),
    }
}

fn yarn(config: &ConfigJson, section: &ConfigJson) -> Result<RopeScaling, LoadError> {
    let original_max_position = original_max_position(config, section)?;
    let factor = factor(config, section, original_max_position)?;
    let mscale = section.number_unless_zero("mscale")?;
    let mscale_all_dim = section.number_unless_zero("mscale_all_dim")?;
    let attention_factor = match (section.optional_number("attention_factor")?, mscale, mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all),
        _ => yarn_mscale(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: section.number_unless_zero("beta_fast")?.unwrap_or(32.0),
        beta_slow: section.number_unless_zero("beta_slow")?.unwrap_or(1.0),
        original_max_position,
        truncate: section.flag("truncate", true)?,
        attention_factor,
    })
}

/// The growth of attention scores that YaRN recommends.
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Phi writes the two divisors; how much cos and sin grow follows from the extension, or is written too (Phi-3.5-MoE).
fn long_rope(config: &ConfigJson, section: &ConfigJson, rotary_dim: usize) -> Result<RopeScaling, LoadError> {
    let divisors = |key: &str| {
        let found = section.optional_numbers(key)?.unwrap_or_default();
        if found.len() == rotary_dim / 2 {
            return Ok(found);
        }
        let message =
            format!("expected {} numbers, one per frequency, found {}", rotary_dim / 2, found.len());
        Err(section.error(key, message))
    };
    let original_max_position = original_max_position(config, section)?;
    let factor = factor(config, section, original_max_position)?;
    let scale = match section.optional_number("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original_max_position as f64).ln()).sqrt(),
    };
    if !scale.is_finite() {
        return Err(section.error("factor", format!("{factor} over {original_max_position} tokens")));
    }
    Ok(RopeScaling::LongRope {
        short_factor: divisors("short_factor")?,
        long_factor: divisors("long_factor")?,
        short_scale: section.optional_number("short_mscale")?.unwrap_or(scale),
        long_scale: section.optional_number("long_mscale")?.unwrap_or(scale),
        original_max_position,
    })
}
