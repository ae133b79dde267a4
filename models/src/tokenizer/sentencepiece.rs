//! SentencePiece models (Kudo and Richardson 2018, arXiv 1808.06226) as published in a `tokenizer.model`: exactly the
//! ids of the reference implementation.

mod model_file;
mod normalizer;
mod unigram;

use std::{collections::HashMap, ops::Range};

use self::{
    model_file::{Algorithm, ModelFile, NormalizerSpec, PieceKind},
    normalizer::{Normalizer, SPACE},
    unigram::Unigram,
};
use super::{
    byte_pairs::{self, Part},
    joining::{InvalidBytes, Joining, Start},
    prefix_search::PrefixSearch,
    token_table::TokenPiece,
};

#[derive(Clone, Debug)]
pub(super) struct SentencePiece {
    file: ModelFile,
    normalizer: Normalizer,
    /// Pieces that are found in a text before anything else.
    user_defined: PrefixSearch,
    ids: HashMap<Box<str>, u32>,
    /// By byte, with byte fallback.
    byte_ids: Vec<u32>,
    algorithm: Cutter,
}

#[derive(Clone, Debug)]
enum Cutter {
    /// The place of each piece in the order of merging, equal scores in equal places; `None`: not made by merging.
    BytePairs(Vec<Option<u32>>),
    Unigram(Unigram),
}

impl SentencePiece {
    /// Reads a `tokenizer.model`. The error says what is wrong with it, or not supported.
    pub fn read(bytes: &[u8]) -> Result<SentencePiece, String> {
        let file = ModelFile::read(bytes)?;
        let normalizer = Normalizer::new(&file.normalizer)?;
        let of_kind = |kind| (0..).zip(&file.pieces).filter(move |(_, piece)| piece.kind == kind);
        let user_defined =
            of_kind(PieceKind::UserDefined).map(|(id, piece)| (piece.text.as_bytes().into(), id));
        let mut byte_ids = vec![file.unknown; 256];
        for (id, piece) in of_kind(PieceKind::Byte).filter(|_| file.byte_fallback) {
            if let Some(byte) = ModelFile::byte(piece) {
                byte_ids[usize::from(byte)] = id;
            }
        }
        Ok(SentencePiece {
            user_defined: PrefixSearch::new(user_defined),
            ids: (0..).zip(&file.pieces).map(|(id, piece)| (piece.text.as_str().into(), id)).collect(),
            byte_ids,
            algorithm: match file.algorithm {
                Algorithm::BytePairs => Cutter::BytePairs(merge_order(&file)),
                Algorithm::Unigram => Cutter::Unigram(Unigram::new(&file.pieces, file.unknown)),
            },
            normalizer,
            file,
        })
    }

    /// The ids of `text`; `with_prefix` puts a space before it, if the model wants one.
    pub fn encode(&self, text: &str, with_prefix: bool) -> Vec<u32> {
        let normalized = self.normalizer.normalize(text, &self.user_defined, with_prefix);
        let pieces = match &self.algorithm {
            Cutter::BytePairs(order) => self.merged(&normalized, order),
            Cutter::Unigram(model) => model.pieces(&normalized),
        };
        let mut ids = Vec::with_capacity(pieces.len());
        let mut after_unknown = false;
        for (span, id) in pieces {
            let is_unknown = id == self.file.unknown;
            match is_unknown {
                true if self.file.byte_fallback => {
                    ids.extend(normalized[span].bytes().map(|byte| self.byte_ids[usize::from(byte)]));
                }
                // Unknown neighbours are one token.
                true if after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = is_unknown;
        }
        ids
    }

    /// By byte-pair encoding, from characters.
    fn merged(&self, text: &str, order: &[Option<u32>]) -> Vec<(Range<usize>, u32)> {
        let mut parts: Vec<Part> = Vec::with_capacity(text.len());
        let mut end = 0;
        while let Some(character) = text[end..].chars().next() {
            let user_defined = self.user_defined.longest(&text.as_bytes()[end..]);
            end += user_defined.map_or(character.len_utf8(), |(len, _)| len);
            parts.push(Part { end, frozen: user_defined.is_some() });
        }
        let id = |bytes: &[u8]| self.ids.get(str::from_utf8(bytes).ok()?).copied();
        let rank = |bytes: &[u8]| order[id(bytes)? as usize];
        let spans = byte_pairs::merge(text.as_bytes(), &parts, rank);
        let known = |span: Range<usize>| {
            let id = id(&text.as_bytes()[span.clone()]).unwrap_or(self.file.unknown);
            (span, id)
        };
        spans.into_iter().map(known).collect()
    }

    pub fn kind(&self) -> &'static str {
        match self.algorithm {
            Cutter::BytePairs(_) => "SentencePiece, BPE",
            Cutter::Unigram(_) => "SentencePiece, unigram",
        }
    }

    /// How its pieces become text.
    pub fn joining(&self) -> Joining {
        let NormalizerSpec { add_dummy_prefix, remove_extra_whitespaces, .. } = self.file.normalizer;
        let start = match (remove_extra_whitespaces, add_dummy_prefix) {
            (true, _) => Start::SpaceOfEachToken,
            (false, true) => Start::SpaceOfFirstToken,
            (false, false) => Start::Keep,
        };
        Joining { invalid: InvalidBytes::Byte, start }
    }

    /// Calls `add` with the text and the share of a text of every piece, by ascending id.
    pub fn for_each_piece(&self, mut add: impl FnMut(&str, TokenPiece<'_>)) {
        for piece in &self.file.pieces {
            let byte = ModelFile::byte(piece);
            let text = piece.text.replace(SPACE, " ");
            let is_special = matches!(piece.kind, PieceKind::Control | PieceKind::Unknown);
            let bytes = byte.as_ref().map_or(text.as_bytes(), std::slice::from_ref);
            let has_metaspace = !is_special && piece.text.contains(SPACE);
            add(&piece.text, TokenPiece { bytes, is_byte: byte.is_some(), is_special, has_metaspace });
        }
    }
}

fn merge_order(file: &ModelFile) -> Vec<Option<u32>> {
    let is_merged = |kind| matches!(kind, PieceKind::Normal | PieceKind::UserDefined);
    let mut scores: Vec<f32> = file.pieces.iter().map(|piece| piece.score).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores.dedup();
    let place = |score: f32| scores.partition_point(|&other| other > score) as u32;
    file.pieces.iter().map(|piece| is_merged(piece.kind).then(|| place(piece.score))).collect()
}
