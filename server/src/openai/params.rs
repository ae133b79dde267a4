//! Reading a request body field by field, so that every error names its field.
//!
//! The members of an object are kept as slices of the body until someone takes them: a body of 32 MB costs
//! no more than the values that are used, and JSON nested a million levels deep in a field that nobody
//! takes is never followed.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::error::ApiError;

/// Free-form JSON (template arguments, tool calls) is held in memory as a tree, many times its text.
const MAX_FREE_JSON_BYTES: usize = 1 << 20;

/// Longest path inside a field that an error names.
const MAX_INNER_PATH_BYTES: usize = 64;

/// The members of a JSON object that have not been taken yet.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    members: BTreeMap<String, &'a RawValue>,
}

/// A field that is refused because what it asks for is not done here.
pub struct Refused {
    /// Its name.
    pub field: &'static str,
    /// The values that ask for nothing, and are accepted.
    pub neutral: fn(&Value) -> bool,
    /// Why it is refused, or what to do instead.
    pub reason: &'static str,
}

impl<'a> Fields<'a> {
    /// The members of the body.
    pub fn of_body(json: &'a str) -> Result<Fields<'a>, ApiError> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let members = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let mut refusal = ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_json",
                format!("the body must be a JSON object: {}", error.inner()),
            );
            refusal.param = (path != "." && path.len() <= MAX_INNER_PATH_BYTES).then_some(path);
            refusal
        })?;
        deserializer.end().map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_json",
                format!("text follows the JSON object: {error}"),
            )
        })?;
        Ok(Fields { path: String::new(), members })
    }

    /// The members of an object inside the body.
    pub fn of_member(json: &'a RawValue, path: String) -> Result<Fields<'a>, ApiError> {
        let members = read(json, &path, "an object")?;
        Ok(Fields { path, members })
    }

    /// The JSON path of a member.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// A member as it was sent; `null` counts as absent.
    pub fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        self.members.remove(name).filter(|json| json.get() != "null")
    }

    /// A member of any type. `expected` completes "must be …".
    pub fn take<T: Deserialize<'a>>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let path = self.path(name);
        self.raw(name).map(|json| read(json, &path, expected)).transpose()
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take(name, "true or false")
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.take(name, "a string")
    }

    /// A number within a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let path = self.path(name);
        self.raw(name).map(|json| number(json, &path, &range)).transpose()
    }

    /// A whole number within a range.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(json) = self.raw(name) else { return Ok(None) };
        match serde_json::from_str::<i64>(json.get()) {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(out_of_range(json, &self.path(name), "a whole number", &range)),
        }
    }

    /// Any JSON, up to a megabyte.
    pub fn free_json<T: Deserialize<'a>>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let path = self.path(name);
        let Some(json) = self.raw(name) else { return Ok(None) };
        if json.get().len() > MAX_FREE_JSON_BYTES {
            return Err(ApiError::value(
                path,
                format!("must have at most {MAX_FREE_JSON_BYTES} bytes of JSON"),
            ));
        }
        read(json, &path, expected).map(Some)
    }

    /// Refuses the fields of a table, unless they ask for nothing.
    pub fn refuse(&mut self, table: &[Refused]) -> Result<(), ApiError> {
        for refused in table {
            let Some(value) = self.free_json::<Value>(refused.field, "JSON")? else { continue };
            if !(refused.neutral)(&value) {
                let path = self.path(refused.field);
                return Err(ApiError::unsupported(
                    &path,
                    format!("`{path}` is not supported: {}", refused.reason),
                ));
            }
        }
        Ok(())
    }

    /// Accepts fields that change nothing here and break no promise when they are left aside.
    pub fn accept(&mut self, names: &[&str]) {
        for name in names {
            self.members.remove(*name);
        }
    }

    /// The names that nobody took, sorted.
    pub fn rest(self) -> Vec<String> {
        self.members.into_keys().collect()
    }
}

/// A value of any type, with errors that say where in it the fault lies.
pub fn read<'a, T: Deserialize<'a>>(json: &'a RawValue, path: &str, expected: &str) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let inner = error.path().to_string();
        let param = match inner.as_str() {
            "." => path.to_string(),
            // Nested too deeply for the place to say anything.
            _ if inner.len() > MAX_INNER_PATH_BYTES => path.to_string(),
            _ if inner.starts_with('[') => format!("{path}{inner}"),
            _ => format!("{path}.{inner}"),
        };
        let reason = error.inner().to_string();
        // The position is one inside the field, which would mislead.
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
        let message = format!("`{path}` must be {expected}: {reason}");
        ApiError::field(param, "invalid_type", message)
    })
}

/// A number within a range.
pub fn number(json: &RawValue, path: &str, range: &RangeInclusive<f32>) -> Result<f32, ApiError> {
    match serde_json::from_str::<f64>(json.get()) {
        Ok(value) if range.contains(&(value as f32)) => Ok(value as f32),
        _ => Err(out_of_range(json, path, "a number", range)),
    }
}

fn out_of_range<T: Display>(json: &RawValue, path: &str, kind: &str, range: &RangeInclusive<T>) -> ApiError {
    let sent: String = json.get().chars().take(40).collect();
    let is_number = sent.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let code = if is_number { "invalid_value" } else { "invalid_type" };
    let (low, high) = (range.start(), range.end());
    ApiError::field(path, code, format!("`{path}` must be {kind} from {low} to {high}, not {sent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> Fields<'_> {
        Fields::of_body(json).unwrap()
    }

    #[test]
    fn numbers_keep_their_range_and_type() {
        for (json, code) in [
            (r#"{"temperature":3}"#, "invalid_value"),
            (r#"{"temperature":-0.1}"#, "invalid_value"),
            (r#"{"temperature":1e999}"#, "invalid_value"),
            (r#"{"temperature":"1"}"#, "invalid_type"),
            (r#"{"temperature":[1]}"#, "invalid_type"),
        ] {
            let error = body(json).number("temperature", 0.0..=2.0).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some("temperature")), "{json}");
        }
        assert_eq!(body(r#"{"temperature":null}"#).number("temperature", 0.0..=2.0).unwrap(), None);
        assert_eq!(body(r#"{"temperature":2}"#).number("temperature", 0.0..=2.0).unwrap(), Some(2.0));
    }

    #[test]
    fn whole_numbers_are_whole() {
        for json in
            [r#"{"n":0}"#, r#"{"n":1.5}"#, r#"{"n":9223372036854775808}"#, r#"{"n":-1}"#, r#"{"n":129}"#]
        {
            let error = body(json).integer("n", 1..=128).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), ("invalid_value", Some("n")), "{json}");
        }
    }

    #[test]
    fn not_a_number_names_its_field() {
        let error = Fields::of_body(r#"{"model":"m","top_p":NaN}"#).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), ("invalid_json", Some("top_p")));
    }

    #[test]
    fn paths_reach_into_values() {
        let error = body(r#"{"stop":["a",1]}"#).take::<Vec<String>>("stop", "strings").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("stop[1]"));
    }

    #[test]
    fn deep_nesting_is_refused_where_it_is_read_and_skipped_elsewhere() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let json = format!(r#"{{"messages":{deep}}}"#);
        assert_eq!(body(&json).rest(), ["messages"]);
        let error = body(&json).take::<Value>("messages", "a list").unwrap_err();
        assert!(error.message.contains("recursion limit"), "{}", error.message);
    }

    #[test]
    fn what_is_left_over_is_listed() {
        let mut fields = body(r#"{"zeta":1,"model":"m","alpha":{}}"#);
        assert_eq!(fields.text("model").unwrap().as_deref(), Some("m"));
        assert_eq!(fields.rest(), ["alpha", "zeta"]);
    }
}
