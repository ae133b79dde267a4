//! Filters of texts.

use minijinja::{Environment, Error, ErrorKind, State, Value, filters, value::ValueKind};
use minijinja_contrib::filters::striptags as decode_entity;

use super::{
    super::{
        arguments::{Args, bind_filter, integer, invalid, required, text_of, truth},
        fuel::{BoundedText, byte_budget},
        print::to_text,
        text::{self, Side, is_space, lines, pad, strip},
    },
    wordwrap::wordwrap,
};

pub(super) fn add(environment: &mut Environment) {
    environment.add_filter("center", center);
    environment.add_filter("indent", indent);
    environment.add_filter("replace", replace);
    environment.add_filter("striptags", striptags);
    environment.add_filter("trim", trim);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("wordwrap", wordwrap);
}

fn center(state: &State, args: Args) -> Result<Value, Error> {
    let (value, [width]) = bind_filter("center", ["width"], args)?;
    pad(state, &to_text(state, &value)?, integer(width, 80)?, ' ', None)
}

fn indent(state: &State, args: Args) -> Result<String, Error> {
    let (value, [width, first, blank]) = bind_filter("indent", ["width", "first", "blank"], args)?;
    let text =
        value.as_str().ok_or_else(|| invalid(format!("indent: needs a text, not {}", value.kind())))?;
    let mut output = BoundedText { text: String::new(), limit: byte_budget(state) };
    let indention = match width {
        Some(width) if width.as_str().is_some() => to_text(state, &width)?,
        width => {
            let width = usize::try_from(integer(width, 4)?).unwrap_or(0);
            if width > output.limit {
                return Err(ErrorKind::OutOfFuel.into());
            }
            " ".repeat(width)
        }
    };
    let (first, blank) = (truth(first), truth(blank));
    // Python splits the text with a line end more, so that one at its end begins another line.
    let ended = text.is_empty() || lines(text).last().is_some_and(|(_, end)| !end.is_empty());
    let all = lines(text).map(|(line, _)| line).chain(ended.then_some(""));
    for (index, line) in all.enumerate() {
        if index > 0 {
            output.push("\n")?;
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            output.push(&indention)?;
        }
        output.push(line)?;
    }
    Ok(output.text)
}

fn replace(state: &State, args: Args) -> Result<Value, Error> {
    let (value, [old, new, count]) = bind_filter("replace", ["old", "new", "count"], args)?;
    let [value, old, new] = [
        to_text(state, &value)?,
        to_text(state, &required("replace", "old", old)?)?,
        to_text(state, &required("replace", "new", new)?)?,
    ];
    let count = count.filter(|count| !count.is_none()).map(i64::try_from).transpose()?;
    text::replace(state, &value, &old, &new, count.and_then(|count| usize::try_from(count).ok()))
}

fn striptags(state: &State, value: &Value) -> Result<String, Error> {
    let text = to_text(state, value)?;
    let (mut rest, mut output) = (text.as_str(), String::new());
    while let Some(start) = rest.find('<') {
        let closing = if rest[start..].starts_with("<!--") { "-->" } else { ">" };
        let behind = if closing == ">" { start } else { start + 4 };
        let Some(end) = rest[behind..].find(closing) else { break };
        output.push_str(&rest[..start]);
        rest = &rest[behind + end + closing.len()..];
    }
    output.push_str(rest);
    let words: Vec<&str> = output.split(is_space).filter(|word| !word.is_empty()).collect();
    Ok(unescape(&words.join(" ")))
}

/// Replaces the named and numbered characters of HTML.
fn unescape(text: &str) -> String {
    const LONGEST: usize = 32;
    let (mut rest, mut output) = (text, String::new());
    while let Some(at) = rest.find('&') {
        output.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST).position(|byte| byte == b';').map_or(1, |end| end + 1);
        output.push_str(&decode_entity(rest[..end].to_string()));
        rest = &rest[end..];
    }
    output + rest
}

fn trim(state: &State, args: Args) -> Result<String, Error> {
    let (value, [chars]) = bind_filter("trim", ["chars"], args)?;
    let chars = chars.filter(|chars| !chars.is_none());
    let chars = chars.as_ref().map(|chars| text_of("trim", chars)).transpose()?;
    Ok(strip(&to_text(state, &value)?, chars, Side::Both).to_string())
}

fn truncate(args: Args) -> Result<String, Error> {
    let (value, [length, killwords, end, leeway]) =
        bind_filter("truncate", ["length", "killwords", "end", "leeway"], args)?;
    let text = text_of("truncate", &value)?;
    let end = end.unwrap_or_else(|| "...".into());
    let end = text_of("truncate", &end)?;
    let leeway = integer(leeway.filter(|leeway| !leeway.is_none()), 5)?;
    let kept = integer(length, 255)?.checked_sub(end.chars().count() as i64);
    let (Some(kept), Ok(leeway)) =
        (kept.and_then(|kept| usize::try_from(kept).ok()), usize::try_from(leeway))
    else {
        return Err(invalid("truncate: the length must hold the end, and the leeway must not be negative"));
    };
    let longest = kept.saturating_add(end.chars().count()).saturating_add(leeway);
    if text.chars().nth(longest).is_none() {
        return Ok(text.to_string());
    }
    let kept = text.char_indices().nth(kept).map_or(text, |(at, _)| &text[..at]);
    let kept = if truth(killwords) { kept } else { kept.rsplit_once(' ').map_or(kept, |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    let mut output = BoundedText { text: String::new(), limit: byte_budget(state) };
    let pairs = match value.kind() {
        ValueKind::Map => filters::items(value)?,
        ValueKind::Seq | ValueKind::Iterable => value.clone(),
        _ => {
            quote(&mut output, &to_text(state, value)?, "/")?;
            return Ok(output.text);
        }
    };
    for (index, pair) in pairs.try_iter()?.checked().enumerate() {
        state.consume_fuel(1)?;
        let pair = pair?;
        if index > 0 {
            output.push("&")?;
        }
        quote(&mut output, &to_text(state, &pair.get_item_by_index(0)?)?, "+")?;
        output.push("=")?;
        quote(&mut output, &to_text(state, &pair.get_item_by_index(1)?)?, "+")?;
    }
    Ok(output.text)
}

/// Percent-encodes; in a query, told by `kept`, spaces become `+`.
fn quote(output: &mut BoundedText, text: &str, kept: &str) -> Result<(), Error> {
    for byte in text.bytes() {
        match byte {
            b' ' if kept == "+" => output.push("+")?,
            b'/' if kept == "/" => output.push("/")?,
            b'_' | b'.' | b'-' | b'~' => output.push(&char::from(byte).to_string())?,
            _ if byte.is_ascii_alphanumeric() => output.push(&char::from(byte).to_string())?,
            _ => output.push(&format!("%{byte:02X}"))?,
        }
    }
    Ok(())
}

fn wordcount(state: &State, value: &Value) -> Result<usize, Error> {
    let text = to_text(state, value)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    Ok(words.filter(|word| !word.is_empty()).count())
}
