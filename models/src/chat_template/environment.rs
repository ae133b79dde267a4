//! The Jinja environment of chat templates, and its limits.
//!
//! A template can read what it is given and nothing else: there is no loader, and no object with methods beyond those
//! of strings, lists and dictionaries. [`Fuel`] bounds its time and the memory of what it builds. What remains open: a
//! list that holds itself many times over (forty rounds of `[a, a]`) takes exponential time to compare, or to join to
//! a string with `~`; and slices of slices are walked through each other.

use std::{
    fmt::{self, Write},
    thread,
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, syntax::SyntaxConfig,
    value::ValueKind,
};

use serde_json::Value as Json;

use super::{ChatTemplateError, filters, globals, globals::Raised, json, methods, predicates};

/// What a template may do: an instruction costs one unit, and so do 64 bytes of text that it makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fuel(u64);

impl Fuel {
    /// For a conversation of nothing.
    const LEAST: u64 = 250_000;

    /// At most 256 MB and, in an optimised build, about half a second.
    const MOST: u64 = 4_000_000;

    /// Enough for `values`: templates take about twenty instructions for each field, and look at each text some ten
    /// times.
    pub(super) fn for_values<'a>(values: impl Iterator<Item = &'a Json>) -> Fuel {
        Fuel(Fuel::LEAST.saturating_add(values.map(fuel_of).sum()).min(Fuel::MOST))
    }

    /// A template can nest lists as deep as its fuel allows, two units a level, and freeing or printing them recurses.
    /// Only pages that are touched cost memory.
    fn stack_bytes(self) -> usize {
        usize::try_from(self.0 * 512).unwrap_or(usize::MAX)
    }
}

fn fuel_of(value: &Json) -> u64 {
    let inside: u64 = match value {
        Json::String(text) => text.len() as u64 / 2,
        Json::Array(items) => items.iter().map(fuel_of).sum(),
        Json::Object(fields) => fields.iter().map(|(key, value)| key.len() as u64 + fuel_of(value)).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    };
    inside + 64
}

const BYTES_PER_FUEL: u64 = 64;

/// Writing lists and dictionaries is slower than copying text.
const LIST_BYTES_PER_FUEL: u64 = 4;

/// An environment as transformers sets it up.
pub(super) fn new() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // Else errors of debug builds carry the template's variables.
    environment.set_debug(false);
    environment.set_formatter(format);
    environment.set_unknown_method_callback(methods::call);
    filters::add(&mut environment);
    predicates::add(&mut environment);
    globals::add(&mut environment);
    Ok(environment)
}

/// Renders on a thread with a stack of its own (see [`Fuel`]), where the template's values also end.
pub(super) fn render(
    environment: &Environment<'_>,
    name: &str,
    variables: Value,
    fuel: Fuel,
) -> Result<String, ChatTemplateError> {
    let mut environment = environment.clone();
    environment.set_fuel(Some(fuel.0));
    let render = || environment.get_template(name)?.render(variables);
    let failed = |message: String| Err(ChatTemplateError::Render(message));
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("chat-template".into()).stack_size(fuel.stack_bytes());
        match thread.spawn_scoped(scope, || render().map_err(|error| rendering_error(&error))) {
            Ok(thread) => thread.join().unwrap_or_else(|_| failed("the template engine panicked".into())),
            Err(error) => failed(format!("no thread to render on: {error}")),
        }
    })
}

fn rendering_error(error: &Error) -> ChatTemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return ChatTemplateError::Raised(message.clone());
        }
        cause = error.source();
    }
    ChatTemplateError::Render(error.to_string())
}

/// Prints a value as Python does.
fn format(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => output.write_str(text)?,
        None => output.write_str(&to_text(state, value)?)?,
    }
    Ok(())
}

/// The text of a value, no larger than the remaining fuel pays for: lists that share items can be far larger as text
/// than they are in memory.
pub(super) fn to_text(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    if value.kind() == ValueKind::Number && !value.is_integer() {
        return Ok(json::float_text(f64::try_from(value.clone())?));
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    repr(state, value)
}

/// A value as Python prints it inside of lists.
pub(super) fn repr(state: &State, value: &Value) -> Result<String, Error> {
    let mut text = BoundedText { text: String::new(), limit: list_byte_budget(state) };
    super::repr::write(&mut text, value, 0)?;
    Ok(text.text)
}

/// How many bytes of text the remaining fuel pays for.
pub(super) fn byte_budget(state: &State) -> usize {
    budget(state, BYTES_PER_FUEL)
}

/// How many bytes of the text of lists and dictionaries the remaining fuel pays for.
pub(super) fn list_byte_budget(state: &State) -> usize {
    budget(state, LIST_BYTES_PER_FUEL)
}

fn budget(state: &State, bytes_per_fuel: u64) -> usize {
    let fuel = state.fuel_levels().map_or(0, |(_, remaining)| remaining);
    usize::try_from(fuel.saturating_mul(bytes_per_fuel)).unwrap_or(usize::MAX)
}

/// Text that refuses to grow past its limit.
pub(super) struct BoundedText {
    pub(super) text: String,
    /// Bytes.
    pub(super) limit: usize,
}

impl BoundedText {
    /// Fails as running out of fuel does.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.write_str(text).map_err(|fmt::Error| Error::from(ErrorKind::OutOfFuel))
    }
}

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > self.limit.saturating_sub(self.text.len()) {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Joins the texts of `items`.
pub(super) fn join(
    state: &State,
    separator: &str,
    items: impl Iterator<Item = Result<Value, Error>>,
) -> Result<Value, Error> {
    let mut joined = BoundedText { text: String::new(), limit: byte_budget(state) };
    for (index, item) in items.enumerate() {
        state.consume_fuel(1)?;
        if index > 0 {
            joined.push(separator)?;
        }
        let item = item?;
        match item.as_str() {
            Some(text) => joined.push(text)?,
            None => joined.push(&to_text(state, &item)?)?,
        }
    }
    Ok(joined.text.into())
}
