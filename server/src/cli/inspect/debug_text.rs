//! The text of `{:?}` as a value: how a spec is printed with all of its switches, those of tomorrow too.
//!
//! Structs are objects; an enum's variant is a text, or an object of one key where it holds data. As Debug does not
//! tell a struct from such a variant, the names that end in `Spec`, as the structs' do, are left out.

use serde_json::{Map, Number, Value};

/// The value whose derived Debug text `text` is; the text itself if it is of no such form.
pub fn parse(text: &str) -> Value {
    let mut parser = Parser { rest: text };
    match parser.value() {
        Some(value) if parser.rest.is_empty() => value,
        _ => text.into(),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self) -> Option<Value> {
        match self.rest.chars().next()? {
            '[' => Some(Value::Array(self.items('[', ']', Parser::value)?)),
            '"' => self.text(),
            _ => self.word(),
        }
    }

    /// A name and what it holds, or a number.
    fn word(&mut self) -> Option<Value> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if let Some(rest) = rest.strip_prefix(" {") {
            self.rest = rest;
            let fields = self.items_until('}', Parser::field)?.into_iter().collect::<Map<_, _>>();
            return Some(if word.ends_with("Spec") { fields.into() } else { tagged(word, fields.into()) });
        }
        if rest.starts_with('(') {
            let mut held = self.items('(', ')', Parser::value)?;
            let held = if held.len() == 1 { held.remove(0) } else { held.into() };
            return Some(if word == "Some" { held } else { tagged(word, held) });
        }
        match word {
            "" => None,
            "None" => Some(Value::Null),
            "true" | "false" => Some((word == "true").into()),
            word => Some(number(word).unwrap_or_else(|| word.into())),
        }
    }

    fn field(&mut self) -> Option<(String, Value)> {
        let (name, rest) = self.rest.split_once(": ")?;
        self.rest = rest;
        Some((name.into(), self.value()?))
    }

    fn text(&mut self) -> Option<Value> {
        let mut texts = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = texts.next()?.ok()?;
        self.rest = &self.rest[texts.byte_offset()..];
        Some(text.into())
    }

    fn items<T>(&mut self, open: char, close: char, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.rest = self.rest.strip_prefix(open)?;
        self.items_until(close, item)
    }

    fn items_until<T>(&mut self, close: char, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches([' ', ',']);
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Some(items);
            }
            items.push(item(self)?);
        }
    }
}

fn tagged(name: &str, held: Value) -> Value {
    Map::from_iter([(name.to_string(), held)]).into()
}

fn number(word: &str) -> Option<Value> {
    if let Ok(integer) = word.parse::<i64>() {
        return Some(integer.into());
    }
    Number::from_f64(word.parse().ok()?).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    struct OuterSpec {
        size: usize,
        eps: f32,
        names: [&'static str; 2],
        mask: Mask,
        other: Mask,
        none: Option<u8>,
        some: Option<InnerSpec>,
        held: Held,
        endless: f64,
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    struct InnerSpec {
        on: bool,
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    enum Mask {
        Full,
        Sliding { window: usize },
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "printed only")]
    enum Held {
        Moe(InnerSpec),
    }

    #[test]
    fn every_form_of_debug() {
        let outer = OuterSpec {
            size: 7,
            eps: 1e-6,
            names: ["a \"b\"", ""],
            mask: Mask::Full,
            other: Mask::Sliding { window: 12 },
            none: None,
            some: Some(InnerSpec { on: true }),
            held: Held::Moe(InnerSpec { on: false }),
            endless: f64::INFINITY,
        };
        let expected = json!({
            "size": 7, "eps": 1e-6, "names": ["a \"b\"", ""], "mask": "Full", "other": {"Sliding": {"window": 12}},
            "none": null, "some": {"on": true}, "held": {"Moe": {"on": false}}, "endless": "inf",
        });
        assert_eq!(parse(&format!("{outer:?}")), expected);
        assert_eq!(parse("[1, 2.5]"), json!([1, 2.5]));
        assert_eq!(parse("broken {"), json!("broken {"));
    }
}
