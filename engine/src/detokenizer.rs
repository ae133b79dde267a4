//! Text as its tokens come, without those that are no text.

use mosu_models::{Joining, TextJoiner, TokenPiece, Tokenizer};

/// What the engine needs to know of a tokenizer.
pub(crate) trait TokenPieces: Send + Sync {
    /// How pieces become text.
    fn joining(&self) -> Joining;

    /// A token's share of a text; `None` when the tokenizer does not know it.
    fn piece(&self, id: u32) -> Option<TokenPiece<'_>>;

    /// The special token that is spelled so.
    fn special_token(&self, name: &str) -> Option<u32>;
}

impl TokenPieces for Tokenizer {
    fn joining(&self) -> Joining {
        Tokenizer::joining(self)
    }

    fn piece(&self, id: u32) -> Option<TokenPiece<'_>> {
        Tokenizer::piece(self, id)
    }

    fn special_token(&self, name: &str) -> Option<u32> {
        self.id_of(name).filter(|&id| self.is_special(id))
    }
}

/// One choice's text so far.
#[derive(Debug)]
pub(crate) struct Detokenizer {
    skip_special_tokens: bool,
    joiner: TextJoiner,
}

impl Detokenizer {
    /// No text yet.
    pub fn new(skip_special_tokens: bool, joining: Joining) -> Detokenizer {
        Detokenizer { skip_special_tokens, joiner: TextJoiner::new(joining) }
    }

    /// Adds a token; returns the text that is now certain.
    pub fn push(&mut self, id: u32, tokens: &dyn TokenPieces) -> String {
        let mut text = String::new();
        match tokens.piece(id) {
            Some(piece) if !(self.skip_special_tokens && piece.is_special) => {
                self.joiner.push(piece, &mut text);
            }
            _ => {}
        }
        text
    }

    /// What would be new text if a run of byte tokens, held back until its end, had ended here.
    pub fn unfinished_run(&self) -> Option<String> {
        self.joiner.unfinished_run()
    }

    /// The text still held back, when no more tokens are to come.
    pub fn flush(&mut self) -> String {
        let mut text = String::new();
        self.joiner.flush(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use mosu_models::ModelSource;

    use super::*;

    #[test]
    fn special_and_unknown_tokens_have_no_text() {
        let tokenizer = Tokenizer::load(&ModelSource::Demo).unwrap();
        let special = (0..tokenizer.vocab_size() as u32).find(|&id| tokenizer.is_special(id)).unwrap();
        let id_of = |text: &str| tokenizer.encode(text, false).unwrap()[0];
        let ids = [id_of("a"), special, u32::MAX, id_of("b")];
        let name = tokenizer.token_text(special).unwrap();
        for (skip, expected) in [(true, "ab".to_string()), (false, format!("a{name}b"))] {
            let mut detokenizer = Detokenizer::new(skip, tokenizer.joining());
            let text: String = ids.iter().map(|&id| detokenizer.push(id, &tokenizer)).collect();
            assert_eq!(text + &detokenizer.flush(), expected);
        }
    }
}
