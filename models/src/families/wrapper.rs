//! Multimodal checkpoints with a text model inside: the text runs, everything else is ignored.

use crate::{
    LoadError,
    config_json::ConfigJson,
    tensor_names::{Ignored, TensorNames},
};

/// What stands beside the text model.
pub(super) const VISION: &[Ignored] = &[
    Ignored::Ending("rotary_emb.inv_freq"),
    Ignored::Beginning("vision_tower."),
    Ignored::Beginning("vision_model."),
    Ignored::Beginning("multi_modal_projector."),
    Ignored::Beginning("model.vision_tower."),
    Ignored::Beginning("model.vision_model."),
    Ignored::Beginning("model.multi_modal_projector."),
    Ignored::Beginning("vit_large_projector."),
    Ignored::Beginning("vit_downsampler"),
];

/// The section of the text model.
pub(super) fn text_config<'a>(config: &ConfigJson<'a>) -> Result<ConfigJson<'a>, LoadError> {
    let missing = || config.error("text_config", "expected the text model's configuration, found nothing");
    config.section("text_config")?.ok_or_else(missing)
}

/// A text model's names where all of it stands below `language_model.`.
pub(super) fn below_language_model(names: TensorNames) -> TensorNames {
    TensorNames {
        prefixes: &["language_model."],
        lm_head: "language_model.lm_head",
        ignored: VISION,
        ..names
    }
}
