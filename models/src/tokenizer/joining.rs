//! Tokens to text as they come: never half a character, and together exactly what decoding all of them at once gives.

use std::mem;

use super::token_table::TokenPiece;

/// How a tokenizer's decoder makes text of its tokens' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining {
    pub(super) invalid: InvalidBytes,
    pub(super) start: Start,
}

impl Joining {
    /// The bytes of all tokens are one text, as in byte-level vocabularies.
    pub const BYTE_LEVEL: Joining = Joining { invalid: InvalidBytes::Beginning, start: Start::Keep };

    /// Tokens are text, but for byte tokens, of which a run is text as a whole, as in vocabularies with byte fallback.
    pub const BYTE_FALLBACK: Joining = Joining { invalid: InvalidBytes::Run, start: Start::Keep };
}

/// What becomes of bytes that are not UTF-8: a U+FFFD for each ...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvalidBytes {
    /// Longest beginning of a character. Characters may span any tokens (byte-level vocabularies).
    Beginning,
    /// Byte of a run of byte tokens that is not UTF-8 as a whole (tokenizer.json with byte fallback).
    Run,
    /// Byte that belongs to no character. Characters may span byte tokens (SentencePiece).
    Byte,
}

/// What is dropped where a text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing.
    Keep,
    /// That many spaces.
    Spaces(usize),
    /// Every U+2581 of the first token.
    SpacesOfFirstToken,
    /// The U+2581 that the first token begins with.
    SpaceOfFirstToken,
    /// The U+2581 that a token begins with, until there is text.
    SpaceOfEachToken,
}

/// What decoding puts in place of bytes that are no character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Longer runs of byte tokens are not looked at before their end: every token would look at all of the run.
const MAX_UNFINISHED_RUN: usize = 64;

/// One text so far: what of it is not shown yet.
#[derive(Clone, Debug)]
pub struct TextJoiner {
    invalid: InvalidBytes,
    start: Start,
    /// An incomplete character, or the run of byte tokens at the end.
    held: Vec<u8>,
}

impl TextJoiner {
    /// No text yet.
    pub fn new(joining: Joining) -> TextJoiner {
        TextJoiner { invalid: joining.invalid, start: joining.start, held: Vec::new() }
    }

    /// Adds a token. The text that is now certain is appended to `text`.
    pub fn push(&mut self, piece: TokenPiece<'_>, text: &mut String) {
        let in_run = piece.is_byte || self.invalid == InvalidBytes::Beginning;
        if !in_run {
            self.flush(text);
            self.show(&String::from_utf8_lossy(piece.bytes), piece.has_metaspace, text);
            return;
        }
        self.held.extend_from_slice(piece.bytes);
        if self.invalid != InvalidBytes::Run {
            self.show_held(false, text);
        }
    }

    /// Appends what is still held back, when no more is to come.
    pub fn flush(&mut self, text: &mut String) {
        match self.invalid {
            InvalidBytes::Run => {
                let run = mem::take(&mut self.held);
                let whole =
                    String::from_utf8(run).unwrap_or_else(|error| replacements(error.as_bytes().len()));
                self.show(&whole, false, text);
            }
            InvalidBytes::Beginning | InvalidBytes::Byte => self.show_held(true, text),
        }
    }

    /// What [`TextJoiner::flush`] would append, when a run of byte tokens is held back until its end. Not told of
    /// long runs.
    pub fn unfinished_run(&self) -> Option<String> {
        let in_run = self.invalid == InvalidBytes::Run && !self.held.is_empty();
        if !in_run || self.held.len() > MAX_UNFINISHED_RUN {
            return None;
        }
        let mut text = String::new();
        self.clone().flush(&mut text);
        Some(text)
    }

    /// Shows the characters held, and, when nothing follows, what is left of one.
    fn show_held(&mut self, nothing_follows: bool, text: &mut String) {
        let held = mem::take(&mut self.held);
        let mut rest = &held[..];
        while let Err(error) = str::from_utf8(rest) {
            let (valid, broken) = rest.split_at(error.valid_up_to());
            self.show(&String::from_utf8_lossy(valid), false, text);
            rest = broken;
            let unfit = match (error.error_len(), self.invalid) {
                (None, _) if !nothing_follows => break,
                (_, InvalidBytes::Byte) => 1,
                (bytes, _) => bytes.unwrap_or(broken.len()),
            };
            self.show(REPLACEMENT.encode_utf8(&mut [0; 4]), false, text);
            rest = &rest[unfit..];
        }
        if let Ok(valid) = str::from_utf8(rest) {
            self.show(valid, false, text);
            rest = &[];
        }
        self.held.extend_from_slice(rest);
    }

    /// Appends `new`, without what the beginning of a text drops.
    fn show(&mut self, new: &str, has_metaspace: bool, text: &mut String) {
        if new.is_empty() || self.start == Start::Keep {
            text.push_str(new);
            return;
        }
        let without_space = if has_metaspace { new.strip_prefix(' ').unwrap_or(new) } else { new };
        let start = mem::replace(&mut self.start, Start::Keep);
        match start {
            Start::Keep => text.push_str(new),
            Start::Spaces(count) => {
                let spaces = new.bytes().take(count).take_while(|&byte| byte == b' ').count();
                if spaces == new.len() {
                    self.start = Start::Spaces(count - spaces);
                }
                text.push_str(&new[spaces..]);
            }
            Start::SpacesOfFirstToken if has_metaspace => text.extend(new.split(' ')),
            Start::SpacesOfFirstToken => text.push_str(new),
            Start::SpaceOfFirstToken => text.push_str(without_space),
            Start::SpaceOfEachToken => {
                if without_space.is_empty() {
                    self.start = start;
                }
                text.push_str(without_space);
            }
        }
    }
}

fn replacements(count: usize) -> String {
    REPLACEMENT.to_string().repeat(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8], is_byte: bool) -> TokenPiece<'_> {
        TokenPiece { bytes, is_byte, is_special: false, has_metaspace: !is_byte }
    }

    /// Feeds bytes and words; a word is text of more than one byte, or one that begins with `#`.
    fn feed(invalid: InvalidBytes, start: Start, tokens: &[&[u8]]) -> Vec<String> {
        let mut joiner = TextJoiner::new(Joining { invalid, start });
        let push = |&token: &&[u8]| {
            let mut text = String::new();
            let is_byte = token.len() == 1 && invalid != InvalidBytes::Beginning;
            joiner.push(piece(token, is_byte), &mut text);
            text
        };
        let mut texts: Vec<String> = tokens.iter().map(push).collect();
        let mut last = String::new();
        joiner.flush(&mut last);
        texts.push(last);
        texts
    }

    fn bytes(text: &[u8]) -> Vec<&[u8]> {
        text.chunks(1).collect()
    }

    #[test]
    fn an_incomplete_character_waits_for_its_end() {
        let feed = |text| feed(InvalidBytes::Beginning, Start::Keep, &bytes(text));
        assert_eq!(feed("a😀b".as_bytes()), ["a", "", "", "", "😀", "b", ""]);
        assert_eq!(feed(b"\xe6\xa8"), ["", "", "\u{FFFD}"]);
        assert_eq!(feed(b"\xe6a\xff\xff"), ["", "\u{FFFD}a", "\u{FFFD}", "\u{FFFD}", ""]);
    }

    #[test]
    fn a_run_of_bytes_is_text_only_as_a_whole() {
        let feed = |tokens: &[&[u8]]| feed(InvalidBytes::Run, Start::Keep, tokens);
        assert_eq!(feed(&[b"\xe9", b"\x80", b"\x9f", b" w"]), ["", "", "", "速 w", ""]);
        assert_eq!(feed(&[b"a", b"\xff", b" w"]), ["", "", "\u{FFFD}\u{FFFD} w", ""]);
        assert_eq!(feed(&[b"a", b"b"]), ["", "", "ab"]);
    }

    #[test]
    fn an_unfinished_run_can_be_looked_at() {
        let joining = Joining { invalid: InvalidBytes::Run, start: Start::Spaces(1) };
        let mut joiner = TextJoiner::new(joining);
        let mut text = String::new();
        for (byte, expected) in
            [(b' ', Some("")), (b'\n', Some("\n")), (0xff, Some("\u{FFFD}\u{FFFD}\u{FFFD}"))]
        {
            joiner.push(piece(&[byte], true), &mut text);
            assert_eq!(joiner.unfinished_run().as_deref(), expected);
        }
        joiner.push(piece(b"word", false), &mut text);
        assert_eq!((joiner.unfinished_run(), text.as_str()), (None, "\u{FFFD}\u{FFFD}\u{FFFD}word"));
    }

    #[test]
    fn each_byte_of_no_character_is_replaced() {
        let feed = |tokens: &[&[u8]]| feed(InvalidBytes::Byte, Start::Keep, tokens).concat();
        assert_eq!(feed(&bytes("速".as_bytes())), "速");
        assert_eq!(feed(&[b"\xe9", b"\x80", b"word"]), "\u{FFFD}\u{FFFD}word");
        assert_eq!(feed(&[b"\xe9", b"a", b"\x80"]), "\u{FFFD}a\u{FFFD}");
    }

    #[test]
    fn spaces_at_the_beginning() {
        let cases: [(Start, &str); 5] = [
            (Start::Keep, "    a b"),
            (Start::Spaces(1), "   a b"),
            (Start::SpacesOfFirstToken, "  a b"),
            (Start::SpaceOfFirstToken, "   a b"),
            (Start::SpaceOfEachToken, "   a b"),
        ];
        for (start, expected) in cases {
            let text = feed(InvalidBytes::Run, start, &[b"  ", b"  a", b" b"]).concat();
            assert_eq!(text, expected, "{start:?}");
        }
        assert_eq!(feed(InvalidBytes::Run, Start::Spaces(3), &[b"  ", b"  a"]).concat(), " a");
        assert_eq!(feed(InvalidBytes::Byte, Start::SpaceOfFirstToken, &[b" ", b" a"]).concat(), "  a");
    }
    #[test]
    fn an_added_token_keeps_its_spaces() {
        for start in [Start::SpacesOfFirstToken, Start::SpaceOfFirstToken, Start::SpaceOfEachToken] {
            let mut joiner = TextJoiner::new(Joining { invalid: InvalidBytes::Run, start });
            let mut text = String::new();
            joiner.push(TokenPiece { has_metaspace: false, ..piece(b" <gap>", false) }, &mut text);
            joiner.push(piece(b" a", false), &mut text);
            assert_eq!(text, " <gap> a", "{start:?}");
        }
    }
}
