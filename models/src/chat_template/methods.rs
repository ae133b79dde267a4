//! Python's methods of strings, lists and dictionaries.
//!
//! minijinja-contrib has most; here are those that it lacks, and those whose result can be so much larger than their
//! arguments that it must be bounded before it is built.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Tuple, from_args},
};
use minijinja_contrib::pycompat;

use super::environment::{byte_budget, join, to_text};

/// Calls a method that the value itself does not have.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "partition" => partition(text, args, false),
        "rpartition" => partition(text, args, true),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            join(state, text, items.try_iter()?.checked())
        }
        "replace" => {
            check_replacement(state, text, args)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        "format" => {
            check_format(state, text, args)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit = limit.or(kwargs.get("maxsplit")?).and_then(|limit| usize::try_from(limit).ok());
    kwargs.assert_all_used()?;
    if separator == Some("") {
        return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator"));
    }
    let mut parts = Vec::new();
    let mut rest = Some(match separator {
        None if from_right => text.trim_end(),
        None => text.trim_start(),
        Some(_) => text,
    });
    while let Some(text) = rest {
        let cut = match limit {
            Some(limit) if parts.len() == limit => None,
            _ if from_right => cut_right(text, separator),
            _ => cut_left(text, separator),
        };
        let (part, remainder) = cut.map_or((text, None), |(part, remainder)| (part, Some(remainder)));
        // White space separates words; there are no empty ones.
        if separator.is_some() || !part.is_empty() {
            parts.push(Value::from(part));
        }
        rest = remainder;
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into())
}

/// The part before the first separator and the rest.
fn cut_left<'a>(text: &'a str, separator: Option<&str>) -> Option<(&'a str, &'a str)> {
    match separator {
        Some(separator) => text.split_once(separator),
        None => text.split_once(char::is_whitespace).map(|(part, rest)| (part, rest.trim_start())),
    }
}

/// The part behind the last separator and the rest.
fn cut_right<'a>(text: &'a str, separator: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (rest, part) = match separator {
        Some(separator) => text.rsplit_once(separator)?,
        None => text.rsplit_once(char::is_whitespace).map(|(rest, part)| (rest.trim_end(), part))?,
    };
    Some((part, rest))
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

fn check_replacement(state: &State, text: &str, args: &[Value]) -> Result<(), Error> {
    let [old, new, ..] = args else { return Ok(()) };
    let (Some(old), Some(new)) = (old.as_str(), new.as_str()) else { return Ok(()) };
    // An empty text is found between all characters.
    let matches = if old.is_empty() { text.len() + 1 } else { text.matches(old).count() };
    state.consume_fuel(matches as u64 / 8)?;
    check_size(state, matches.saturating_mul(new.len()).saturating_add(text.len()))
}

/// Bounds the result from above: every field as large as all arguments together, padded to the largest number of the
/// format.
fn check_format(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let mut arguments = 0usize;
    for argument in args {
        arguments = arguments.saturating_add(to_text(state, argument)?.len());
    }
    let numbers =
        format.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let width = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).max().unwrap_or(0);
    let fields = format.matches('{').count();
    check_size(
        state,
        fields
            .saturating_mul(arguments.saturating_add(width).saturating_add(64))
            .saturating_add(format.len()),
    )
}

fn check_size(state: &State, bytes: usize) -> Result<(), Error> {
    if bytes > byte_budget(state) { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}
