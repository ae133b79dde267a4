//! Python's methods of strings, lists and dictionaries.
//!
//! minijinja-contrib has many; here are those that it lacks or reads otherwise, and those whose result can be so much
//! larger than their arguments that it must be bounded before it is built.

use minijinja::{
    Error, State, Value,
    value::{Tuple, ValueKind, from_args},
};
use minijinja_contrib::pycompat;

use super::{
    arguments::{bind, integer, invalid, truth},
    fuel::check_size,
    print::to_text,
    text::{Side, is_space, join, lines, pad, replace, strip},
};

/// Calls a method that the value itself does not have.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(state, text, method, args),
        (_, ValueKind::Seq | ValueKind::Iterable) => of_list(state, value, method, args),
        (_, ValueKind::Map) if method == "copy" => from_args(args).map(|()| Some(value.clone())),
        _ => Ok(None),
    };
    match found? {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `None` is left to minijinja-contrib.
fn of_text(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => split_lines(text, args)?,
        "partition" | "rpartition" => partition(text, args, method == "rpartition")?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            let side = match method {
                "lstrip" => Side::Left,
                "rstrip" => Side::Right,
                _ => Side::Both,
            };
            strip(text, characters, side).into()
        }
        "isspace" => {
            let () = from_args(args)?;
            (!text.is_empty() && text.chars().all(is_space)).into()
        }
        "istitle" => {
            let () = from_args(args)?;
            is_title(text).into()
        }
        "title" => {
            let () = from_args(args)?;
            title(text).into()
        }
        "swapcase" => {
            let () = from_args(args)?;
            text.chars().map(swapped).collect::<String>().into()
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let side = match method {
                "ljust" => Some(Side::Left),
                "rjust" => Some(Side::Right),
                _ => None,
            };
            pad(state, text, width, fill.unwrap_or(' '), side)?
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = if text.starts_with(['+', '-']) { 1 } else { 0 };
            let digits = pad(state, &text[sign..], width - sign as i64, '0', Some(Side::Right))?;
            format!("{}{digits}", &text[..sign]).into()
        }
        "find" | "rfind" | "index" | "rindex" => find(text, method, args)?,
        "count" => {
            let (part, window, _) = window(text, args)?;
            match part.as_str() {
                Some("") => (window.chars().count() + 1).into(),
                Some(part) => window.matches(part).count().into(),
                None => return Err(invalid("count: needs a text")),
            }
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (part, window, _) = window(text, args)?;
            has_end(window, method, part)?
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            join(state, text, items.try_iter()?.checked())?
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace(state, text, old, new, count.and_then(|count| usize::try_from(count).ok()))?
        }
        "format" => {
            check_format(state, text, args)?;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

fn of_list(state: &State, list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => from_args(args).map(|()| Some(list.clone())),
        "index" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let length = list.len().unwrap_or(0);
            let (start, end) = (bound(start, length, 0), bound(end, length, length));
            for (index, item) in list.try_iter()?.checked().enumerate().take(end).skip(start) {
                state.consume_fuel(1)?;
                if item? == *wanted {
                    return Ok(Some(index.into()));
                }
            }
            Err(invalid("index: not in the list"))
        }
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let mut count = 0;
            for item in list.try_iter()?.checked() {
                state.consume_fuel(1)?;
                count += usize::from(item? == *wanted);
            }
            Ok(Some(count.into()))
        }
        _ => Ok(None),
    }
}

/// Whether a text starts or ends with another, or with one of a tuple.
fn has_end(text: &str, method: &str, part: &Value) -> Result<Value, Error> {
    let matches = |part: &Value| match part.as_str() {
        Some(part) if method == "startswith" => Ok(text.starts_with(part)),
        Some(part) => Ok(text.ends_with(part)),
        None => Err(invalid(format!("{method}: needs a text or a tuple of texts"))),
    };
    if !part.is_tuple() {
        return matches(part).map(Value::from);
    }
    for part in part.try_iter()?.checked() {
        if matches(&part?)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

/// An index as Python's slices take it: from the end when it is negative, and no further than the text reaches.
fn bound(index: Option<i64>, length: usize, default: usize) -> usize {
    match index {
        None => default,
        Some(index) if index < 0 => {
            length.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX))
        }
        Some(index) => usize::try_from(index).unwrap_or(usize::MAX).min(length),
    }
}

/// The arguments of `find` and its kin: what is looked for, and the part of the text where, with its first index.
fn window<'a>(text: &'a str, args: &'a [Value]) -> Result<(&'a Value, &'a str, usize), Error> {
    let (part, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let length = text.chars().count();
    let (start, end) = (bound(start, length, 0), bound(end, length, length));
    let at = |index| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    Ok((part, if start < end { &text[at(start)..at(end)] } else { "" }, start))
}

fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (part, window, start) = window(text, args)?;
    let part = part.as_str().ok_or_else(|| invalid(format!("{method}: needs a text")))?;
    let at = if method.starts_with('r') { window.rfind(part) } else { window.find(part) };
    match at {
        Some(at) => Ok((start + window[..at].chars().count()).into()),
        None if method.ends_with("find") => Ok((-1).into()),
        None => Err(invalid(format!("{method}: not found"))),
    }
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let [separator, limit] = bind("split", ["sep", "maxsplit"], args)?;
    let separator = separator.filter(|separator| !separator.is_none());
    let separator = separator
        .as_ref()
        .map(|separator| separator.as_str().ok_or_else(|| invalid("split: the separator must be a text")));
    let separator = separator.transpose()?;
    let limit = usize::try_from(integer(limit, -1)?).ok();
    if separator == Some("") {
        return Err(invalid("split: empty separator"));
    }
    let mut parts = Vec::new();
    let mut rest = Some(match separator {
        None if from_right => strip(text, None, Side::Right),
        None => strip(text, None, Side::Left),
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
        None => text.split_once(is_space).map(|(part, rest)| (part, strip(rest, None, Side::Left))),
    }
}

/// The part behind the last separator and the rest.
fn cut_right<'a>(text: &'a str, separator: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (rest, part) = match separator {
        Some(separator) => text.rsplit_once(separator)?,
        None => text.rsplit_once(is_space).map(|(rest, part)| (strip(rest, None, Side::Right), part))?,
    };
    Some((part, rest))
}

fn split_lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let [keep_ends] = bind("splitlines", ["keepends"], args)?;
    let keep_ends = truth(keep_ends);
    let line = |(line, end): (&str, &str)| match keep_ends {
        true => Value::from(format!("{line}{end}")),
        false => line.into(),
    };
    Ok(lines(text).map(line).collect::<Vec<_>>().into())
}

fn partition(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("partition: empty separator"));
    }
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

/// Every letter behind something else in upper case, all others in lower case.
fn title(text: &str) -> String {
    let (mut titled, mut inside) = (String::with_capacity(text.len()), false);
    for character in text.chars() {
        if inside {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        inside = is_cased(character);
    }
    titled
}

fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase()
}

fn is_title(text: &str) -> bool {
    let (mut any, mut inside) = (false, false);
    for character in text.chars().filter(|character| is_cased(*character) || !character.is_alphabetic()) {
        if is_cased(character) && character.is_lowercase() != inside {
            return false;
        }
        inside = is_cased(character);
        any |= inside;
    }
    any
}

fn swapped(character: char) -> String {
    if character.is_uppercase() {
        character.to_lowercase().collect()
    } else {
        character.to_uppercase().collect()
    }
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
