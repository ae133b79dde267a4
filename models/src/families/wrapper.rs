//! Multimodal checkpoints with a text model inside: the text runs, everything else is left over.

use crate::{LoadError, config_json::ConfigJson, tensor_names::TensorNames};

/// The section of the text model.
pub(super) fn text_config<'a>(config: &ConfigJson<'a>) -> Result<ConfigJson<'a>, LoadError> {
    let missing = || config.error("text_config", "expected the text model's configuration, found nothing");
    config.section("text_config")?.ok_or_else(missing)
}

/// A text model's names where all of it stands below `language_model.`.
pub(super) fn below_language_model(names: TensorNames) -> TensorNames {
    TensorNames { prefixes: &["language_model."], lm_head: "language_model.lm_head", ..names }
}
