//! Which layers see a sliding window.

use crate::{
    LoadError, Mask,
    config_json::ConfigJson,
    families::base::{MAX_LAYERS, MAX_POSITIONS},
};

/// `sliding_window` on every layer; absent or null is none.
pub(super) fn every_layer(config: &ConfigJson) -> Result<Mask, LoadError> {
    let window = config.optional_count("sliding_window", MAX_POSITIONS)?;
    Ok(window.map_or(Mask::Full, |window| Mask::Sliding { window }))
}

/// `sliding_window` where `use_sliding_window` turns it on.
pub(super) fn if_used(config: &ConfigJson) -> Result<Mask, LoadError> {
    if config.flag("use_sliding_window", false)? { every_layer(config) } else { Ok(Mask::Full) }
}

/// Qwen's rule: `layer_types` says it layer by layer; without it, the layers from `max_window_layers` on slide.
pub(super) fn layer_by_layer(config: &ConfigJson, num_layers: usize) -> Result<Vec<Mask>, LoadError> {
    let sliding = if_used(config)?;
    let Some(layer_types) = config.optional_texts("layer_types")? else {
        let first = config.index_or("max_window_layers", MAX_LAYERS, 28)?;
        return Ok((0..num_layers).map(|layer| if layer < first { Mask::Full } else { sliding }).collect());
    };
    if layer_types.len() != num_layers {
        let message = format!("expected {num_layers} entries, one per layer, found {}", layer_types.len());
        return Err(config.error("layer_types", message));
    }
    let mask = |layer_type: &str| match (layer_type, sliding) {
        ("full_attention", _) => Ok(Mask::Full),
        ("sliding_attention", Mask::Sliding { .. }) => Ok(sliding),
        ("sliding_attention", Mask::Full) => {
            Err(config.error("sliding_window", "layer_types has sliding layers, but no window is in use"))
        }
        (other, _) => {
            let message =
                format!("{other:?} is not supported; supported are full_attention, sliding_attention");
            Err(config.error("layer_types", message))
        }
    };
    layer_types.into_iter().map(mask).collect()
}
