//! Typed access to config.json. Every error names the file, the key, what was expected and what was found.

use std::{path::Path, slice};

use serde_json::{Map, Value};

use crate::LoadError;

/// A JSON object of a configuration file: the whole file, or one section of it.
#[derive(Clone)]
pub(crate) struct ConfigJson<'a> {
    file: &'a Path,
    /// Where the section is, as `text_config.rope_scaling.`; empty for the whole file.
    path: String,
    values: &'a Map<String, Value>,
}

impl<'a> ConfigJson<'a> {
    /// The object that `value` should be.
    pub fn new(file: &'a Path, value: &'a Value) -> Result<ConfigJson<'a>, LoadError> {
        match value {
            Value::Object(values) => Ok(ConfigJson { file, path: String::new(), values }),
            other => {
                Err(LoadError::malformed(file, format!("expected a JSON object, found {}", shorten(other))))
            }
        }
    }

    /// The file, for errors of other kinds.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// An error at `key`.
    pub fn error(&self, key: &str, message: impl Into<String>) -> LoadError {
        let key = format!("{}{key}", self.path);
        LoadError::Config { file: self.file.into(), key, message: message.into() }
    }

    /// Whether `key` is there at all, be it null.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value at `key`; null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.error(key, format!("expected {expected}, found {}", shorten(value)))),
        }
    }

    fn required<T>(&self, key: &str, expected: &str, found: Option<T>) -> Result<T, LoadError> {
        found.ok_or_else(|| self.error(key, format!("expected {expected}, found nothing")))
    }

    /// A count from 1 to `max`.
    pub fn optional_count(&self, key: &str, max: usize) -> Result<Option<usize>, LoadError> {
        let read = |value: &Value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n))
        };
        self.read(key, &format!("an integer from 1 to {max}"), read)
    }

    /// A count from 1 to `max` that must be there.
    pub fn count(&self, key: &str, max: usize) -> Result<usize, LoadError> {
        let found = self.optional_count(key, max)?;
        self.required(key, &format!("an integer from 1 to {max}"), found)
    }

    /// A count from 0 to `max` (an index, or a number of layers that may be none).
    pub fn index_or(&self, key: &str, max: usize, default: usize) -> Result<usize, LoadError> {
        let read = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= max);
        Ok(self.read(key, &format!("an integer from 0 to {max}"), read)?.unwrap_or(default))
    }

    /// How many tokens a layer sees, up to `max`; null, 0 and -1 are all of them.
    pub fn window(&self, key: &str, max: usize) -> Result<Option<usize>, LoadError> {
        let read = |value: &Value| match value.as_i64() {
            Some(-1 | 0) => Some(None),
            window => window.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= max).map(Some),
        };
        Ok(self.read(key, &format!("an integer from 1 to {max}, or 0 or -1 for none"), read)?.flatten())
    }

    /// Any whole number.
    pub fn optional_whole(&self, key: &str) -> Result<Option<i64>, LoadError> {
        self.read(key, "an integer", Value::as_i64)
    }

    /// The index of a layer; -1 and absent are the last.
    pub fn last_layer(&self, key: &str, layers: usize) -> Result<usize, LoadError> {
        let index = |value: &Value| match value.as_i64() {
            Some(-1) => Some(layers - 1),
            index => index.and_then(|n| usize::try_from(n).ok()),
        };
        Ok(self.read(key, "-1 or the index of a layer", index)?.unwrap_or(layers - 1))
    }

    /// A positive, finite number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let read = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        self.read(key, "a positive number", read)
    }

    /// A finite number of 0 or more.
    pub fn number_or_zero(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let read = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x >= 0.0);
        self.read(key, "a number of 0 or more", read)
    }

    /// A positive, finite number; 0 is none, as where Python asks `if number:`.
    pub fn number_unless_zero(&self, key: &str) -> Result<Option<f64>, LoadError> {
        Ok(self.number_or_zero(key)?.filter(|x| *x > 0.0))
    }

    /// A positive, finite number that must be there.
    pub fn number(&self, key: &str) -> Result<f64, LoadError> {
        let found = self.optional_number(key)?;
        self.required(key, "a positive number", found)
    }

    /// A list of positive, finite numbers.
    pub fn optional_numbers(&self, key: &str) -> Result<Option<Vec<f64>>, LoadError> {
        let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        self.read(key, "a list of positive numbers", |value| value.as_array()?.iter().map(number).collect())
    }

    /// Whether a list stands at `key`.
    pub fn is_list(&self, key: &str) -> bool {
        self.get(key).is_some_and(Value::is_array)
    }

    /// A list of positive numbers, one per layer; entries behind the last layer are ignored.
    pub fn numbers_by_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<f64>>, LoadError> {
        let Some(mut numbers) = self.optional_numbers(key)? else { return Ok(None) };
        if numbers.len() < layers {
            let message = format!("expected {layers} entries, one per layer, found {}", numbers.len());
            return Err(self.error(key, message));
        }
        numbers.truncate(layers);
        Ok(Some(numbers))
    }

    /// Indices below `end` in a list, or in a string with commas between them.
    pub fn index_list(&self, key: &str, end: usize) -> Result<Option<Vec<usize>>, LoadError> {
        let in_range = |n: usize| Some(n).filter(|n| *n < end);
        let read = |value: &Value| match value {
            Value::String(text) => {
                text.split(',').map(|n| n.trim().parse().ok().and_then(in_range)).collect()
            }
            value => {
                let index = |value: &Value| in_range(usize::try_from(value.as_u64()?).ok()?);
                value.as_array()?.iter().map(index).collect()
            }
        };
        self.read(key, &format!("a list of integers below {end}"), read)
    }

    /// One limit per layer; 0, null and infinity are none. Absent is none for all; entries behind the last layer are
    /// ignored.
    pub fn limits(&self, key: &str, layers: usize) -> Result<Vec<Option<f64>>, LoadError> {
        let limit = |value: &Value| match value {
            Value::Null => Some(None),
            Value::String(text) if text == "Infinity" => Some(None),
            value => {
                value.as_f64().filter(|x| x.is_finite() && *x >= 0.0).map(|x| Some(x).filter(|x| *x > 0.0))
            }
        };
        let read = |value: &Value| value.as_array()?.iter().map(limit).collect::<Option<Vec<_>>>();
        let expected = format!("a list of {layers} limits, one per layer");
        let Some(mut limits) = self.read(key, &expected, read)? else { return Ok(vec![None; layers]) };
        if limits.len() < layers {
            return Err(self.error(key, format!("expected {expected}, found {}", limits.len())));
        }
        limits.truncate(layers);
        Ok(limits)
    }

    /// A count from 0 to `max` for each layer: one for all, or a list with an entry per layer.
    pub fn counts_by_layer(
        &self,
        key: &str,
        layers: usize,
        max: usize,
        default: usize,
    ) -> Result<Vec<usize>, LoadError> {
        let count =
            |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= max);
        let read = |value: &Value| match value {
            Value::Array(values) => values.iter().map(count).collect::<Option<Vec<_>>>(),
            value => Some(vec![count(value)?; layers]),
        };
        let expected = format!("an integer from 0 to {max}, or a list of them");
        let counts = self.read(key, &expected, read)?.unwrap_or_else(|| vec![default; layers]);
        match counts.get(..layers) {
            Some(counts) => Ok(counts.to_vec()),
            None => {
                let message = format!("expected {layers} entries, one per layer, found {}", counts.len());
                Err(self.error(key, message))
            }
        }
    }

    /// A boolean.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A string.
    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>, LoadError> {
        self.read(key, "a string", Value::as_str)
    }

    /// A list of strings.
    pub fn optional_texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, LoadError> {
        let read = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.read(key, "a list of strings", read)
    }

    /// A list of indices; absent is empty.
    pub fn indices(&self, key: &str) -> Result<Vec<usize>, LoadError> {
        let index = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let read = |value: &'a Value| value.as_array()?.iter().map(index).collect();
        Ok(self.read(key, "a list of integers", read)?.unwrap_or_default())
    }

    /// One token id or a list of them; absent is empty. Null, -1 and whatever else is the id of no token are left out.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| match value {
            Value::Null => Some(None),
            value => (value.is_i64() || value.is_u64()).then(|| value.as_u64()?.try_into().ok()),
        };
        let read = |value: &'a Value| {
            let values = value.as_array().map_or(slice::from_ref(value), Vec::as_slice);
            Some(values.iter().map(id).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        };
        Ok(self.read(key, "a token id or a list of them", read)?.unwrap_or_default())
    }

    /// A nested object; an empty one counts as absent.
    pub fn section(&self, key: &str) -> Result<Option<ConfigJson<'a>>, LoadError> {
        let values = self.read(key, "an object", Value::as_object)?.filter(|values| !values.is_empty());
        Ok(values.map(|values| ConfigJson { file: self.file, path: format!("{}{key}.", self.path), values }))
    }

    /// The first of these keys that is there, else the first: the same fact has several names.
    pub fn first_of<'k>(&self, keys: &[&'k str]) -> &'k str {
        let there = keys.iter().find(|key| self.get(key).is_some());
        there.or(keys.first()).copied().unwrap_or_default()
    }

    /// Refuses a key whose effect is not implemented, unless it is absent.
    pub fn refuse(&self, key: &str, message: &str) -> Result<(), LoadError> {
        match self.get(key) {
            None => Ok(()),
            Some(_) => Err(self.error(key, message)),
        }
    }
}

/// A value as it stands in an error message.
fn shorten(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message<T>(result: Result<T, LoadError>) -> String {
        match result {
            Ok(_) => panic!("expected an error"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn errors_name_file_key_expected_and_found() {
        let value = json!({"n": -3, "big": 1e12 as u64, "theta": "x", "flag": 1, "rope": {"factor": 0}, "names": [1]});
        let config = ConfigJson::new(Path::new("m/config.json"), &value).unwrap();
        let cases = [
            (
                message(config.count("n", 100)),
                "m/config.json: `n`: expected an integer from 1 to 100, found -3",
            ),
            (
                message(config.count("big", 100)),
                "m/config.json: `big`: expected an integer from 1 to 100, found 1000000000000",
            ),
            (
                message(config.count("gone", 9)),
                "m/config.json: `gone`: expected an integer from 1 to 9, found nothing",
            ),
            (
                message(config.number("theta")),
                "m/config.json: `theta`: expected a positive number, found \"x\"",
            ),
            (message(config.flag("flag", true)), "m/config.json: `flag`: expected true or false, found 1"),
            (
                message(config.optional_texts("names")),
                "m/config.json: `names`: expected a list of strings, found [1]",
            ),
            (
                message(config.section("rope").unwrap().unwrap().number("factor")),
                "m/config.json: `rope.factor`: expected a positive number, found 0",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    /// What Python writes for numbers that are none, and for values that mean nothing.
    #[test]
    fn nothing_has_several_spellings() {
        let value = json!({"zero": 0, "none": -1, "null": null, "two": 2, "minus": -2, "half": 0.5,
            "infinite": "Infinity", "limits": [0, null, "Infinity", 7.0], "ids": [1, "x"], "id": 1.5});
        let config = ConfigJson::new(Path::new("config.json"), &value).unwrap();
        for (key, expected) in
            [("zero", None), ("none", None), ("null", None), ("gone", None), ("two", Some(2))]
        {
            assert_eq!(config.window(key, 2).unwrap(), expected, "{key}");
        }
        for (key, expected) in [("zero", None), ("null", None), ("half", Some(0.5))] {
            assert_eq!(config.number_unless_zero(key).unwrap(), expected, "{key}");
        }
        assert_eq!(config.number_or_zero("zero").unwrap(), Some(0.0));
        assert_eq!(config.limits("limits", 4).unwrap(), [None, None, None, Some(7.0)]);
        let wrong = [
            message(config.window("minus", 2)),
            message(config.window("two", 1)),
            message(config.window("half", 2)),
            message(config.window("infinite", 2)),
            message(config.number_unless_zero("minus")),
            message(config.optional_number("infinite")),
            message(config.number_or_zero("infinite")),
            message(config.token_ids("ids")),
            message(config.token_ids("id")),
        ];
        for message in wrong {
            assert!(message.contains("`: expected "), "{message}");
        }
    }

    #[test]
    fn null_counts_as_absent() {
        let value =
            json!({"a": null, "ids": [1, 2], "id": 3, "none": -1, "some": [null, 4, -1, 1_u64 << 40]});
        let config = ConfigJson::new(Path::new("config.json"), &value).unwrap();
        assert_eq!(config.optional_count("a", 5).unwrap(), None);
        assert!(config.contains("a"));
        assert!(config.token_ids("a").unwrap().is_empty());
        assert_eq!(config.token_ids("ids").unwrap(), [1, 2]);
        assert_eq!(config.token_ids("id").unwrap(), [3]);
        assert!(config.token_ids("none").unwrap().is_empty());
        assert_eq!(config.token_ids("some").unwrap(), [4]);
    }

    #[test]
    fn long_values_are_shortened_between_characters() {
        let value = json!({ "text": "模".repeat(1000) });
        let config = ConfigJson::new(Path::new("config.json"), &value).unwrap();
        assert!(message(config.count("text", 5)).chars().count() < 150);
    }
}
