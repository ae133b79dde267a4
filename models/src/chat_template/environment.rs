//! The Jinja environment of chat templates, and its limits.
//!
//! A template can read what it is given and nothing else: there is no loader, and no object with methods beyond those
//! of strings, lists and dictionaries. [`Fuel`] bounds its time and the memory of what it builds. What remains open: a
//! list that holds itself many times over (forty rounds of `[a, a]`) takes exponential time to compare, or to join to
//! a string with `~`; and slices of slices are walked through each other.

use std::thread;

use minijinja::{
    AutoEscape, Environment, Error, Output, State, UndefinedBehavior, Value, syntax::SyntaxConfig,
};

use super::{
    error::ChatTemplateError,
    filters,
    fuel::Fuel,
    globals::{self, Raised},
    methods, predicates,
    print::to_text,
};

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
    environment.set_fuel(Some(fuel.units()));
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
