//! `format % values` and the filter `format`.

use minijinja::{
    Error, ErrorKind, State, Value,
    formatting::{FormatStyle, format},
    value::{Kwargs, ValueKind},
};

use super::{
    arguments::{Args, bind_filter, invalid, required, split},
    fuel::{BoundedText, byte_budget},
    print::{repr, to_text},
};

/// The filter `format`.
pub(super) fn format_filter(state: &State, args: Args) -> Result<String, Error> {
    let args = args.into_values();
    let Some((text, args)) = args.split_first() else { return Err(invalid("format: a text is required")) };
    let text = to_text(state, text)?;
    match split(args)? {
        (values, None) => printf(state, &text, values, None),
        ([], Some(named)) => printf(state, &text, &[], Some(&named)),
        _ => Err(invalid("format: takes arguments by position or by name, not both")),
    }
}

/// `left % right`.
pub(super) fn percent(state: &State, args: Args) -> Result<Value, Error> {
    let (left, [right]) = bind_filter("%", ["right"], args)?;
    let right = required("%", "right", right)?;
    let Some(text) = left.as_str() else { return remainder(&left, &right) };
    let text = if right.is_tuple() {
        let values = right.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
        printf(state, text, &values, None)
    } else if right.kind() == ValueKind::Map {
        let named = right.try_iter()?.checked().map(|key| {
            let key = key?;
            Ok((to_text(state, &key)?, right.get_item(&key)?))
        });
        printf(state, text, std::slice::from_ref(&right), Some(&named.collect::<Result<Kwargs, Error>>()?))
    } else {
        printf(state, text, &[right], None)
    };
    text.map(Value::from)
}

/// Python's remainder has the sign of the divisor.
fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let numeric = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !numeric(left) || !numeric(right) {
        return Err(invalid(format!("cannot calculate {} % {}", left.kind(), right.kind())));
    }
    if !right.is_true() {
        return Err(invalid("cannot divide by zero"));
    }
    let is_float = |value: &Value| value.kind() == ValueKind::Number && !value.is_integer();
    if is_float(left) || is_float(right) {
        let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
        let rest = left % right;
        return Ok(if rest != 0.0 && (rest < 0.0) != (right < 0.0) {
            rest + right
        } else {
            rest.copysign(right)
        }
        .into());
    }
    let (left, right) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
    let rest = left.wrapping_rem(right);
    Ok(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }.into())
}

/// One `%…` of a format.
struct Conversion<'a> {
    key: Option<&'a str>,
    /// Flags, width and precision; `*` stands for an argument.
    options: &'a str,
    kind: char,
}

/// The conversion at the start of `text`, behind `%`, and its length.
fn conversion(text: &str) -> Result<(Conversion<'_>, usize), Error> {
    let wrong = || invalid(format!("not a format: %{}", text.chars().take(20).collect::<String>()));
    let (key, rest) = match text.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map(|(key, rest)| (Some(key), rest)).ok_or_else(wrong)?,
        None => (None, text),
    };
    let length = rest.find(|c: char| !"#0- +*.0123456789".contains(c)).ok_or_else(wrong)?;
    let (options, rest) = rest.split_at(length);
    let kind = rest.chars().next().filter(|kind| "diouxXeEfFgGcrsa%".contains(*kind)).ok_or_else(wrong)?;
    let taken = text.len() - rest.len() + kind.len_utf8();
    Ok((Conversion { key, options, kind }, taken))
}

fn printf(state: &State, text: &str, values: &[Value], named: Option<&Kwargs>) -> Result<String, Error> {
    let mut output = BoundedText { text: String::new(), limit: byte_budget(state) };
    let mut values = values.iter();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        output.push(before)?;
        let (conversion, taken) = conversion(after)?;
        rest = &after[taken..];
        state.consume_fuel(4)?;
        if conversion.kind == '%' {
            output.push("%")?;
            continue;
        }
        let mut next =
            || values.next().cloned().ok_or_else(|| invalid("not enough arguments for the format"));
        let options = options(conversion.options, &mut next)?;
        let value = match (conversion.key, named) {
            (Some(key), Some(named)) => named.get(key)?,
            (Some(_), None) => return Err(invalid("the format asks for arguments by name")),
            (None, _) => next()?,
        };
        output.push(&convert(state, &options, conversion.kind, value)?)?;
    }
    if named.is_none() && values.next().is_some() {
        return Err(invalid("not all arguments are used by the format"));
    }
    output.push(rest)?;
    Ok(output.text)
}

/// The options with each `*` replaced by the number that stands in its place among the arguments.
fn options(options: &str, next: &mut impl FnMut() -> Result<Value, Error>) -> Result<String, Error> {
    let mut replaced = String::new();
    for character in options.chars() {
        match character {
            '*' => replaced.push_str(&i64::try_from(next()?)?.to_string()),
            _ => replaced.push(character),
        }
    }
    Ok(replaced)
}

fn convert(state: &State, options: &str, kind: char, value: Value) -> Result<String, Error> {
    let width = options
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(usize::MAX))
        .fold(0usize, usize::saturating_add);
    if width > byte_budget(state) {
        return Err(ErrorKind::OutOfFuel.into());
    }
    let (kind, value) = match kind {
        's' => ('s', to_text(state, &value)?.into()),
        'r' => ('s', repr(state, &value)?.into()),
        'a' => ('s', ascii(&repr(state, &value)?).into()),
        'd' | 'i' | 'u' if value.kind() == ValueKind::Number && !value.is_integer() => {
            ('d', (f64::try_from(value)?.trunc() as i128).into())
        }
        'i' | 'u' => ('d', value),
        _ => (kind, value),
    };
    format(FormatStyle::Printf, &format!("%{options}{kind}"), &[value])
}

fn ascii(text: &str) -> String {
    let escape = |character: char| match u32::from(character) {
        0..0x80 => character.to_string(),
        code @ 0x80..0x100 => format!("\\x{code:02x}"),
        code @ 0x100..0x1_0000 => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    text.chars().map(escape).collect()
}
