//! Filters that make numbers, or texts of numbers.

use minijinja::{Environment, Error, Value, filters, value::ValueKind};

use super::super::{
    arguments::{Args, bind_filter, integer, invalid, keywords, truth},
    text::{Side, strip},
};

pub(super) fn add(environment: &mut Environment) {
    environment.add_filter("filesizeformat", filesizeformat);
    environment.add_filter("float", float);
    environment.add_filter("int", int);
    environment.add_filter("round", round);
}

fn defined(filter: &str, value: &Value) -> Result<(), Error> {
    if value.is_undefined() { Err(invalid(format!("{filter}: the value is undefined"))) } else { Ok(()) }
}

fn float(args: Args) -> Result<Value, Error> {
    let (value, [default]) = bind_filter("float", ["default"], args)?;
    defined("float", &value)?;
    Ok(to_float(&value).map_or_else(|| default.unwrap_or_else(|| 0.0.into()), Value::from))
}

fn int(args: Args) -> Result<Value, Error> {
    let (value, [default, base]) = bind_filter("int", ["default", "base"], args)?;
    defined("int", &value)?;
    let base = u32::try_from(integer(base, 10)?).unwrap_or(u32::MAX);
    let whole = match value.as_str() {
        Some(text) => parse_int(text, base),
        None if value.is_integer() => return Ok(value),
        None => None,
    };
    let truncated = || to_float(&value).filter(|float| float.is_finite()).map(|float| float.trunc() as i128);
    Ok(whole.or_else(truncated).map_or_else(|| default.unwrap_or_else(|| 0.into()), Value::from))
}

/// As Python's `float`.
fn to_float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => {
            let text = without_underscores(strip(text, None, Side::Both))?;
            text.parse().ok()
        }
        None if matches!(value.kind(), ValueKind::Number | ValueKind::Bool) => {
            let number = if value.kind() == ValueKind::Bool {
                Value::from(i64::from(value.is_true()))
            } else {
                value.clone()
            };
            f64::try_from(number.clone()).ok().or_else(|| number.to_string().parse().ok())
        }
        None => None,
    }
}

/// As Python's `int` of a text; base 0 is told by the prefix.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = strip(text, None, Side::Both);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = [("0b", 2), ("0o", 8), ("0x", 16)].into_iter().find_map(|(prefix, of)| {
        let start =
            digits.get(..2).filter(|start| start.eq_ignore_ascii_case(prefix) && [0, of].contains(&base))?;
        Some((digits[start.len()..].strip_prefix('_').unwrap_or(&digits[start.len()..]), of))
    });
    let (digits, base) = prefixed.unwrap_or((digits, if base == 0 { 10 } else { base }));
    let digits = without_underscores(digits)?;
    let valid = (2..=36).contains(&base) && !digits.starts_with(['+', '-']);
    if valid { i128::from_str_radix(&format!("{sign}{digits}"), base).ok() } else { None }
}

/// Digits without the underscores that may stand between them.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let between = |(at, _): (usize, &str)| digit(at.checked_sub(1)) && digit(Some(at + 1));
    text.match_indices('_').all(between).then(|| text.replace('_', ""))
}

fn round(args: Args) -> Result<Value, Error> {
    let names = ["precision", "method"];
    let (value, [precision, method]) = bind_filter("round", names, args)?;
    let whole = value.is_integer() || value.kind() == ValueKind::Bool;
    let directed = method.as_ref().is_some_and(|method| method.as_str() != Some("common"));
    let value = match whole {
        true if directed => to_float(&value).map_or(value, Value::from),
        true if !value.is_integer() => i64::from(value.is_true()).into(),
        _ => value,
    };
    filters::round(value, None, None, keywords(names, [precision, method]))
}

fn filesizeformat(args: Args) -> Result<String, Error> {
    const PREFIXES: [char; 8] = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];
    let (value, [binary]) = bind_filter("filesizeformat", ["binary"], args)?;
    let binary = truth(binary);
    let bytes = to_float(&value).ok_or_else(|| invalid("filesizeformat: not a number"))?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let (mut amount, mut prefix) = (bytes / base, 0);
    while amount >= base && prefix + 1 < PREFIXES.len() {
        amount /= base;
        prefix += 1;
    }
    let letter = PREFIXES[prefix];
    Ok(if binary {
        format!("{amount:.1} {}iB", letter.to_ascii_uppercase())
    } else {
        format!("{amount:.1} {letter}B")
    })
}
