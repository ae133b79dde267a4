//! Chat templates: a conversation to the prompt that the model was trained on.
//!
//! Templates are Jinja as transformers' `apply_chat_template` runs it. They come with the model, so they are not
//! trusted: see [`environment`] for the limits. What differs from Python:
//! - `strftime_now` gives UTC, not local time;
//! - `cycler`, `joiner`, `lipsum`, `random`, `pprint` and the filters for HTML are refused by name, and so are methods that
//!   Python alone has;
//! - `safe` changes nothing: in Python, adding to a safe text escapes the other one as HTML;
//! - with `~`, floats beyond 1e16 or below 1e-4 are spelled as Rust does;
//! - the default of a macro's argument cannot name another argument: that is undefined;
//! - much that Python refuses is let through: the order of a text and a number, a loop over `none`;
//! - `isdigit` and the words of `wordcount` follow Unicode where Python has lists of its own.
//!
//! The tables of models/tests/text/make_jinja.py hold Jinja2's filters, tests, operators and methods one by one: what agrees,
//! what is refused by name, and what differs.

mod arguments;
mod builtin;
mod continuation;
mod dialect;
mod environment;
mod error;
mod files;
mod filters;
mod fuel;
mod globals;
mod json;
mod methods;
mod predicates;
mod print;
mod printf;
mod strftime;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use minijinja::Environment;
use serde_json::{Map, Value};

pub use self::error::ChatTemplateError;
use self::{
    builtin::Builtin,
    files::{DEFAULT, TOOL_USE},
    fuel::Fuel,
};
use crate::{LoadError, ModelSource, source::read_limited, tokenizer::SpecialTokens};

const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What to render.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// The conversation, each message an object with `role` and, as a rule, `content`.
    pub messages: Vec<Value>,
    /// The tools that the model may call, each an object; `None` when the request has no such field.
    pub tools: Option<Vec<Value>>,
    /// Whether to end with the header of an answer.
    pub add_generation_prompt: bool,
    /// Whether to end with the last message, left open for the model to continue.
    pub continue_final_message: bool,
    /// More variables for the template, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
}

/// A model's chat template, compiled, with the model's special tokens.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: SpecialTokens,
    /// Names of tokens that end an answer, beside the model's own.
    end_tokens: &'static [&'static str],
    /// Why conversations with tools have no template, if theirs is broken.
    tool_use_fault: Option<String>,
}

impl ChatTemplate {
    /// The model's own templates; `None` when it has none.
    ///
    /// # Errors
    /// What is wrong with them. A model whose templates cannot be used can still continue texts.
    pub fn load(source: &ModelSource) -> Result<Option<ChatTemplate>, LoadError> {
        let templates = files::find(source)?;
        if templates.is_empty() {
            return Ok(None);
        }
        let mut environment = new_environment(&source.path(templates[0].file))?;
        let mut tool_use_fault = None;
        for template in &templates {
            let file = source.path(template.file);
            match compile(&mut environment, template.name, &template.text, &file) {
                Err(fault) if template.name == TOOL_USE => tool_use_fault = Some(fault.to_string()),
                compiled => compiled?,
            }
        }
        let special_tokens = SpecialTokens::load(source)?;
        Ok(Some(ChatTemplate { environment, special_tokens, end_tokens: &[], tool_use_fault }))
    }

    /// The file that [`ChatTemplate::load`] found the template for conversations in.
    pub(crate) fn file(source: &ModelSource) -> &'static str {
        files::file(source)
    }

    /// The template that a user chose for a model: a built-in one by its name, else a file.
    ///
    /// # Errors
    /// [`LoadError::Missing`], with the names there are, when it is neither.
    pub fn choose(name_or_file: &Path, source: &ModelSource) -> Result<ChatTemplate, LoadError> {
        let Some(builtin) = name_or_file.to_str().and_then(Builtin::of) else {
            return ChatTemplate::from_file(name_or_file, source);
        };
        let template = ChatTemplate::from_source(builtin.template, SpecialTokens::load(source)?)?;
        Ok(ChatTemplate { end_tokens: builtin.end_tokens, ..template })
    }

    /// The names of the built-in templates, for families that publish none.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        Builtin::names()
    }

    /// Names of the tokens that end an answer in this template's format, beside the model's own end tokens.
    pub fn end_tokens(&self) -> &'static [&'static str] {
        self.end_tokens
    }

    /// Another template, from a file of its own, with the special tokens of a model.
    pub fn from_file(path: &Path, source: &ModelSource) -> Result<ChatTemplate, LoadError> {
        let bytes = read_limited(path, MAX_TEMPLATE_BYTES as u64)?.ok_or_else(|| LoadError::Missing {
            path: path.into(),
            remedy: format!(
                "give the file of a chat template, or the name of a built-in one: {}",
                Builtin::names().collect::<Vec<_>>().join(", ")
            ),
        })?;
        let text = String::from_utf8(bytes).map_err(|error| LoadError::Malformed {
            path: path.into(),
            message: format!("not UTF-8: {error}"),
        })?;
        ChatTemplate::of_text(&text, path, SpecialTokens::load(source)?)
    }

    /// A template from its text.
    pub fn from_source(template: &str, special_tokens: SpecialTokens) -> Result<ChatTemplate, LoadError> {
        ChatTemplate::of_text(template, Path::new("<template>"), special_tokens)
    }

    fn of_text(text: &str, file: &Path, special_tokens: SpecialTokens) -> Result<ChatTemplate, LoadError> {
        let mut environment = new_environment(file)?;
        compile(&mut environment, DEFAULT, text, file)?;
        Ok(ChatTemplate { environment, special_tokens, end_tokens: &[], tool_use_fault: None })
    }

    /// Renders a conversation to the text of a prompt, which already holds the special tokens it needs: encode it
    /// without adding any.
    pub fn render(&self, request: &ChatRequest) -> Result<String, ChatTemplateError> {
        self.check_names(&request.kwargs)?;
        let mut messages = normalised(&request.messages)?;
        if !request.continue_final_message {
            return self.run(request, &messages);
        }
        if request.add_generation_prompt {
            return Err(ChatTemplateError::Request(
                "continue_final_message and add_generation_prompt exclude each other".into(),
            ));
        }
        let content = continuation::mark(&mut messages)?;
        let text = self.run(request, &messages)?;
        continuation::cut(text, &content)
    }

    /// Renders messages whose null fields are absent, as in transformers. Where an answer's null content makes that fail,
    /// it is `none`, which templates were given before transformers left it out and which some look for, and at last the
    /// empty text, which servers give to templates that put texts together.
    fn run(&self, request: &ChatRequest, messages: &[Value]) -> Result<String, ChatTemplateError> {
        let rendered = self.run_once(request, messages);
        if rendered.is_ok() || !messages.iter().any(lacks_content) {
            return rendered;
        }
        let mut contents = [Value::Null, "".into()].into_iter();
        let again =
            contents.find_map(|content| self.run_once(request, &with_content(messages, &content)).ok());
        again.map_or(rendered, Ok)
    }

    fn run_once(&self, request: &ChatRequest, messages: &[Value]) -> Result<String, ChatTemplateError> {
        let name = match (&request.tools, &self.tool_use_fault) {
            (Some(_), Some(fault)) => return Err(ChatTemplateError::Render(fault.clone())),
            (Some(_), None) if self.environment.get_template(TOOL_USE).is_ok() => TOOL_USE,
            _ => DEFAULT,
        };
        let values = messages.iter().chain(request.tools.iter().flatten()).chain(request.kwargs.values());
        let variables = self.variables(request, messages);
        environment::render(&self.environment, name, variables, Fuel::for_values(values))
    }

    /// The template's variables, named as transformers names them.
    fn variables(&self, request: &ChatRequest, messages: &[Value]) -> minijinja::Value {
        let list = |values: &[Value]| values.iter().map(json::from_json).collect::<minijinja::Value>();
        let fixed = [
            ("messages", list(messages)),
            ("tools", request.tools.as_deref().map_or(().into(), list)),
            ("documents", ().into()),
            ("add_generation_prompt", request.add_generation_prompt.into()),
        ];
        let tokens = self.special_tokens.iter().map(|(name, text)| (name, text.into()));
        let kwargs = request.kwargs.iter().map(|(name, value)| (name.as_str(), json::from_json(value)));
        minijinja::Value::from_pairs(fixed.into_iter().chain(tokens).chain(kwargs))
    }

    fn check_names(&self, kwargs: &Map<String, Value>) -> Result<(), ChatTemplateError> {
        const RESERVED: [&str; 6] =
            ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "loop"];
        let reserved = |name: &str| {
            RESERVED.contains(&name)
                || SpecialTokens::NAMES.contains(&name)
                || self.environment.globals().any(|(global, _)| global == name)
        };
        match kwargs.keys().find(|name| reserved(name)) {
            Some(name) => Err(ChatTemplateError::ReservedName(name.clone())),
            None => Ok(()),
        }
    }
}

fn broken(file: &Path, message: String) -> LoadError {
    LoadError::Template { file: file.into(), message }
}

fn new_environment(file: &Path) -> Result<Environment<'static>, LoadError> {
    environment::new().map_err(|error| broken(file, error.to_string()))
}

fn compile(
    environment: &mut Environment<'static>,
    name: &'static str,
    text: &str,
    file: &Path,
) -> Result<(), LoadError> {
    if text.len() > MAX_TEMPLATE_BYTES {
        return Err(broken(file, format!("larger than the limit of {MAX_TEMPLATE_BYTES} bytes")));
    }
    environment
        .add_template_owned(name, dialect::rewrite(text))
        .map_err(|error| broken(file, error.to_string()))
}

/// An answer of nothing but calls, as a rule.
fn lacks_content(message: &Value) -> bool {
    message["role"] == "assistant" && message.get("content").is_none()
}

fn with_content(messages: &[Value], content: &Value) -> Vec<Value> {
    let mut messages = messages.to_vec();
    for message in messages.iter_mut().filter(|message| lacks_content(message)) {
        message["content"] = content.clone();
    }
    messages
}

/// The messages without null fields, and with reasoning under both names that templates read, as transformers has
/// them.
fn normalised(messages: &[Value]) -> Result<Vec<Value>, ChatTemplateError> {
    if messages.is_empty() {
        return Err(ChatTemplateError::Request("messages: at least one message is needed".into()));
    }
    let normalise = |(index, message): (usize, &Value)| match message {
        Value::Object(fields) => Ok(Value::Object(normalised_message(fields))),
        _ => Err(ChatTemplateError::Request(format!("messages[{index}]: must be an object"))),
    };
    messages.iter().enumerate().map(normalise).collect()
}

fn normalised_message(fields: &Map<String, Value>) -> Map<String, Value> {
    let present = || {
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone()))
    };
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .into_iter()
        .find_map(|key| fields.get(key).filter(|v| !v.is_null()));
    let Some(reasoning) = reasoning else { return present().collect() };
    let mut message = Map::from_iter([("thinking".to_string(), reasoning.clone())]);
    message.extend(present());
    message.insert("reasoning_content".into(), reasoning.clone());
    message
}
