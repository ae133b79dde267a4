//! Which keys of a set a text begins with.

/// A sorted list, searched as a trie is: byte by byte, the range of keys that have the prefix narrows.
#[derive(Clone, Debug)]
pub(super) struct PrefixSearch {
    /// Keys are not empty and differ.
    keys: Vec<(Box<[u8]>, u32)>,
    /// Whether any key begins with the byte.
    begins: Box<[bool]>,
}

impl PrefixSearch {
    pub fn new(keys: impl Iterator<Item = (Box<[u8]>, u32)>) -> PrefixSearch {
        let mut keys: Vec<_> = keys.filter(|(key, _)| !key.is_empty()).collect();
        keys.sort();
        let mut begins: Box<[bool]> = [false; 256].into();
        for (key, _) in &keys {
            begins[usize::from(key[0])] = true;
        }
        PrefixSearch { keys, begins }
    }

    /// Every key that `text` begins with, the shortest first: its length in bytes and its value.
    pub fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        let might = text.first().is_some_and(|&byte| self.begins[usize::from(byte)]);
        let mut keys = if might { &self.keys[..] } else { &[] };
        let narrowed = text.iter().enumerate().map_while(move |(depth, byte)| {
            let start = keys.partition_point(|(key, _)| key.get(depth) < Some(byte));
            let end = keys.partition_point(|(key, _)| key.get(depth) <= Some(byte));
            keys = &keys[start..end];
            let (shortest, value) = keys.first()?;
            Some((shortest.len() == depth + 1).then_some((depth + 1, *value)))
        });
        narrowed.flatten()
    }

    /// The longest key that `text` begins with.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_a_text() {
        let keys = ["a", "abc", "ab ", "b", "é", ""];
        let keys = keys.iter().zip(0..).map(|(key, value)| (key.as_bytes().into(), value));
        let search = PrefixSearch::new(keys);
        let prefixes = |text: &str| search.prefixes(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(prefixes("abcd"), [(1, 0), (3, 1)]);
        assert_eq!(prefixes("ab"), [(1, 0)]);
        assert_eq!(prefixes("é"), [(2, 4)]);
        assert_eq!(prefixes("è"), []);
        assert_eq!(prefixes(""), []);
        assert_eq!(search.longest("ab c".as_bytes()), Some((3, 2)));
        assert_eq!(search.longest(b"c"), None);
    }
}
