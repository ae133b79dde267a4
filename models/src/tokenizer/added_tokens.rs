//! Tokens beside a vocabulary's own: found in a text by their names before the rest is cut into pieces.

use tokenizers::AddedToken as TokenRules;

use super::prefix_search::PrefixSearch;

/// A token with a name, as `added_tokens_decoder` of tokenizer_config.json describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u32,
    /// Its name, and how that is found in a text. Only a tokenizer.json can normalize a text before.
    pub rules: TokenRules,
}

impl AddedToken {
    /// One that is control and nothing more.
    pub fn special(id: u32, content: &str) -> AddedToken {
        AddedToken { id, rules: TokenRules::from(content, true) }
    }
}

/// A stretch of text, or a token that was named in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    Text(&'a str),
    Token(u32),
}

#[derive(Clone, Debug)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// Their names, and their places in `tokens`.
    names: PrefixSearch,
}

impl AddedTokens {
    pub fn new(tokens: Vec<AddedToken>) -> AddedTokens {
        let names = (0..).zip(&tokens).map(|(index, token)| (token.rules.content.as_bytes().into(), index));
        AddedTokens { names: PrefixSearch::new(names), tokens }
    }

    /// Cuts a text at the names in it, the leftmost first and of several that begin there the longest.
    pub fn split<'a>(&self, text: &'a str) -> Vec<Segment<'a>> {
        let mut segments = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < text.len() {
            let Some((token, end)) = self.find(text, at) else {
                at += 1;
                continue;
            };
            let mut before = &text[start..at];
            if token.rules.lstrip {
                before = before.trim_end();
            }
            if !before.is_empty() {
                segments.push(Segment::Text(before));
            }
            segments.push(Segment::Token(token.id));
            start = if token.rules.rstrip { text.len() - text[end..].trim_start().len() } else { end };
            at = start;
        }
        if start < text.len() {
            segments.push(Segment::Text(&text[start..]));
        }
        segments
    }

    /// The token whose name begins at a byte of the text, and where the name ends.
    fn find(&self, text: &str, at: usize) -> Option<(&AddedToken, usize)> {
        let (len, index) = self.names.longest(&text.as_bytes()[at..])?;
        let (token, end) = (&self.tokens[index as usize], at + len);
        let is_word = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let inside_word = is_word(text[..at].chars().next_back()) || is_word(text[end..].chars().next());
        (!token.rules.single_word || !inside_word).then_some((token, end))
    }
}

#[cfg(test)]
mod tests {
    use super::{Segment::*, *};

    #[test]
    fn texts_are_cut_at_names() {
        let stripping = TokenRules::from("<pad>", true).lstrip(true).rstrip(true);
        let word = TokenRules::from("sop", true).single_word(true);
        let tokens = AddedTokens::new(vec![
            AddedToken::special(0, "<s>"),
            AddedToken::special(1, "<s>>"),
            AddedToken { id: 2, rules: stripping },
            AddedToken { id: 3, rules: word },
            AddedToken::special(4, "段"),
        ]);
        let cases: [(&str, &[Segment<'_>]); 7] = [
            ("", &[]),
            ("plain", &[Text("plain")]),
            ("<s>a<s>>", &[Token(0), Text("a"), Token(1)]),
            ("a  <pad>\n b", &[Text("a"), Token(2), Text("b")]),
            (" <pad><pad> ", &[Token(2), Token(2)]),
            ("sop soprano [x]sop<s>", &[Token(3), Text(" soprano [x]"), Token(3), Token(0)]),
            ("é段<s", &[Text("é"), Token(4), Text("<s")]),
        ];
        for (text, segments) in cases {
            assert_eq!(tokens.split(text), segments, "{text:?}");
        }
    }
}
