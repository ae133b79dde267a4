//! Reading numbers and texts out of bytes that may end anywhere.

use std::ops::Range;

/// A place in a file.
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

/// The file ends before what is read.
#[derive(Debug)]
pub(super) struct Truncated;

impl<'a> Cursor<'a> {
    pub fn new(file: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { file, at }
    }

    /// The next byte's place.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes from here to the end of the file.
    pub fn left(&self) -> usize {
        self.file.len().saturating_sub(self.at)
    }

    /// Passes over `len` bytes; where they lie.
    pub fn skip(&mut self, len: u64) -> Result<Range<usize>, Truncated> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.left()).ok_or(Truncated)?;
        let start = self.at;
        self.at += len;
        Ok(start..self.at)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let place = self.skip(N as u64)?;
        self.file.get(place).and_then(|bytes| bytes.first_chunk().copied()).ok_or(Truncated)
    }

    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and as many bytes: where these lie.
    pub fn text(&mut self) -> Result<Range<usize>, Truncated> {
        let len = self.u64()?;
        self.skip(len)
    }
}
