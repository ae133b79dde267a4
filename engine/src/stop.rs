//! Stop strings, found wherever token borders fall.

use std::mem;

/// One stop string and how much of it the text so far ends with (Knuth, Morris and Pratt 1977).
#[derive(Debug)]
struct Pattern {
    text: String,
    /// `[len]` for each prefix, the longest shorter prefix that it ends with.
    fallback: Vec<usize>,
    /// Bytes of `text` that the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let bytes = text.as_bytes();
        let mut fallback = vec![0; bytes.len()];
        let mut matched = 0;
        for index in 1..bytes.len() {
            while matched > 0 && bytes[index] != bytes[matched] {
                matched = fallback[matched - 1];
            }
            matched += usize::from(bytes[index] == bytes[matched]);
            fallback[index] = matched;
        }
        Pattern { text: text.into(), fallback, matched: 0 }
    }

    /// What `matched` becomes with one more byte of text. The whole pattern must not be matched yet.
    fn extend(&self, mut matched: usize, byte: u8) -> usize {
        let pattern = self.text.as_bytes();
        while matched > 0 && pattern[matched] != byte {
            matched = self.fallback[matched - 1];
        }
        matched + usize::from(pattern[matched] == byte)
    }

    /// Reads one byte of text. True when the whole pattern is there.
    fn read(&mut self, byte: u8) -> bool {
        self.matched = self.extend(self.matched, byte);
        self.matched == self.text.len()
    }

    /// Whether the whole pattern would be there after more text.
    fn would_match(&self, text: &str) -> bool {
        let mut matched = self.matched;
        text.bytes().any(|byte| {
            matched = self.extend(matched, byte);
            matched == self.text.len()
        })
    }
}

/// Watches a choice's text for stop strings. It holds back text that may be a stop string's beginning.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    patterns: Vec<Pattern>,
    include: bool,
    held: String,
}

impl StopMatcher {
    /// Looks for non-empty `strings`; `include` keeps the one found in the text.
    pub fn new(strings: &[String], include: bool) -> StopMatcher {
        let patterns = strings.iter().map(|text| Pattern::new(text)).collect();
        StopMatcher { patterns, include, held: String::new() }
    }

    /// There is something to look for.
    pub fn is_needed(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether [`StopMatcher::push`] would find a stop string in `text`.
    pub fn would_find(&self, text: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.would_match(text))
    }

    /// Adds text. Returns what is now certain, and the stop string that ended it: the one complete first, and
    /// of several that end at the same place the longest. After one is found the matcher is done.
    pub fn push(&mut self, text: String) -> (String, Option<String>) {
        if self.patterns.is_empty() || text.is_empty() {
            return (text, None);
        }
        let offset = self.held.len();
        let mut pending = mem::take(&mut self.held) + &text;
        for (index, &byte) in text.as_bytes().iter().enumerate() {
            let complete =
                self.patterns.iter_mut().filter_map(|pattern| pattern.read(byte).then_some(&pattern.text));
            if let Some(found) = complete.max_by_key(|found| found.len()) {
                let end = offset + index + 1;
                pending.truncate(if self.include { end } else { end - found.len() });
                return (pending, Some(found.clone()));
            }
        }
        let held = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        // A stop string begins where a character does, and so does what is held.
        self.held = pending.split_off(pending.len() - held);
        (pending, None)
    }

    /// The text held back, when no more is to come.
    pub fn flush(&mut self) -> String {
        mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SplitMix64;

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(ToString::to_string).collect()
    }

    /// Each push's text and at the end the flush, and the stop string found.
    fn feed(stops: &[&str], include: bool, chunks: &[&str]) -> (Vec<String>, Option<String>) {
        let mut matcher = StopMatcher::new(&strings(stops), include);
        let mut texts = Vec::new();
        for chunk in chunks {
            let (text, found) = matcher.push(chunk.to_string());
            texts.push(text);
            if found.is_some() {
                return (texts, found);
            }
        }
        texts.push(matcher.flush());
        (texts, None)
    }

    #[test]
    fn finds_a_stop_string_over_three_chunks() {
        let found = Some("</end>".to_string());
        assert_eq!(
            feed(&["</end>"], false, &["a<", "/en", "d> b"]),
            (strings(&["a", "", ""]), found.clone())
        );
        assert_eq!(feed(&["</end>"], true, &["a<", "/en", "d> b"]), (strings(&["a", "", "</end>"]), found));
    }

    #[test]
    fn holds_back_only_a_possible_beginning() {
        assert_eq!(
            feed(&["stop"], false, &["ss", "st", "x", "sto"]).0,
            strings(&["s", "s", "stx", "", "sto"])
        );
        assert_eq!(feed(&["aab"], false, &["aaa", "ab!"]), (strings(&["a", "a"]), Some("aab".into())));
        assert_eq!(feed(&[], false, &["any", ""]).0, strings(&["any", "", ""]));
    }

    #[test]
    fn the_first_complete_stop_string_wins_then_the_longest() {
        assert_eq!(feed(&["abcd", "bc"], false, &["abcd"]), (strings(&["a"]), Some("bc".into())));
        assert_eq!(feed(&["c", "bc"], false, &["abcd"]), (strings(&["a"]), Some("bc".into())));
    }

    #[test]
    fn looking_ahead_changes_nothing() {
        let mut matcher = StopMatcher::new(&strings(&["aab"]), false);
        assert_eq!(matcher.push("xaa".into()), ("x".into(), None));
        for _ in 0..2 {
            assert!(matcher.would_find("ab"));
            assert!(!matcher.would_find("ca"));
        }
        assert_eq!(matcher.push("b".into()), (String::new(), Some("aab".into())));
    }

    #[test]
    fn characters_stay_whole() {
        assert_eq!(feed(&["模速"], false, &["速模", "模速"]), (strings(&["速", "模"]), Some("模速".into())));
        // 樣 and 模 share their first two bytes.
        assert_eq!(feed(&["模"], false, &["樣", "木"]).0, strings(&["樣", "木", ""]));
    }

    /// Any way to cut a text gives the same result, which a plain search confirms.
    #[test]
    fn equals_a_search_of_the_whole_text_however_it_is_cut() {
        let mut random = SplitMix64(7);
        let mut word = |len: u64| -> String {
            (0..1 + random.next() % len).map(|_| ['a', 'b', 'é'][random.next() as usize % 3]).collect()
        };
        for _ in 0..2000 {
            let (text, stops) = (word(24), [word(4), word(4)]);
            let stops = [stops[0].as_str(), &stops[1]];
            let chunks: Vec<String> = text.chars().map(String::from).collect();
            let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
            let (pieces, found) = feed(&stops, false, &chunks);
            let (whole, found_whole) = feed(&stops, false, &[&text]);
            assert_eq!((pieces.concat(), &found), (whole.concat(), &found_whole));
            let first_end = stops.iter().filter_map(|stop| Some(text.find(stop)? + stop.len())).min();
            assert_eq!(first_end.is_some(), found.is_some());
            let expected = match (first_end, &found) {
                (Some(end), Some(found)) => &text[..end - found.len()],
                _ => &text,
            };
            assert_eq!(pieces.concat(), expected);
        }
    }
}
