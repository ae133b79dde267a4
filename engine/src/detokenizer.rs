//! Text as its tokens come: never half a character, and together exactly what decoding all tokens at once gives.
//!
//! A token's text depends on its neighbours: a character may span tokens, and a leading space may be dropped at
//! the beginning. So a window is decoded that starts with tokens whose text was shown already, and what lies
//! behind that text is new. The cost of a token does not grow with the output.

/// Turns tokens to text: a tokenizer, as the detokenizer needs it.
pub(crate) trait TokenDecoder: Send + Sync {
    /// The text of all of `ids`.
    ///
    /// # Errors
    /// The tokenizer's, as text.
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String>;

    /// The token adds no text and changes no other token's: it is skipped, or the tokenizer does not know it.
    fn is_silent(&self, id: u32, skip_special_tokens: bool) -> bool;

    /// The token is a single byte, as byte fallback spells what the vocabulary lacks. A run of them is text only
    /// if all of its bytes together are UTF-8, which is known at its end.
    fn is_byte(&self, id: u32) -> bool;
}

/// What decoding puts in place of an incomplete or invalid character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
/// With invalid text the window cannot start anew behind whole characters: it is cut when it has this many tokens.
const MAX_WINDOW: usize = 32;
/// A token has at least a byte and a character at most four: behind this many tokens a cut leaves no trace.
const KEPT_WINDOW: usize = 8;

/// One choice's text so far.
#[derive(Debug)]
pub(crate) struct Detokenizer {
    skip_special_tokens: bool,
    /// The last tokens that have text.
    window: Vec<u32>,
    /// `window[..context]` was shown completely.
    context: usize,
    /// Bytes of the window's text that were shown.
    shown: usize,
}

impl Detokenizer {
    /// No text yet.
    pub fn new(skip_special_tokens: bool) -> Detokenizer {
        Detokenizer { skip_special_tokens, window: Vec::new(), context: 0, shown: 0 }
    }

    /// Adds a token; returns the text that is now certain.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn push(&mut self, id: u32, decoder: &dyn TokenDecoder) -> Result<String, String> {
        if decoder.is_silent(id, self.skip_special_tokens) {
            return Ok(String::new());
        }
        self.window.push(id);
        if decoder.is_byte(id) {
            return Ok(String::new());
        }
        let text = decoder.decode(&self.window, self.skip_special_tokens)?;
        let certain = without_incomplete_end(&text);
        let new = self.show(certain);
        if certain.len() == text.len() {
            self.start_window_at(self.context, decoder)?;
        } else if self.window.len() > MAX_WINDOW {
            self.start_window_at(self.window.len() - KEPT_WINDOW, decoder)?;
        }
        Ok(new)
    }

    /// What would be new text if a run of byte tokens, held back until its end, had ended here. Not told of long runs,
    /// which would be decoded again with every token.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn unfinished_run(&self, decoder: &dyn TokenDecoder) -> Result<Option<String>, String> {
        let in_run = self.window.last().is_some_and(|&id| decoder.is_byte(id));
        if !in_run || self.window.len() > MAX_WINDOW {
            return Ok(None);
        }
        let text = decoder.decode(&self.window, self.skip_special_tokens)?;
        Ok(text.get(self.shown..).map(Into::into))
    }

    /// The text still held back, when no more tokens are to come.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn flush(&mut self, decoder: &dyn TokenDecoder) -> Result<String, String> {
        if self.window.len() == self.context {
            return Ok(String::new());
        }
        let text = decoder.decode(&self.window, self.skip_special_tokens)?;
        Ok(self.show(&text))
    }

    /// Shows the window's text up to where it is certain.
    fn show(&mut self, certain: &str) -> String {
        let new = certain.get(self.shown..).unwrap_or_default().to_string();
        self.shown = self.shown.max(certain.len());
        new
    }

    /// Forgets the window's first tokens. All that is certain of the rest was shown.
    fn start_window_at(&mut self, start: usize, decoder: &dyn TokenDecoder) -> Result<(), String> {
        self.window.drain(..start);
        let text = decoder.decode(&self.window, self.skip_special_tokens)?;
        self.shown = without_incomplete_end(&text).len();
        self.context = if self.shown == text.len() { self.window.len() } else { 0 };
        Ok(())
    }
}

/// `text` without a last replacement character, which may yet become another. Those before it are certain.
fn without_incomplete_end(text: &str) -> &str {
    text.strip_suffix(REPLACEMENT).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SplitMix64;

    /// Tokens are byte strings; text is their concatenation, as in byte-level BPE. The last token is special.
    struct ByteLevel(Vec<Vec<u8>>);

    impl ByteLevel {
        /// Every byte, then whole and cut words, then a special token.
        fn new() -> ByteLevel {
            let words = ["mosu ", " is", "模", "速", "😀", "é", "a\u{FFFD}"];
            let cut = [&[0xe6, 0xa8][..], &[0xa1, 0xe9], &[0x9f, 0x98, 0x80, 0x21], &[0xf0, 0x9f], b"<end>"];
            let bytes = (0..=255u8).map(|byte| vec![byte]);
            let words = words.iter().map(|word| word.as_bytes().to_vec());
            ByteLevel(bytes.chain(words).chain(cut.iter().map(|part| part.to_vec())).collect())
        }
    }

    impl TokenDecoder for ByteLevel {
        fn decode(&self, ids: &[u32], skip: bool) -> Result<String, String> {
            let ids = ids.iter().filter(|&&id| !self.is_silent(id, skip));
            let bytes: Vec<u8> = ids.flat_map(|&id| self.0[id as usize].clone()).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        fn is_silent(&self, id: u32, skip: bool) -> bool {
            let last = self.0.len() - 1;
            id as usize > last || (skip && id as usize == last)
        }
        fn is_byte(&self, _: u32) -> bool {
            false
        }
    }

    /// Tokens 0 to 255 are single bytes of which a run is text only as a whole; the others words with a leading
    /// space, which the beginning drops: the rules of SentencePiece with byte fallback.
    struct ByteFallback;

    impl TokenDecoder for ByteFallback {
        fn decode(&self, ids: &[u32], _: bool) -> Result<String, String> {
            let mut text = String::new();
            for run in ids.chunk_by(|&a, &b| self.is_byte(a) && self.is_byte(b)) {
                let bytes: Vec<u8> = run.iter().map(|&id| id as u8).collect();
                match run[0] {
                    0..=255 => match String::from_utf8(bytes) {
                        Ok(run) => text += &run,
                        Err(_) => text.extend(run.iter().map(|_| REPLACEMENT)),
                    },
                    256 => text += " ",
                    word => text += &format!(" w{word}"),
                }
            }
            Ok(text.strip_prefix(' ').unwrap_or(&text).to_string())
        }
        fn is_silent(&self, _: u32, _: bool) -> bool {
            false
        }
        fn is_byte(&self, id: u32) -> bool {
            id < 256
        }
    }

    fn feed(decoder: &dyn TokenDecoder, skip: bool, ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(skip);
        let mut texts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id, decoder).unwrap()).collect();
        texts.push(detokenizer.flush(decoder).unwrap());
        texts
    }

    #[test]
    fn holds_an_incomplete_character_and_shows_the_text_before_it() {
        let bytes = |text: &[u8]| text.iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
        let texts = feed(&ByteLevel::new(), true, &bytes("a😀b".as_bytes()));
        assert_eq!(texts, ["a", "", "", "", "😀", "b", ""]);
        let texts = feed(&ByteLevel::new(), true, &bytes(b"\xe6\xa8"));
        assert_eq!(texts, ["", "", "\u{FFFD}"]);
        let texts = feed(&ByteLevel::new(), true, &bytes(b"\xffa\xff\xff"));
        assert_eq!(texts, ["", "\u{FFFD}a", "", "\u{FFFD}", "\u{FFFD}"]);
    }

    #[test]
    fn special_and_unknown_tokens_have_no_text() {
        let decoder = ByteLevel::new();
        let special = decoder.0.len() as u32 - 1;
        assert_eq!(feed(&decoder, true, &[97, special, special + 1, 98]).concat(), "ab");
        assert_eq!(feed(&decoder, false, &[97, special, special + 1, 98]).concat(), "a<end>b");
    }

    #[test]
    fn a_run_of_byte_tokens_waits_for_its_end() {
        let run: Vec<u32> = "速".bytes().map(u32::from).collect();
        assert_eq!(feed(&ByteFallback, true, &[&run[..], &[300]].concat()), ["", "", "", "速 w300", ""]);
        assert_eq!(feed(&ByteFallback, true, &run).concat(), "速");
        let bad = [&run[..], &[0xff, 300]].concat();
        assert_eq!(feed(&ByteFallback, true, &bad).concat(), "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD} w300");
    }

    #[test]
    fn an_unfinished_run_can_be_looked_at() {
        let mut detokenizer = Detokenizer::new(true);
        for (id, expected) in [(300, None), (0x0a, Some("\n")), (0xff, Some("\u{FFFD}\u{FFFD}")), (300, None)]
        {
            detokenizer.push(id, &ByteFallback).unwrap();
            assert_eq!(detokenizer.unfinished_run(&ByteFallback).unwrap().as_deref(), expected);
        }
    }

    #[test]
    fn a_leading_space_is_dropped_once() {
        assert_eq!(
            feed(&ByteFallback, true, &[300, 256, 301, 256, 302]),
            ["w300", " ", " w301", " ", " w302", ""]
        );
        assert_eq!(feed(&ByteFallback, true, &[256, 300]).concat(), " w300");
    }

    /// Random tokens, most of them invalid text; runs of bytes that are rare, frequent and endless.
    #[test]
    fn joined_chunks_are_the_text_of_all_tokens() {
        let byte_level = ByteLevel::new();
        let mut random = SplitMix64(3);
        for round in 0..30_000u64 {
            let (decoder, vocab): (&dyn TokenDecoder, u64) =
                if round % 2 == 0 { (&byte_level, byte_level.0.len() as u64) } else { (&ByteFallback, 300) };
            let (low, len) = ([0, 128, 240][round as usize / 2 % 3], 1 + random.next() % 60);
            let ids: Vec<u32> = (0..len).map(|_| (low + random.next() % (vocab - low)) as u32).collect();
            let skip = round % 4 < 2;
            let all = decoder.decode(&ids, skip).unwrap();
            assert_eq!(feed(decoder, skip, &ids).concat(), all, "{ids:?}");
        }
    }

    #[test]
    fn the_window_stays_small() {
        let mut detokenizer = Detokenizer::new(true);
        let decoder = ByteLevel::new();
        for id in [0xff, 0x80, 97].into_iter().cycle().take(500).chain([0x80; 500]) {
            detokenizer.push(id, &decoder).unwrap();
            assert!(detokenizer.window.len() <= MAX_WINDOW, "{} tokens", detokenizer.window.len());
        }
    }
}
