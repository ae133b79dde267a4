//! What each token stands for, by its id.

/// A token of more bytes is refused: it bounds what looking for tokens in a text costs.
pub(super) const MAX_PIECE_BYTES: usize = 1024;

/// A token's share of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenPiece<'a> {
    /// The bytes that it stands for inside a text: U+2581 is a space already, `<0x0A>` a line feed.
    pub bytes: &'a [u8],
    /// It is a single byte that no other token covers, as byte fallback spells them.
    pub is_byte: bool,
    /// It is control rather than text.
    pub is_special: bool,
    /// Its spaces are U+2581 in the vocabulary, which the beginning of a text may drop. An added token's are its own.
    pub has_metaspace: bool,
}

/// The pieces of all tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenTable {
    /// Of all tokens, end to end.
    bytes: Vec<u8>,
    tokens: Vec<Entry>,
    present: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its bytes end; they begin where those of the token before it end.
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Absent,
    Text { is_byte: bool, is_special: bool, has_metaspace: bool },
}

impl TokenTable {
    /// Ids beyond are refused. The largest published vocabulary is a tenth of it.
    pub const MAX_ID: u32 = (1 << 22) - 1;

    /// Adds the token with the next id.
    pub fn push(&mut self, piece: TokenPiece<'_>) {
        let TokenPiece { bytes, is_byte, is_special, has_metaspace } = piece;
        self.bytes.extend_from_slice(bytes);
        self.present += 1;
        self.tokens
            .push(Entry { end: self.bytes.len(), kind: Kind::Text { is_byte, is_special, has_metaspace } });
    }

    /// Leaves the next id without a token.
    pub fn skip(&mut self) {
        self.tokens.push(Entry { end: self.bytes.len(), kind: Kind::Absent });
    }

    pub fn get(&self, id: u32) -> Option<TokenPiece<'_>> {
        let index = usize::try_from(id).ok()?;
        let entry = self.tokens.get(index)?;
        let Kind::Text { is_byte, is_special, has_metaspace } = entry.kind else { return None };
        let start = index.checked_sub(1).map_or(0, |before| self.tokens[before].end);
        Some(TokenPiece { bytes: &self.bytes[start..entry.end], is_byte, is_special, has_metaspace })
    }

    /// How many ids have a token.
    pub fn len(&self) -> usize {
        self.present
    }
}
