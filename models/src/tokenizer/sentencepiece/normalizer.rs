//! What SentencePiece does to a text before it cuts it into pieces.

use super::model_file::NormalizerSpec;
use crate::tokenizer::{prefix_search::PrefixSearch, token_table::MAX_PIECE_BYTES};

/// A space, as pieces spell it.
pub(super) const SPACE: &str = "\u{2581}";

#[derive(Clone, Debug)]
pub(super) struct Normalizer {
    rules: Rules,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    /// What a space becomes.
    space: &'static str,
}

impl Normalizer {
    /// The error says what is wrong with the compiled rules.
    pub fn new(spec: &NormalizerSpec) -> Result<Normalizer, String> {
        Ok(Normalizer {
            rules: Rules::new(&spec.charsmap)?,
            add_dummy_prefix: spec.add_dummy_prefix,
            remove_extra_whitespaces: spec.remove_extra_whitespaces,
            space: if spec.escape_whitespaces { SPACE } else { " " },
        })
    }

    /// The text as the model sees it. `user_defined` pieces are left as they are; `with_prefix` puts a space first, if
    /// the model wants one.
    pub fn normalize(&self, text: &str, user_defined: &PrefixSearch, with_prefix: bool) -> String {
        let Normalizer { add_dummy_prefix, remove_extra_whitespaces, space, .. } = *self;
        let mut rest = text;
        while remove_extra_whitespaces && !rest.is_empty() {
            match self.next(rest, user_defined) {
                (" ", len) => rest = &rest[len..],
                _ => break,
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut normalized = String::with_capacity(rest.len() + rest.len() / 2);
        if add_dummy_prefix && with_prefix {
            normalized.push_str(space);
        }
        let mut after_space = remove_extra_whitespaces;
        while !rest.is_empty() {
            let (mut new, len) = self.next(rest, user_defined);
            if after_space {
                new = new.trim_start_matches(' ');
            }
            for (index, word) in new.split(' ').enumerate() {
                if index > 0 {
                    normalized.push_str(space);
                }
                normalized.push_str(word);
            }
            if !new.is_empty() {
                after_space = remove_extra_whitespaces && new.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if remove_extra_whitespaces {
            normalized.truncate(normalized.trim_end_matches(space).len());
        }
        normalized
    }

    /// What the beginning of a text becomes, and how many of its bytes that is.
    fn next<'a>(&'a self, text: &'a str, user_defined: &PrefixSearch) -> (&'a str, usize) {
        let unchanged = |len: usize| (&text[..len], len);
        if let Some((len, _)) = user_defined.longest(text.as_bytes()) {
            return unchanged(len);
        }
        let in_text = |&(_, len): &(&str, usize)| text.is_char_boundary(len);
        self.rules
            .longest(text.as_bytes())
            .filter(in_text)
            .unwrap_or_else(|| unchanged(text.chars().next().map_or(0, char::len_utf8)))
    }
}

/// Compiled rules, "these bytes become that text": a double array (Aoe 1989) in the layout of darts-clone, and the
/// texts, each ended by a zero byte.
#[derive(Clone, Debug)]
struct Rules {
    units: Vec<u32>,
    texts: String,
}

impl Rules {
    fn new(charsmap: &[u8]) -> Result<Rules, String> {
        let broken = || "precompiled_charsmap is broken".to_string();
        if charsmap.is_empty() {
            return Ok(Rules { units: Vec::new(), texts: String::new() });
        }
        let (len, rest) = charsmap.split_first_chunk().ok_or_else(broken)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| broken())?;
        let (units, texts) = rest.split_at_checked(len).ok_or_else(broken)?;
        let texts = str::from_utf8(texts).map_err(|_| broken())?;
        if texts.split('\0').any(|text| text.len() > MAX_PIECE_BYTES) {
            return Err(format!("precompiled_charsmap: a rule makes more than {MAX_PIECE_BYTES} bytes"));
        }
        let units =
            units.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
        Ok(Rules { units: units.collect(), texts: texts.into() })
    }

    /// The rule for the longest beginning of `text`: what it becomes, and how many bytes it is.
    fn longest(&self, text: &[u8]) -> Option<(&str, usize)> {
        let unit = |at: u32| self.units.get(usize::try_from(at).ok()?).copied();
        let mut longest = None;
        let mut at = offset(unit(0)?);
        for (index, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(found) = unit(at).filter(|found| found & (1 << 31 | 0xff) == u32::from(byte)) else {
                break;
            };
            at ^= offset(found);
            if found & 1 << 8 != 0 {
                longest = Some((unit(at)? & !(1 << 31), index + 1));
            }
        }
        let (start, len) = longest?;
        let text = self.texts.get(usize::try_from(start).ok()?..)?;
        Some((text.split('\0').next()?, len))
    }
}

/// Where a unit's children are, relative to itself.
fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}
