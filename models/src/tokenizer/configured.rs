//! What tokenizer_config.json says of a tokenizer.json beside it: more tokens, and what begins and ends a text.
//!
//! The checkpoints there are were published for transformers 4, whose classes take both from tokenizer_config.json.
//! Version 5 takes what begins and ends a text from tokenizer.json alone: so do we where it wrote the files. Some of
//! its classes also make the normalizer and the words anew; we keep those of tokenizer.json, as version 4 does.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokenizers::{AddedToken as TokenRules, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer as Library};

use super::{tokenizer_config::TokenizerConfig, vocabulary_class::JsonClass};

/// Changes the tokenizer of a tokenizer.json. The error says what cannot be done.
pub(super) fn configure(library: &mut Library, config: &TokenizerConfig) -> Result<(), String> {
    let class = JsonClass::of(&config.class);
    let missing = missing_tokens(library, config, class);
    library.add_tokens(missing).map_err(|error| error.to_string())?;
    if let Some(adds_bos) = class.filter(|_| !config.is_of_version_5).and_then(|class| class.adds_bos) {
        let ends = ends(library, config, adds_bos).map_err(|error| error.to_string())?;
        library.with_post_processor(Some(ends));
    }
    if let (Some(add), Some(PreTokenizerWrapper::ByteLevel(words))) =
        (config.add_prefix_space, library.get_pre_tokenizer().cloned())
    {
        library.with_pre_tokenizer(Some(words.add_prefix_space(add)));
    }
    library.set_encode_special_tokens(config.split_special_tokens.unwrap_or(false));
    Ok(())
}

/// The tokens that tokenizer.json does not have, or not so, in the order that gives them their ids: a token that is no
/// piece of the model's gets the next id, whatever `added_tokens_decoder` calls it.
fn missing_tokens(library: &Library, config: &TokenizerConfig, class: Option<JsonClass>) -> Vec<TokenRules> {
    let known: HashSet<TokenRules> = library.get_added_tokens_decoder().into_values().collect();
    let special: HashSet<&str> = config.special_rules.iter().map(|rules| rules.content.as_str()).collect();
    let mut listed: Vec<_> = config.added_tokens.iter().collect();
    listed.sort_by_key(|token| token.id);
    let listed = listed.into_iter().map(|token| &token.rules).filter(|rules| !known.contains(rules));
    let is_special = |rules: &TokenRules| rules.special || special.contains(rules.content.as_str());
    let mut missing: Vec<_> = listed.map(|rules| rules.clone().special(is_special(rules))).collect();
    let mut contents: HashSet<_> = known.iter().chain(&missing).map(|rules| rules.content.clone()).collect();
    // A class names tokens that a model may not have.
    let is_default = |text: &str| {
        class.is_some_and(|class| class.special_tokens.iter().any(|(_, default)| *default == text))
    };
    for rules in &config.special_rules {
        let is_absent = is_default(&rules.content) && library.token_to_id(&rules.content).is_none();
        if !is_absent && contents.insert(rules.content.clone()) {
            missing.push(rules.clone());
        }
    }
    missing
}

/// A post-processor that adds what the flags say.
fn ends(
    library: &Library,
    config: &TokenizerConfig,
    adds_bos: bool,
) -> serde_json::Result<PostProcessorWrapper> {
    let end = |add: bool, name: &str| {
        let text = config.special_tokens.get(name).filter(|_| add)?;
        Some((text, library.token_to_id(text)?))
    };
    let bos = end(config.add_bos_token.unwrap_or(adds_bos), "bos_token");
    let eos = end(config.add_eos_token.unwrap_or(false), "eos_token");
    let special = |(text, _): (&str, u32)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let around = |id: &str| -> Vec<Value> {
        bos.map(special).into_iter().chain([sequence(id)]).chain(eos.map(special)).collect()
    };
    let tokens = bos.into_iter().chain(eos);
    let tokens =
        tokens.map(|(text, id)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})));
    let pair = [around("A"), around("B")].concat();
    serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": Value::Object(tokens.collect()),
    }))
}

#[cfg(test)]
mod tests;
