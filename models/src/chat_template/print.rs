//! Values as Python prints them: `str`, and `repr` inside of lists and dictionaries.

use std::fmt::Write;

use minijinja::{Error, ErrorKind, State, Value, value::ValueKind};

use super::{
    arguments::invalid,
    fuel::{BoundedText, list_byte_budget},
};

/// Python's own limit is about a thousand, with more stack.
const MAX_DEPTH: usize = 128;

/// The text of a value, no larger than the remaining fuel pays for: lists that share items can be far larger as text
/// than they are in memory.
pub(super) fn to_text(state: &State, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    if value.kind() == ValueKind::Number && !value.is_integer() {
        return Ok(float_text(f64::try_from(value.clone())?));
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    repr(state, value)
}

/// A value as Python prints it inside of lists.
pub(super) fn repr(state: &State, value: &Value) -> Result<String, Error> {
    let mut text = BoundedText { text: String::new(), limit: list_byte_budget(state) };
    write(&mut text, value, 0)?;
    Ok(text.text)
}

/// A float as Python prints it: Rust's shortest digits and bounds for exponents are the same, the exponent is not.
pub(super) fn float_text(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text.to_lowercase(),
    }
}

/// Appends what `repr` gives.
fn write(output: &mut BoundedText, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!("lists in lists, more than {MAX_DEPTH} deep, cannot be printed")));
    }
    match value.kind() {
        ValueKind::String => string(output, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => output.push("Undefined"),
        ValueKind::Number if !value.is_integer() => output.push(&float_text(f64::try_from(value.clone())?)),
        ValueKind::Seq | ValueKind::Iterable => list(output, value, depth),
        ValueKind::Map => map(output, value, depth),
        _ => write!(output, "{value}").map_err(|_| Error::from(ErrorKind::OutOfFuel)),
    }
}

fn list(output: &mut BoundedText, list: &Value, depth: usize) -> Result<(), Error> {
    let (open, close) = if list.is_tuple() { ("(", ")") } else { ("[", "]") };
    output.push(open)?;
    let mut items = 0;
    for item in list.try_iter()?.checked() {
        if items > 0 {
            output.push(", ")?;
        }
        write(output, &item?, depth + 1)?;
        items += 1;
    }
    if list.is_tuple() && items == 1 {
        output.push(",")?;
    }
    output.push(close)
}

fn map(output: &mut BoundedText, map: &Value, depth: usize) -> Result<(), Error> {
    output.push("{")?;
    for (index, key) in map.try_iter()?.checked().enumerate() {
        let key = key?;
        if index > 0 {
            output.push(", ")?;
        }
        write(output, &key, depth + 1)?;
        output.push(": ")?;
        write(output, &map.get_item(&key)?, depth + 1)?;
    }
    output.push("}")
}

/// In double quotes only when that saves escapes.
fn string(output: &mut BoundedText, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    push(output, quote)?;
    for character in text.chars() {
        let code = u32::from(character);
        match character {
            '\n' => output.push("\\n")?,
            '\r' => output.push("\\r")?,
            '\t' => output.push("\\t")?,
            '\\' => output.push("\\\\")?,
            _ if character == quote => {
                output.push("\\")?;
                push(output, quote)?;
            }
            _ if is_printable(character) => push(output, character)?,
            _ if code < 0x100 => output.push(&format!("\\x{code:02x}"))?,
            _ if code < 0x1_0000 => output.push(&format!("\\u{code:04x}"))?,
            _ => output.push(&format!("\\U{code:08x}"))?,
        }
    }
    push(output, quote)
}

fn push(output: &mut BoundedText, character: char) -> Result<(), Error> {
    output.push(character.encode_utf8(&mut [0; 4]))
}

/// Rust and Python print the same characters, but Rust escapes marks when they come first.
fn is_printable(character: char) -> bool {
    matches!(character, ' '..='~')
        || character.is_alphanumeric()
        || String::from_iter(['a', character]).escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::float_text;

    #[test]
    fn floats_as_python_prints_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(float_text(value), text);
        }
    }
}
