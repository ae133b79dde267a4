//! What a template may take: time in units of fuel, and the bytes of text that they pay for.

use std::fmt::{self, Write};

use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;

const BYTES_PER_FUEL: u64 = 64;

/// Writing lists and dictionaries is slower than copying text.
const LIST_BYTES_PER_FUEL: u64 = 4;

/// What a template may do: an instruction costs one unit, and so do 64 bytes of text that it makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fuel(u64);

impl Fuel {
    /// For a conversation of nothing.
    const LEAST: u64 = 250_000;

    /// At most 256 MB and, in an optimised build, about half a second.
    const MOST: u64 = 4_000_000;

    /// Enough for `values`: templates take about twenty instructions for each field, and look at each text some ten
    /// times.
    pub(super) fn for_values<'a>(values: impl Iterator<Item = &'a Json>) -> Fuel {
        Fuel(Fuel::LEAST.saturating_add(values.map(fuel_of).sum()).min(Fuel::MOST))
    }

    /// As minijinja counts it.
    pub(super) fn units(self) -> u64 {
        self.0
    }

    /// A template can nest lists as deep as its fuel allows, two units a level, and freeing or printing them recurses.
    /// Only pages that are touched cost memory.
    pub(super) fn stack_bytes(self) -> usize {
        usize::try_from(self.0 * 512).unwrap_or(usize::MAX)
    }
}

fn fuel_of(value: &Json) -> u64 {
    let inside: u64 = match value {
        Json::String(text) => text.len() as u64 / 2,
        Json::Array(items) => items.iter().map(fuel_of).sum(),
        Json::Object(fields) => fields.iter().map(|(key, value)| key.len() as u64 + fuel_of(value)).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    };
    inside + 64
}

/// How many bytes of text the remaining fuel pays for.
pub(super) fn byte_budget(state: &State) -> usize {
    budget(state, BYTES_PER_FUEL)
}

/// How many bytes of the text of lists and dictionaries the remaining fuel pays for.
pub(super) fn list_byte_budget(state: &State) -> usize {
    budget(state, LIST_BYTES_PER_FUEL)
}

/// Fails where the remaining fuel does not pay for a text of so many bytes.
pub(super) fn check_size(state: &State, bytes: usize) -> Result<(), Error> {
    if bytes > byte_budget(state) { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

fn budget(state: &State, bytes_per_fuel: u64) -> usize {
    let fuel = state.fuel_levels().map_or(0, |(_, remaining)| remaining);
    usize::try_from(fuel.saturating_mul(bytes_per_fuel)).unwrap_or(usize::MAX)
}

/// Text that refuses to grow past its limit.
pub(super) struct BoundedText {
    pub(super) text: String,
    /// Bytes.
    pub(super) limit: usize,
}

impl BoundedText {
    /// Fails as running out of fuel does.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.write_str(text).map_err(|fmt::Error| Error::from(ErrorKind::OutOfFuel))
    }
}

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > self.limit.saturating_sub(self.text.len()) {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
