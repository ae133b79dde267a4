//! The family of a GGUF model: that of the config.json, with what converters change in the weights.

use mosu_kernels::ops::RouterScore;

use super::{config, model::GgufModel, names};
use crate::{
    DecoderSpec, FfnSpec, LoadError, Mixer,
    config_json::ConfigJson,
    families::{self, Family},
};

/// Reads the family of a model whose config.json is `config`.
pub(super) fn read(model: &GgufModel, config: &ConfigJson) -> Result<Family, LoadError> {
    let architecture = config::architecture(model.first())?;
    let Family { architecture: name, mut spec, .. } = families::read(config)?;
    adapt(model, &mut spec)?;
    if let Some(layout) = architecture.rope_layout {
        let rotations = spec.layers.iter_mut().filter_map(|layer| match &mut layer.mixer {
            Mixer::Attention(attention) => attention.rope.as_mut(),
            Mixer::LatentAttention(attention) => Some(&mut attention.rope),
        });
        rotations.for_each(|rope| rope.layout = layout);
    }
    let names = names::of_model(model, &architecture.names, architecture.feed_forward);
    Ok(Family { architecture: name, spec, names })
}

/// Norms are stored as what they multiply by, and there are biases where the file has them.
fn adapt(model: &GgufModel, spec: &mut DecoderSpec) -> Result<(), LoadError> {
    let file = model.first();
    let architecture = file.architecture()?;
    let scale = file.number(&format!("{architecture}.attention.scale"))?;
    let gating_key = format!("{architecture}.expert_gating_func");
    let gating = file.count(&gating_key)?;
    spec.norm.one_plus = false;
    spec.head.bias = model.has_tensor("output.bias");
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let has = |name: &str| model.has_tensor(&format!("blk.{index}.{name}"));
        if let Mixer::Attention(attention) = &mut layer.mixer {
            attention.qkv_bias = has("attn_q.bias") || has("attn_qkv.bias");
            attention.o_bias = has("attn_output.bias");
            attention.scale = scale.map_or(attention.scale, |scale| scale as f32);
        }
        match &mut layer.ffn {
            FfnSpec::Dense(dense) => dense.bias = has("ffn_up.bias"),
            FfnSpec::Moe(moe) => {
                moe.e_score_correction_bias = has("exp_probs_b.bias");
                moe.router_bias = has("ffn_gate_inp.bias");
                moe.expert_bias = has("ffn_up_exps.bias");
                if let Some(shared) = &mut moe.shared {
                    shared.network.bias = has("ffn_up_shexp.bias");
                }
                check_gating(moe.router.score, gating).map_err(|message| file.error(&gating_key, message))?;
            }
        }
    }
    Ok(())
}

/// Fails when the file scores experts otherwise than the family does.
fn check_gating(score: RouterScore, gating: Option<u64>) -> Result<(), String> {
    let (number, name) = match score {
        RouterScore::Softmax => (1, "softmax"),
        RouterScore::Sigmoid => (2, "sigmoid"),
        _ => return Ok(()),
    };
    match gating.filter(|gating| *gating != 0 && *gating != number) {
        None => Ok(()),
        Some(other) => {
            Err(format!("only {number} ({name}) is supported for this architecture, found {other}"))
        }
    }
}
