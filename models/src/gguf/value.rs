//! The values of a GGUF file's metadata. Texts and lists stay in the file: a value holds their places.

use std::ops::Range;

use super::{
    cursor::{Cursor, Truncated},
    fault::Fault,
};

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    /// The place of a text, which is UTF-8.
    Text(Range<usize>),
    List(List),
}

/// A list of values of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    kind: Kind,
    pub count: usize,
    place: Range<usize>,
}

/// What values are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

/// By number.
const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::Text,
    Kind::List,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    fn read(cursor: &mut Cursor) -> Result<Kind, Wrong> {
        let number = cursor.u32()?;
        let kind = usize::try_from(number).ok().and_then(|number| KINDS.get(number));
        kind.copied().ok_or_else(|| Wrong::Value(format!("values of type {number} are not known")))
    }

    /// Bytes of a value, if all have as many.
    fn size(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }
}

/// Why a value cannot be read.
enum Wrong {
    Truncated,
    Value(String),
}

impl From<Truncated> for Wrong {
    fn from(Truncated: Truncated) -> Wrong {
        Wrong::Truncated
    }
}

impl Value {
    /// Reads the value of a key, and checks all of it.
    pub(super) fn read(file: &[u8], cursor: &mut Cursor, key: &str) -> Result<Value, Fault> {
        let value = Kind::read(cursor).and_then(|kind| match kind {
            Kind::List => List::read(file, cursor).map(Value::List),
            kind => one(file, cursor, kind),
        });
        value.map_err(|wrong| match wrong {
            Wrong::Truncated => Fault::of_key(key, "truncated: the file ends before its value does"),
            Wrong::Value(message) => Fault::of_key(key, message),
        })
    }

    /// What it is, for people.
    pub fn shown(&self, file: &[u8]) -> String {
        match self {
            Value::Whole(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Text(place) => format!("{:?}", super::fault::shown(text(file, place))),
            Value::List(list) => format!("a list of {}", list.count),
        }
    }
}

/// A value that is no list.
fn one(file: &[u8], cursor: &mut Cursor, kind: Kind) -> Result<Value, Wrong> {
    Ok(match kind {
        Kind::U8 => Value::Whole(u8::from_le_bytes(cursor.array()?).into()),
        Kind::I8 => Value::Whole(i8::from_le_bytes(cursor.array()?).into()),
        Kind::U16 => Value::Whole(u16::from_le_bytes(cursor.array()?).into()),
        Kind::I16 => Value::Whole(i16::from_le_bytes(cursor.array()?).into()),
        Kind::U32 => Value::Whole(cursor.u32()?.into()),
        Kind::I32 => Value::Whole(i32::from_le_bytes(cursor.array()?).into()),
        Kind::U64 => Value::Whole(cursor.u64()?.into()),
        Kind::I64 => Value::Whole(i64::from_le_bytes(cursor.array()?).into()),
        Kind::F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
        Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        Kind::Bool => match cursor.array()? {
            [0] => Value::Flag(false),
            [1] => Value::Flag(true),
            [other] => return Err(Wrong::Value(format!("expected 0 or 1 for false or true, found {other}"))),
        },
        Kind::Text => {
            let place = cursor.text()?;
            match str::from_utf8(file.get(place.clone()).ok_or(Truncated)?) {
                Ok(_) => Value::Text(place),
                Err(_) => return Err(Wrong::Value("is a text that is not UTF-8".into())),
            }
        }
        Kind::List => return Err(Wrong::Value("a list of lists is not supported".into())),
    })
}

/// A text at a place that was checked.
pub(super) fn text<'f>(file: &'f [u8], place: &Range<usize>) -> &'f str {
    file.get(place.clone()).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
}

impl List {
    fn read(file: &[u8], cursor: &mut Cursor) -> Result<List, Wrong> {
        let kind = Kind::read(cursor)?;
        let count = cursor.u64()?;
        let start = cursor.at();
        match kind.size() {
            Some(size) => {
                cursor.skip(count.checked_mul(size).ok_or(Truncated)?)?;
            }
            // Ends with the file at the latest, whatever the count says.
            None => {
                for _ in 0..count {
                    one(file, cursor, kind)?;
                }
            }
        }
        let count = usize::try_from(count).map_err(|_| Truncated)?;
        let list = List { kind, count, place: start..cursor.at() };
        if kind == Kind::Bool && list.values(file).any(|flag| flag.is_none()) {
            return Err(Wrong::Value("has a flag that is neither 0 nor 1".into()));
        }
        Ok(list)
    }

    /// Its values; none is `None` once it was read.
    pub fn values<'f>(&self, file: &'f [u8]) -> impl Iterator<Item = Option<Value>> + use<'f> {
        let List { kind, count, place } = self.clone();
        let mut cursor = Cursor::new(file, place.start);
        (0..count).map(move |_| one(file, &mut cursor, kind).ok())
    }

    /// Its texts; `None` when it is one of something else.
    pub fn texts<'f>(&self, file: &'f [u8]) -> Option<impl Iterator<Item = &'f str> + Clone + use<'f>> {
        let List { kind, count, place } = self.clone();
        let mut at = place.start;
        let texts = (0..count).map(move |_| {
            let mut cursor = Cursor::new(file, at);
            let found = cursor.text().unwrap_or_default();
            at = cursor.at();
            text(file, &found)
        });
        (kind == Kind::Text).then_some(texts)
    }
}
