//! White space and line ends as Python has them.

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
