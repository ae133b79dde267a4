//! A vocabulary of pieces with scores, written back as the `tokenizer.model` of SentencePiece that it came from.

use super::{
    file::GgufFile,
    files::{kinds, tokens},
    special_tokens::kind,
};
use crate::LoadError;

const SCORES: &str = "tokenizer.ggml.scores";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

/// The model of byte-pair merges with byte fallback that the format implies.
pub(super) fn tokenizer_model(file: &GgufFile) -> Result<Vec<u8>, LoadError> {
    let tokens = tokens(file)?;
    let mut kinds = kinds(file, tokens.len())?;
    let scores = file.required(SCORES, "a list of numbers", file.numbers(SCORES)?)?;
    if scores.len() != tokens.len() {
        let message = format!("expected {} entries, one per token, found {}", tokens.len(), scores.len());
        return Err(file.error(SCORES, message));
    }
    if !kinds.contains(&kind::UNKNOWN) {
        let id = file.count(UNKNOWN)?.unwrap_or(0);
        if let Some(unknown) = usize::try_from(id).ok().and_then(|id| kinds.get_mut(id)) {
            *unknown = kind::UNKNOWN;
        }
    }
    let mut model = Vec::new();
    for ((token, score), number) in tokens.iter().zip(scores).zip(&kinds) {
        let mut piece = Vec::new();
        bytes(&mut piece, 1, token.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend((score as f32).to_le_bytes());
        // The kinds have the same numbers, and 0 is no kind.
        varint(&mut piece, 3, (*number).max(kind::NORMAL));
        bytes(&mut model, 1, &piece);
    }
    let all_bytes = kinds.iter().filter(|number| **number == kind::BYTE).count() == 256;
    let mut trainer = Vec::new();
    varint(&mut trainer, 3, 2);
    varint(&mut trainer, 35, all_bytes.into());
    bytes(&mut model, 2, &trainer);
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let remove = file.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let mut normalizer = Vec::new();
    for (field, flag) in [(3, prefix), (4, remove), (5, true)] {
        varint(&mut normalizer, field, flag.into());
    }
    bytes(&mut model, 3, &normalizer);
    Ok(model)
}

/// A field of protobuf that is a number.
fn varint(to: &mut Vec<u8>, field: u64, number: u64) {
    write(to, field << 3);
    write(to, number);
}

/// A field of protobuf that is bytes.
fn bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    write(to, field << 3 | 2);
    write(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first.
fn write(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}
