//! Which layers see a sliding window.

use mosu_kernels::ops::AttentionMask;

use crate::{
    LoadError,
    config_json::ConfigJson,
    families::limits::{MAX_LAYERS, MAX_POSITIONS},
};

/// The names of the two kinds of layers in `layer_types` and `rope_parameters`.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

const WINDOW: &str = "sliding_window";

/// `sliding_window` on every layer; absent, null, 0 or -1 is none.
pub(super) fn every_layer(config: &ConfigJson) -> Result<AttentionMask, LoadError> {
    let window = config.window(WINDOW, MAX_POSITIONS)?;
    Ok(window.map_or(AttentionMask::Full, |window| AttentionMask::Sliding { window }))
}

/// The same, but absent is `default`.
pub(super) fn every_layer_or(config: &ConfigJson, default: usize) -> Result<AttentionMask, LoadError> {
    if config.contains(WINDOW) { every_layer(config) } else { Ok(AttentionMask::Sliding { window: default }) }
}

/// `sliding_window` of layers that slide whatever it says; absent is `default`.
pub(super) fn some_layers(config: &ConfigJson, default: usize) -> Result<AttentionMask, LoadError> {
    match every_layer_or(config, default)? {
        AttentionMask::Full => {
            Err(config.error(WINDOW, "this architecture has sliding layers, which need one"))
        }
        sliding => Ok(sliding),
    }
}

/// `sliding_window` where `use_sliding_window` turns it on.
pub(super) fn if_used(config: &ConfigJson) -> Result<AttentionMask, LoadError> {
    if config.flag("use_sliding_window", false)? { every_layer(config) } else { Ok(AttentionMask::Full) }
}

/// Qwen's rule: `layer_types` says it layer by layer; without it, the layers from `max_window_layers` on slide.
pub(super) fn layer_by_layer(
    config: &ConfigJson,
    num_layers: usize,
) -> Result<Vec<AttentionMask>, LoadError> {
    let sliding = if_used(config)?;
    let first = match sliding {
        // The key means nothing then.
        AttentionMask::Full => num_layers,
        _ => config.index_or("max_window_layers", MAX_LAYERS, 28)?,
    };
    by_type(config, num_layers, sliding, |layer| layer >= first)
}

/// `layer_types` says which layers slide; without it, `default` does.
pub(super) fn by_type(
    config: &ConfigJson,
    num_layers: usize,
    sliding: AttentionMask,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<AttentionMask>, LoadError> {
    let Some(layer_types) = config.optional_texts("layer_types")? else {
        let mask = |layer| if default(layer) { sliding } else { AttentionMask::Full };
        return Ok((0..num_layers).map(mask).collect());
    };
    if layer_types.len() < num_layers {
        let message = format!("expected {num_layers} entries, one per layer, found {}", layer_types.len());
        return Err(config.error("layer_types", message));
    }
    let mask = |layer_type: &str| match (layer_type, sliding) {
        (FULL, _) => Ok(AttentionMask::Full),
        (SLIDING, AttentionMask::Full) => {
            Err(config.error(WINDOW, "layer_types has sliding layers, but no window is in use"))
        }
        (SLIDING, sliding) => Ok(sliding),
        (other, _) => {
            let message = format!("{other:?} is not supported; supported are {FULL}, {SLIDING}");
            Err(config.error("layer_types", message))
        }
    };
    layer_types.into_iter().take(num_layers).map(mask).collect()
}

/// The name of a layer's kind.
pub(super) fn kind(mask: AttentionMask) -> &'static str {
    if mask == AttentionMask::Full { FULL } else { SLIDING }
}
