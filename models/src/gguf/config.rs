//! From metadata to the config.json that they were made from.

use serde_json::{Map, Value, json};

use super::{
    architectures::{self, Architecture, HARMLESS, READ_OTHERWISE},
    fault::Fault,
    file::GgufFile,
    model::GgufModel,
    rope, special_tokens,
};
use crate::LoadError;

/// Tensors that are read into config.json, and are no weights.
pub(super) const READ_FROM_TENSORS: [&str; 3] = [rope::DIVISORS, rope::SHORT_DIVISORS, rope::LONG_DIVISORS];

/// The architecture of a file.
pub(super) fn architecture(file: &GgufFile) -> Result<&'static Architecture, LoadError> {
    let name = file.architecture()?;
    architectures::find(name).ok_or_else(|| LoadError::UnknownArchitecture {
        file: file.path.clone(),
        name: super::fault::shown(name),
        known: architectures::known(),
    })
}

/// The config.json of a model.
pub(super) fn config(model: &GgufModel) -> Result<Map<String, Value>, LoadError> {
    let file = model.first();
    let architecture = architecture(file)?;
    let mut config = Map::new();
    config.insert("architectures".into(), json!([architecture.family]));
    check_kind(file)?;
    check_layers(model, architecture)?;
    translate(file, architecture, &mut config)?;
    let ([vocab_size, _], _) = model.embedding()?;
    check_tokens(model, vocab_size)?;
    let tied = !model.has_tensor("output.weight");
    config.insert("vocab_size".into(), vocab_size.into());
    config.insert("tie_word_embeddings".into(), tied.into());
    config.insert("torch_dtype".into(), model.dtype()?.name().into());
    config.extend(special_tokens::ids(file)?);
    rope::read(model, architecture, &mut config)?;
    (architecture.more)(model, &mut config)?;
    Ok(config)
}

/// Fails for what is no model by itself.
fn check_kind(file: &GgufFile) -> Result<(), LoadError> {
    const KEY: &str = "general.type";
    match file.text(KEY)? {
        None | Some("model") => Ok(()),
        Some(other) => {
            let other = super::fault::shown(other);
            Err(file.error(KEY, format!("{other:?} is not supported; only a \"model\" can be loaded")))
        }
    }
}

/// Every layer has tensors: so many layers that the file cannot have them are not even counted.
fn check_layers(model: &GgufModel, architecture: &Architecture) -> Result<(), LoadError> {
    let (file, key) = (model.first(), format!("{}.block_count", architecture.name));
    let layers = file.required(&key, "the number of layers", file.count(&key)?)?;
    let tensors: usize = model.files().iter().map(|file| file.header.tensors.len()).sum();
    if !usize::try_from(layers).is_ok_and(|layers| layers <= tensors) {
        return Err(file.error(&key, format!("claims {layers} layers, but there are {tensors} tensors")));
    }
    let behind = |name: &&str| {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        layer.is_some_and(|layer| layer >= layers)
    };
    match model.names().find(behind) {
        None => Ok(()),
        Some(name) => {
            let message = format!("is in a layer behind the {layers} of `{key}`");
            Err(Fault::of_tensor(name, message).in_file(&file.path))
        }
    }
}

/// Every token has a row of the embedding; rows without tokens are there for alignment.
fn check_tokens(model: &GgufModel, rows: usize) -> Result<(), LoadError> {
    let file = model.first();
    match file.texts(special_tokens::TOKENS)? {
        Some((tokens, _)) if tokens > rows => {
            let message = format!("are {tokens}, but `token_embd.weight` has {rows} rows");
            Err(file.error(special_tokens::TOKENS, message))
        }
        _ => Ok(()),
    }
}

/// Every key behind the architecture's name, under the name that config.json has for it.
fn translate(
    file: &GgufFile,
    architecture: &Architecture,
    config: &mut Map<String, Value>,
) -> Result<(), LoadError> {
    for key in file.keys() {
        let suffix = key.strip_prefix(architecture.name).and_then(|rest| rest.strip_prefix('.'));
        let Some(suffix) = suffix.filter(|suffix| !is_harmless(suffix)) else { continue };
        match architecture.key(suffix) {
            Some("") => {}
            Some(name) => drop(config.insert(name.into(), scalar(file, key)?)),
            None if READ_OTHERWISE.contains(&suffix) => {}
            None => {
                return Err(
                    file.error(key, "is not known for this architecture: what it means would be left out")
                );
            }
        }
    }
    let key = |suffix: &str| format!("{}.{suffix}", architecture.name);
    if file.flag(&key("attention.causal"))? == Some(false) {
        return Err(file.error(&key("attention.causal"), "false is not supported: the model writes no text"));
    }
    let (keys, values) = (key("attention.key_length"), key("attention.value_length"));
    let is_latent = file.has(&key("attention.kv_lora_rank"));
    if let (Some(of_keys), Some(of_values)) = (file.count(&keys)?, file.count(&values)?)
        && of_keys != of_values
        && !is_latent
    {
        return Err(file.error(&values, format!("expected {of_keys}, as of keys, found {of_values}")));
    }
    // The layers for multi-token prediction stand behind the others.
    if let (Some(extra), Some(name)) =
        (file.count(&key("nextn_predict_layers"))?, architecture.key("block_count"))
    {
        let layers = file.count(&key("block_count"))?.unwrap_or(0).saturating_sub(extra);
        config.insert(name.into(), layers.into());
    }
    Ok(())
}

/// Whether a key never changes an answer, or is of a part that is left aside.
fn is_harmless(suffix: &str) -> bool {
    HARMLESS.contains(&suffix) || suffix.starts_with("vision.") || suffix.starts_with("mm.")
}

/// A single value, or one that all entries of a list have.
fn scalar(file: &GgufFile, key: &str) -> Result<Value, LoadError> {
    if let Ok(Some(flag)) = file.flag(key) {
        return Ok(flag.into());
    }
    if let Ok(counts) = file.counts(key) {
        let counts = counts.unwrap_or_default();
        return match counts.first() {
            Some(first) if counts.iter().all(|count| count == first) => Ok((*first).into()),
            _ => Err(file.error(key, "differs from layer to layer, which is not supported")),
        };
    }
    Ok(file.number(key)?.into())
}
