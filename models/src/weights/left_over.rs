//! Tensors that nothing claimed: which of them mean that the answer would be wrong.
//!
//! A tensor's name is a path of modules. It *belongs to a module that is claimed* when the innermost module around it of
//! which anything is claimed does work of its own: a projection (whose bias or scales are left over), a norm, a layer
//! (which has a norm that is not read). The list of layers and the modules around that list only hold others: what stands
//! directly in them is a module by itself, such as a vision tower, layers for multi-token prediction, or a layer behind
//! the last.

use super::source::TensorSource;
use crate::LoadError;

/// Ends of names that never change an answer: tables that follow from config.json, and the scales of a quantised KV
/// cache, which ours is not.
const INERT: &[&str] = &[
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
];

/// The names of the tensors that nothing claimed in a pass, in order. `layers` is the module that lists the layers,
/// `inert` are more ends of names that never change an answer.
///
/// # Errors
/// When one of them belongs to a module that is claimed.
pub(super) fn check(
    source: &dyn TensorSource,
    layers: &str,
    inert: &[&str],
) -> Result<Vec<String>, LoadError> {
    let [claimed, left] = source.names();
    let is_inert = |name: &str| INERT.iter().chain(inert).any(|end| name.ends_with(end));
    let belongs = |name: &str| !is_inert(name) && !holds(innermost(&claimed, name), layers);
    let wrong: Vec<_> = left.iter().filter(|name| belongs(name)).collect();
    let Some(name) = wrong.first() else {
        return Ok(left.into_iter().map(String::from).collect());
    };
    let others = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
    let module = innermost(&claimed, name);
    let message = format!("has no place in `{module}`, as config.json describes it{others}");
    Err(LoadError::checkpoint(source.file_of(name), Some(name), message))
}

/// The innermost module around a tensor of which one of the claimed tensors, which are in order, is a part. In order,
/// names that begin alike are neighbours.
fn innermost<'n>(claimed: &[&str], name: &'n str) -> &'n str {
    let place = claimed.partition_point(|other| *other < name);
    let neighbours = claimed[..place].last().into_iter().chain(claimed.get(place));
    neighbours.map(|other| common_module(name, other)).max_by_key(|module| module.len()).unwrap_or_default()
}

/// The innermost module around both.
fn common_module<'n>(name: &'n str, other: &str) -> &'n str {
    let alike = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    // A module's name ends where a point follows in both names.
    let end = name.as_bytes()[..alike].iter().rposition(|byte| *byte == b'.');
    end.map_or("", |end| &name[..end])
}

/// Whether a module is the list of layers, or around it.
fn holds(module: &str, layers: &str) -> bool {
    let rest = layers.strip_prefix(module);
    module.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_between_neighbours() {
        let claimed = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.10.mlp.down_proj.weight",
            "model.norm.weight",
        ];
        let cases = [
            ("lm_head.bias", "lm_head", true),
            ("model.embed_tokens.weight_scale", "model.embed_tokens", true),
            ("model.norm.bias", "model.norm", true),
            ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_proj", true),
            ("model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn", true),
            ("model.layers.0.self_attn.qproj.weight", "model.layers.0.self_attn", true),
            ("model.layers.10.extra", "model.layers.10", true),
            ("model.layers.1.mlp.down_proj.qzeros", "model.layers.1.mlp.down_proj", true),
            ("model.layers.11.mlp.down_proj.weight", "model.layers", false),
            ("model.layers.2.mlp.down_proj.weight", "model.layers", false),
            ("model.layers_of_another.0.weight", "model", false),
            ("model.mtp_block.0.mlp.down_proj.weight", "model", false),
            ("mtp.norm.weight", "", false),
            ("a", "", false),
            ("z.z", "", false),
            ("", "", false),
        ];
        for (name, module, belongs) in cases {
            assert_eq!(innermost(&claimed, name), module, "{name}");
            assert_eq!(!holds(module, "model.layers"), belongs, "{name}");
        }
        assert_eq!(innermost(&[], "a.b"), "");
        // Without anything around it, as in GPT-2's files.
        assert!(holds("h", "h") && holds("", "h") && !holds("h.0", "h") && !holds("ln_f", "h"));
    }
}
