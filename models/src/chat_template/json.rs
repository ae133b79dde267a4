//! JSON in templates: values from requests, and the filters `tojson` (as Python's `json.dumps`) and `fromjson`.

use minijinja::{Error, State, Value, value::ValueKind};

use super::{
    arguments::{Args, bind_filter, invalid, truth},
    fuel::{BoundedText, list_byte_budget},
    print::float_text,
};

const MAX_DEPTH: usize = 128;
const MAX_INDENT: usize = 64;

/// A JSON value as a template sees it; objects keep their order.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => ().into(),
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            (.., value) => value.unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// The filter `fromjson`: a JSON text as a value.
pub(super) fn fromjson(text: &str) -> Result<Value, Error> {
    match serde_json::from_str(text) {
        Ok(json) => Ok(from_json(&json)),
        Err(error) => Err(invalid(format!("fromjson: {error}"))),
    }
}

/// The filter `tojson`, as transformers defines it.
pub(super) fn tojson(state: &State, args: Args) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let (value, [ensure_ascii, indent, separators, sort_keys]) = bind_filter("tojson", names, args)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_string),
        Some(width) => Some(" ".repeat(usize::try_from(to_integer(&width)?).unwrap_or(0).min(MAX_INDENT))),
    };
    let separators = separators.filter(|separators| !separators.is_none()).map(pair).transpose()?;
    let (item, key) = separators
        .unwrap_or_else(|| (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()));
    let mut writer = Writer {
        output: BoundedText { text: String::new(), limit: list_byte_budget(state) },
        ensure_ascii: truth(ensure_ascii),
        sort_keys: truth(sort_keys),
        indent,
        item,
        key,
        depth: 0,
    };
    writer.value(&value)?;
    Ok(writer.output.text)
}

fn to_integer(value: &Value) -> Result<i64, Error> {
    if value.kind() == ValueKind::Bool { Ok(value.is_true().into()) } else { i64::try_from(value.clone()) }
}

fn pair(separators: Value) -> Result<(String, String), Error> {
    let wrong = || invalid("tojson: separators must be a pair of strings");
    let texts: Result<Vec<String>, Error> = separators
        .try_iter()?
        .checked()
        .take(3)
        .map(|text| text?.as_str().map(str::to_string).ok_or_else(wrong))
        .collect();
    match <[String; 2]>::try_from(texts?) {
        Ok([item, key]) => Ok((item, key)),
        Err(_) => Err(wrong()),
    }
}

struct Writer {
    output: BoundedText,
    ensure_ascii: bool,
    sort_keys: bool,
    /// The text of one level, when every item has a line of its own.
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.write("null"),
            ValueKind::Bool => self.write(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.write(&number_text(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked();
                self.container(['[', ']'], items, |writer, item| writer.value(&item))
            }
            ValueKind::Map => self.map(value),
            kind => Err(invalid(format!("tojson: a value that is {kind} is not JSON"))),
        }
    }

    fn map(&mut self, map: &Value) -> Result<(), Error> {
        let mut entries = Vec::with_capacity(map.len().unwrap_or(0));
        for key in map.try_iter()?.checked() {
            let key = key?;
            entries.push((key_text(&key)?, map.get_item(&key)?));
        }
        if self.sort_keys {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        self.container(['{', '}'], entries.into_iter().map(Ok), |writer, (key, value)| {
            writer.string(&key)?;
            writer.output.push(&writer.key)?;
            writer.value(&value)
        })
    }

    fn container<T>(
        &mut self,
        [open, close]: [char; 2],
        items: impl Iterator<Item = Result<T, Error>>,
        mut write: impl FnMut(&mut Writer, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(invalid(format!("tojson: more than {MAX_DEPTH} levels")));
        }
        self.write_char(open)?;
        self.depth += 1;
        let mut empty = true;
        for item in items {
            if !empty {
                self.output.push(&self.item)?;
            }
            empty = false;
            self.new_line()?;
            write(self, item?)?;
        }
        self.depth -= 1;
        if !empty {
            self.new_line()?;
        }
        self.write_char(close)
    }

    fn new_line(&mut self) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.output.push("\n")?;
        (0..self.depth).try_for_each(|_| self.output.push(indent))
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.write_char('"')?;
        for character in text.chars() {
            match character {
                '"' => self.write("\\\"")?,
                '\\' => self.write("\\\\")?,
                '\n' => self.write("\\n")?,
                '\r' => self.write("\\r")?,
                '\t' => self.write("\\t")?,
                '\u{8}' => self.write("\\b")?,
                '\u{c}' => self.write("\\f")?,
                '\0'..='\u{1f}' => self.escape(character)?,
                '\u{7f}'.. if self.ensure_ascii && character != '\u{7f}' => self.escape(character)?,
                _ => self.write_char(character)?,
            }
        }
        self.write_char('"')
    }

    /// As UTF-16, which is what JSON's escapes are.
    fn escape(&mut self, character: char) -> Result<(), Error> {
        character.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| self.write(&format!("\\u{unit:04x}")))
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.output.push(text)
    }

    fn write_char(&mut self, character: char) -> Result<(), Error> {
        self.output.push(character.encode_utf8(&mut [0; 4]))
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_string()),
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => number_text(key),
        kind => Err(invalid(format!("tojson: a key that is {kind} is not JSON"))),
    }
}

fn number_text(number: &Value) -> Result<String, Error> {
    if number.is_integer() {
        return Ok(number.to_string());
    }
    let value = f64::try_from(number.clone())?;
    Ok(match value {
        _ if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => float_text(value),
    })
}
