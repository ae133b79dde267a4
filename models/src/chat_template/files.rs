//! Where the templates of a model stand.
//!
//! chat_template.jinja and the files of additional_chat_templates/ count before the entry of tokenizer_config.json, as
//! in transformers' tokenizers (`PreTrainedTokenizerBase._from_pretrained`). chat_template.json, which only its processors
//! read (`ProcessorMixin.get_processor_dict`), is for models that have no other. Unlike there, a folder without a default
//! leaves that to the others.

use serde_json::Value;

use crate::{LoadError, ModelSource};

/// The template for conversations, and the one that some models have for conversations with tools.
pub(super) const DEFAULT: &str = "default";
pub(super) const TOOL_USE: &str = "tool_use";

const JINJA: &str = "chat_template.jinja";
const JSON: &str = "chat_template.json";
const CONFIG: &str = "tokenizer_config.json";
const KEY: &str = "chat_template";

/// A template before it is compiled.
#[derive(Clone, Debug)]
pub(super) struct NamedTemplate {
    pub name: &'static str,
    pub file: &'static str,
    pub text: String,
}

/// The templates of a model that are used, its default one first; none when it has none.
pub(super) fn find(source: &ModelSource) -> Result<Vec<NamedTemplate>, LoadError> {
    let read = |name, file| {
        let text = source.read_text(file)?;
        Ok::<_, LoadError>(text.map(|text| NamedTemplate { name, file, text }))
    };
    let mut templates: Vec<_> = read(DEFAULT, JINJA)?.into_iter().collect();
    if templates.is_empty() {
        for file in [CONFIG, JSON] {
            let config = source.read_json(file)?.unwrap_or_default();
            templates = entry(source, file, &config[KEY])?;
            if !templates.is_empty() {
                break;
            }
        }
    }
    if let Some(tool_use) = read(TOOL_USE, "additional_chat_templates/tool_use.jinja")? {
        if templates.is_empty() {
            return Err(error(source, tool_use.file, "there is no template named \"default\" beside it"));
        }
        templates.truncate(1);
        templates.push(tool_use);
    }
    Ok(templates)
}

/// The file of the default template.
pub(super) fn file(source: &ModelSource) -> &'static str {
    let has_key =
        |file: &str| source.read_json(file).is_ok_and(|json| json.is_some_and(|json| !json[KEY].is_null()));
    match source {
        ModelSource::Gguf(_) => "tokenizer.chat_template",
        _ if source.has(JINJA) => JINJA,
        _ if !has_key(CONFIG) && has_key(JSON) => JSON,
        _ => CONFIG,
    }
}

/// The templates of an entry: a string, a list of `{name, template}`, or an object of templates by name.
fn entry(source: &ModelSource, file: &'static str, entry: &Value) -> Result<Vec<NamedTemplate>, LoadError> {
    let find = |name: &str| -> Option<&str> {
        let template = match entry {
            Value::Array(list) => &list.iter().find(|named| named["name"] == name)?["template"],
            by_name => &by_name[name],
        };
        template.as_str()
    };
    let [default, tool_use] = match entry {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => [Some(text.as_str()), None],
        Value::Array(_) | Value::Object(_) => [DEFAULT, TOOL_USE].map(find),
        _ => return Err(error(source, file, "must be a string or a list of {name, template}")),
    };
    if default.is_none() {
        return Err(error(source, file, "the list has no template named \"default\""));
    }
    let named = |(name, text): (_, Option<&str>)| Some(NamedTemplate { name, file, text: text?.to_string() });
    Ok([(DEFAULT, default), (TOOL_USE, tool_use)].into_iter().filter_map(named).collect())
}

fn error(source: &ModelSource, file: &str, message: &str) -> LoadError {
    LoadError::Config { file: source.path(file), key: KEY.into(), message: message.into() }
}
