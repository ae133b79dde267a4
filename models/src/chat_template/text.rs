//! Texts as Python has them: white space, line ends, and what filters and methods alike make of them, bounded by the
//! fuel.

use minijinja::{Error, State, Value};

use super::{
    fuel::{BoundedText, byte_budget, check_size},
    print::to_text,
};

/// Rust's white space, and four separators that only Python counts.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The lines of a text, each with its end. As `str.splitlines`: there is none behind the last line end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(is_line_end).unwrap_or(rest.len());
        let (line, after) = rest.split_at(at);
        let length =
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        let (end, after) = after.split_at(length);
        rest = after;
        Some((line, end))
    })
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\n' | '\x0b' | '\x0c' | '\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Where a text is stripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// `str.strip` and its kin: of white space, or of given characters.
pub(super) fn strip<'a>(text: &'a str, characters: Option<&str>, side: Side) -> &'a str {
    let stripped = |character: char| characters.map_or(is_space(character), |set| set.contains(character));
    let text = if side == Side::Right { text } else { text.trim_start_matches(stripped) };
    if side == Side::Left { text } else { text.trim_end_matches(stripped) }
}

/// Fills a text up to a width: behind it when it stands left, before it when right, else around it.
pub(super) fn pad(
    state: &State,
    text: &str,
    width: i64,
    fill: char,
    side: Option<Side>,
) -> Result<Value, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    let padding = width.saturating_sub(text.chars().count());
    check_size(state, padding.saturating_mul(fill.len_utf8()).saturating_add(text.len()))?;
    let before = match side {
        Some(Side::Left) => 0,
        Some(_) => padding,
        None => padding / 2 + (padding & width & 1),
    };
    let mut padded: String = std::iter::repeat_n(fill, before).collect();
    padded.push_str(text);
    padded.extend(std::iter::repeat_n(fill, padding - before));
    Ok(padded.into())
}

/// `str.replace`, of the first `count` or all.
pub(super) fn replace(
    state: &State,
    text: &str,
    old: &str,
    new: &str,
    count: Option<usize>,
) -> Result<Value, Error> {
    // An empty text is found between all characters.
    let found = if old.is_empty() { text.len() + 1 } else { text.matches(old).count() };
    let found = found.min(count.unwrap_or(usize::MAX));
    state.consume_fuel(found as u64 / 8)?;
    check_size(state, found.saturating_mul(new.len()).saturating_add(text.len()))?;
    Ok(count.map_or_else(|| text.replace(old, new), |count| text.replacen(old, new, count)).into())
}

/// Joins the texts of `items`.
pub(super) fn join(
    state: &State,
    separator: &str,
    items: impl Iterator<Item = Result<Value, Error>>,
) -> Result<Value, Error> {
    let mut joined = BoundedText { text: String::new(), limit: byte_budget(state) };
    for (index, item) in items.enumerate() {
        state.consume_fuel(1)?;
        if index > 0 {
            joined.push(separator)?;
        }
        let item = item?;
        match item.as_str() {
            Some(text) => joined.push(text)?,
            None => joined.push(&to_text(state, &item)?)?,
        }
    }
    Ok(joined.text.into())
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn lines_end_as_in_python() {
        let all = |text| lines(text).map(|(line, end)| (line, end.len())).collect::<Vec<_>>();
        assert_eq!(all("a\r\nb\n\rc"), [("a", 2), ("b", 1), ("", 1), ("c", 0)]);
        assert_eq!(all("a\u{2028}"), [("a", 3)]);
        assert_eq!(all(""), []);
    }
}
