//! The unigram model: the way to cut a text whose pieces are the most probable together (Kudo 2018, arXiv 1804.10959),
//! found by dynamic programming from the left.

use std::ops::Range;

use super::model_file::{Piece, PieceKind};
use crate::tokenizer::prefix_search::PrefixSearch;

/// How much worse than the worst piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

#[derive(Clone, Debug)]
pub(super) struct Unigram {
    pieces: PrefixSearch,
    /// By id; `None` for pieces that are never produced.
    scores: Vec<Option<Score>>,
    unknown: u32,
    unknown_score: f32,
    highest: f32,
}

#[derive(Clone, Copy, Debug)]
enum Score {
    Normal(f32),
    /// Always preferred.
    UserDefined,
}

/// The best way to cut the text up to some byte.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    start: usize,
    id: u32,
}

impl Unigram {
    pub fn new(pieces: &[Piece], unknown: u32) -> Unigram {
        let score = |piece: &Piece| match piece.kind {
            PieceKind::Normal => Some(Score::Normal(piece.score)),
            PieceKind::UserDefined => Some(Score::UserDefined),
            _ => None,
        };
        let normal =
            || pieces.iter().filter(|piece| piece.kind == PieceKind::Normal).map(|piece| piece.score);
        let lowest = normal().fold(f32::MAX, f32::min);
        let found = (0..).zip(pieces).filter(|(_, piece)| score(piece).is_some());
        Unigram {
            pieces: PrefixSearch::new(found.map(|(id, piece)| (piece.text.as_bytes().into(), id))),
            scores: pieces.iter().map(score).collect(),
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
            highest: normal().fold(f32::MIN_POSITIVE, f32::max),
        }
    }

    /// The pieces of a normalised text. Sums are rounded as SentencePiece rounds them, so that ties end alike.
    pub fn pieces(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        for (start, character) in text.char_indices() {
            let so_far = best[start].map_or(0.0, |best| best.score);
            let mut improve = |len: usize, score: f64, id: u32| {
                let end = &mut best[start + len];
                if end.is_none_or(|best| score > f64::from(best.score)) {
                    *end = Some(Best { score: score as f32, start, id });
                }
            };
            let mut has_character = false;
            for (len, id) in self.pieces.prefixes(&text.as_bytes()[start..]) {
                let score = match self.scores[id as usize] {
                    None => continue,
                    Some(Score::Normal(score)) => f64::from(score),
                    Some(Score::UserDefined) => f64::from(len as f32 * self.highest) - 0.1,
                };
                improve(len, score + f64::from(so_far), id);
                has_character |= len == character.len_utf8();
            }
            if !has_character {
                improve(character.len_utf8(), f64::from(self.unknown_score + so_far), self.unknown);
            }
        }
        let mut pieces = Vec::new();
        let mut end = text.len();
        while let Some(Best { start, id, .. }) = best[end] {
            pieces.push((start..end, id));
            end = start;
        }
        pieces.reverse();
        pieces
    }
}
