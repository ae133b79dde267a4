//! JSON as Python's `json` module writes it: with `NaN`, `Infinity` and `-Infinity`, which are no JSON.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

const CONSTANTS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// What stands in the text of a file. The constants read as strings of their names: where a number is needed they are
/// as wrong as any other text, and errors show them.
///
/// # Errors
/// For whatever else is no JSON.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(&quoted(text))
}

/// The same JSON with the constants in quotes.
fn quoted(text: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'-' | b'I' | b'N' if !in_string => {
                if let Some(constant) = constant(&text[at..]) {
                    quoted.extend([&text[copied..at], b"\"", constant, b"\""].concat());
                    at += constant.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return text.into();
    }
    quoted.extend(&text[copied..]);
    quoted.into()
}

/// The constant that a text begins with; not where it would name a member of an object.
fn constant(text: &[u8]) -> Option<&'static [u8]> {
    let constant = CONSTANTS.into_iter().find(|constant| text.starts_with(constant))?;
    let next = text[constant.len()..].iter().find(|byte| !byte.is_ascii_whitespace());
    (next != Some(&b':')).then_some(constant)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn constants_are_strings_of_their_names() {
        let cases = [
            ("NaN", json!("NaN")),
            ("[Infinity, -Infinity,NaN]", json!(["Infinity", "-Infinity", "NaN"])),
            ("{\"a\": Infinity}", json!({"a": "Infinity"})),
            (r#"{"NaN": "a Infinity", "b\"": -Infinity}"#, json!({"NaN": "a Infinity", "b\"": "-Infinity"})),
            (r#"["\\", NaN, "\\\" NaN"]"#, json!(["\\", "NaN", "\\\" NaN"])),
            (r#"{"a": [-1, 1e3]}"#, json!({"a": [-1, 1e3]})),
        ];
        for (text, expected) in cases {
            assert_eq!(parse::<Value>(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    /// Python refuses these, too.
    #[test]
    fn what_only_looks_like_a_constant_is_refused() {
        let cases = [
            "-NaN",
            "NaNs",
            "nan",
            "+Infinity",
            "--Infinity",
            "Inf",
            "1NaN",
            "NaN1",
            "{NaN: 1}",
            "{Infinity : 1}",
            "\"NaN",
            "[NaN",
            "N",
            "-",
            "\"\\",
        ];
        for text in cases {
            assert!(parse::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn plain_json_is_not_copied() {
        assert!(matches!(quoted(br#"{"a": "NaN", "b": -1}"#), Cow::Borrowed(_)));
    }
}
