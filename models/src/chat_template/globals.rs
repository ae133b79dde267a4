//! The functions that templates can call.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{
    Environment, Error, ErrorKind, State, Value, functions,
    value::{Kwargs, ValueKind},
};

use super::{
    arguments::{Args, invalid, split},
    print::to_text,
    strftime,
};

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

/// Puts the functions into an environment. `cycler`, `joiner` and `lipsum` are absent.
pub(super) fn add(environment: &mut Environment) {
    environment.remove_global("debug");
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

/// Python's `dict`: of a dictionary or of pairs, and of keyword arguments.
fn dict(state: &State, args: Args) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, named) = split(&args)?;
    let first = match positional {
        [] => None,
        [map] if map.kind() == ValueKind::Map => Some(map.clone()),
        [pairs] => {
            let pair = |pair: Result<Value, Error>| {
                state.consume_fuel(1)?;
                let pair = pair?;
                Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?))
            };
            let pairs: Result<Vec<(Value, Value)>, Error> = pairs.try_iter()?.checked().map(pair).collect();
            Some(Value::from_pairs(pairs?))
        }
        _ => return Err(invalid("dict: takes one dictionary, or pairs")),
    };
    functions::dict(first, named.unwrap_or_else(|| Kwargs::from_iter(Vec::<(String, Value)>::new())))
}

fn namespace(state: &State, args: Args) -> Result<Value, Error> {
    functions::namespace(Some(dict(state, args)?.into()))
}

fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    let message = to_text(state, message)?;
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime::strftime(format, now).map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
}
