//! GPT-2's alphabet, in which byte-level vocabularies are spelled: one printable character for each byte.

/// The bytes of a token of a byte-level vocabulary. One with any other character (an added token) is plain text.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Every character of the alphabet, and its byte.
pub(super) fn alphabet() -> impl Iterator<Item = (char, u8)> {
    (0..=0x143).filter_map(char::from_u32).filter_map(|character| Some((character, byte_of(character)?)))
}

/// The byte that a character stands for: printable Latin-1 characters stand for themselves, and the 68 other bytes,
/// in ascending order, are the characters from U+0100.
fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = alphabet().map(|(_, byte)| byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn tokens() {
        assert_eq!(bytes("Ġnew"), b" new");
        assert_eq!(bytes("Ċ"), b"\n");
        assert_eq!(bytes("你好"), "你好".as_bytes());
    }
}
