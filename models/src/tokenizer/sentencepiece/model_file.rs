//! A SentencePiece model as its file has it: sentencepiece_model.proto, read by hand.

use std::collections::HashSet;

use crate::tokenizer::{
    protobuf::{Fields, Malformed, Value},
    token_table::MAX_PIECE_BYTES,
};

/// Of a piece, in an error.
const SHOWN_CHARS: usize = 40;

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceKind {
    Normal,
    /// Whatever no other piece covers.
    Unknown,
    /// Never in a text.
    Control,
    /// Found in a text before anything else.
    UserDefined,
    /// Never produced.
    Unused,
    /// A single byte.
    Byte,
}

#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub text: String,
    /// Higher is better: a log-probability, or minus the place in the order of merges.
    pub score: f32,
    pub kind: PieceKind,
}

/// How a text is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    BytePairs,
}

/// What happens to a text first.
#[derive(Clone, Debug)]
pub(super) struct NormalizerSpec {
    /// Rules compiled by SentencePiece; may be empty.
    pub charsmap: Vec<u8>,
    /// Put a space before the text.
    pub add_dummy_prefix: bool,
    /// Drop spaces at both ends and all but one of several.
    pub remove_extra_whitespaces: bool,
    /// Write spaces as U+2581.
    pub escape_whitespaces: bool,
}

/// A file's contents, checked: pieces are not empty and differ, scores are numbers, one piece is unknown, and with
/// byte fallback there are 256 bytes.
#[derive(Clone, Debug)]
pub(super) struct ModelFile {
    pub pieces: Vec<Piece>,
    pub unknown: u32,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub normalizer: NormalizerSpec,
}

impl ModelFile {
    /// Reads a `tokenizer.model`. The error says what is wrong with it, or not supported.
    pub fn read(bytes: &[u8]) -> Result<ModelFile, String> {
        let mut file = ModelFile {
            pieces: Vec::new(),
            unknown: 0,
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            normalizer: NormalizerSpec {
                charsmap: Vec::new(),
                add_dummy_prefix: true,
                remove_extra_whitespaces: true,
                escape_whitespaces: true,
            },
        };
        for field in Fields::new(bytes) {
            match field.map_err(malformed)? {
                (1, Value::Bytes(piece)) => file.pieces.push(read_piece(piece)?),
                (2, Value::Bytes(trainer)) => file.read_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => file.read_normalizer(normalizer)?,
                (5, Value::Bytes(denormalizer)) => refuse_rules(denormalizer)?,
                _ => {}
            }
        }
        file.check()?;
        Ok(file)
    }

    /// The byte that a piece is.
    pub fn byte(piece: &Piece) -> Option<u8> {
        (piece.kind == PieceKind::Byte).then(|| crate::tokenizer::fallback_byte(&piece.text))?
    }

    fn read_trainer(&mut self, message: &[u8]) -> Result<(), String> {
        for field in Fields::new(message) {
            match field.map_err(malformed)? {
                (3, Value::Varint(1)) => self.algorithm = Algorithm::Unigram,
                (3, Value::Varint(2)) => self.algorithm = Algorithm::BytePairs,
                (3, Value::Varint(other)) => {
                    return Err(format!(
                        "model type {other} is not supported; supported are unigram and BPE"
                    ));
                }
                (24, Value::Varint(1)) => return Err("treat_whitespace_as_suffix is not supported".into()),
                (35, Value::Varint(flag)) => self.byte_fallback = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        for field in Fields::new(message) {
            match field.map_err(malformed)? {
                (2, Value::Bytes(charsmap)) => self.normalizer.charsmap = charsmap.into(),
                (3, Value::Varint(flag)) => self.normalizer.add_dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => self.normalizer.remove_extra_whitespaces = flag != 0,
                (5, Value::Varint(flag)) => self.normalizer.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let mut unknown = Vec::new();
        let mut bytes = HashSet::new();
        for (id, piece) in (0..).zip(&self.pieces) {
            let start: String = piece.text.chars().take(SHOWN_CHARS).collect();
            let error = |what: &str| Err(format!("piece {id} ({start:?}) {what}"));
            if piece.text.is_empty() || piece.text.len() > MAX_PIECE_BYTES {
                return error(&format!(
                    "has {} bytes; supported are 1 to {MAX_PIECE_BYTES}",
                    piece.text.len()
                ));
            }
            if !seen.insert(piece.text.as_str()) {
                return error("is there twice");
            }
            if !piece.score.is_finite() {
                return error("has a score that is no number");
            }
            match piece.kind {
                PieceKind::Unknown => unknown.push(id),
                PieceKind::Byte => match ModelFile::byte(piece) {
                    Some(byte) => drop(bytes.insert(byte)),
                    None => return error("is said to be a byte"),
                },
                _ => {}
            }
        }
        // SentencePiece takes such a piece apart again; one that padding stands for is made of nothing.
        let is_unused = |piece: &&Piece| piece.kind == PieceKind::Unused && can_be_merged(&piece.text, &seen);
        if let Some(piece) =
            self.pieces.iter().find(is_unused).filter(|_| self.algorithm == Algorithm::BytePairs)
        {
            let start: String = piece.text.chars().take(SHOWN_CHARS).collect();
            return Err(format!(
                "piece {start:?} is unused, which is not supported in a BPE model that can make it"
            ));
        }
        let [unknown] = unknown[..] else {
            return Err(format!("expected one unknown piece, found {}", unknown.len()));
        };
        if self.byte_fallback && bytes.len() != 256 {
            return Err(format!("byte_fallback needs 256 byte pieces, found {}", bytes.len()));
        }
        self.unknown = unknown;
        Ok(())
    }
}

/// Whether merging two pieces or characters can make a text.
fn can_be_merged(text: &str, pieces: &HashSet<&str>) -> bool {
    let is_there = |part: &str| part.chars().nth(1).is_none() || pieces.contains(part);
    text.char_indices().skip(1).any(|(middle, _)| {
        let (left, right) = text.split_at(middle);
        is_there(left) && is_there(right)
    })
}

fn read_piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Fields::new(message) {
        match field.map_err(malformed)? {
            (1, Value::Bytes(text)) => {
                piece.text = str::from_utf8(text).map_err(|_| "a piece is not UTF-8")?.into();
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    other => return Err(format!("pieces of type {other} are not supported")),
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn refuse_rules(denormalizer: &[u8]) -> Result<(), String> {
    for field in Fields::new(denormalizer) {
        if let (2, Value::Bytes([_, ..])) = field.map_err(malformed)? {
            return Err("denormalizer_spec is not supported".into());
        }
    }
    Ok(())
}

fn malformed(Malformed: Malformed) -> String {
    "not a SentencePiece model: the protobuf is broken".into()
}
