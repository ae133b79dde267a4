//! Byte-pair encoding as SentencePiece and tiktoken do it: of all neighbours whose joint text is a token, the pair with
//! the lowest rank is merged, of equals the leftmost, until none is left (Sennrich et al. 2016, arXiv 1508.07909).
//!
//! The lists of merges in a tokenizer.json say the same except where a token can be made of its parts in several ways,
//! which is why such vocabularies are not converted to one.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Range};

/// A part of a text, which ends at a byte and begins where the one before it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub end: usize,
    /// It is never merged.
    pub frozen: bool,
}

/// A part with its neighbours, by their index; a part that was merged into another is empty.
#[derive(Debug)]
struct Node {
    span: Range<usize>,
    frozen: bool,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that may be merged. The order of fields is the order of merging.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: usize,
    right: usize,
    /// Of both: another length means that one of them was merged since.
    len: usize,
}

/// Merges neighbouring `parts` of `text`, as `rank` tells of their joint bytes. Takes O(n log n).
pub(super) fn merge(text: &[u8], parts: &[Part], rank: impl Fn(&[u8]) -> Option<u32>) -> Vec<Range<usize>> {
    let mut nodes: Vec<Node> = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let start = nodes.last().map_or(0, |node| node.span.end);
        let after = (index + 1 < parts.len()).then_some(index + 1);
        nodes.push(Node { span: start..part.end, frozen: part.frozen, before: index.checked_sub(1), after });
    }
    let pair = |nodes: &[Node], left: usize, right: usize| {
        let (first, second) = (&nodes[left], &nodes[right]);
        if first.frozen || second.frozen {
            return None;
        }
        let rank = rank(&text[first.span.start..second.span.end])?;
        Some(Reverse(Pair { rank, left, right, len: second.span.end - first.span.start }))
    };
    let mut pairs: BinaryHeap<_> =
        (1..nodes.len()).filter_map(|right| pair(&nodes, right - 1, right)).collect();
    while let Some(Reverse(Pair { left, right, len, .. })) = pairs.pop() {
        let is_stale = nodes[left].span.is_empty()
            || nodes[right].span.is_empty()
            || nodes[left].span.len() + nodes[right].span.len() != len;
        if is_stale {
            continue;
        }
        nodes[left].span.end = nodes[right].span.end;
        nodes[left].after = nodes[right].after;
        nodes[right].span = 0..0;
        if let Some(after) = nodes[left].after {
            nodes[after].before = Some(left);
            pairs.extend(pair(&nodes, left, after));
        }
        if let Some(before) = nodes[left].before {
            pairs.extend(pair(&nodes, before, left));
        }
    }
    nodes.into_iter().map(|node| node.span).filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str, ranks: &[&str], frozen: &[usize]) -> Vec<String> {
        let parts: Vec<Part> =
            (0..text.len()).map(|at| Part { end: at + 1, frozen: frozen.contains(&at) }).collect();
        let rank =
            |bytes: &[u8]| ranks.iter().position(|token| token.as_bytes() == bytes).map(|rank| rank as u32);
        merge(text.as_bytes(), &parts, rank).into_iter().map(|span| text[span].to_string()).collect()
    }

    #[test]
    fn the_lowest_rank_first_and_of_equals_the_leftmost() {
        assert_eq!(merged("abcd", &["bc", "ab", "cd", "abc"], &[]), ["abc", "d"]);
        assert_eq!(merged("aaaaa", &["aa", "aaa"], &[]), ["aa", "aaa"]);
        assert_eq!(merged("aaa", &["aa"], &[]), ["aa", "a"]);
        assert_eq!(merged("abab", &["ab", "abab"], &[]), ["abab"]);
        assert_eq!(merged("abab", &["ab", "abab"], &[1]), ["a", "b", "ab"]);
        assert!(merged("", &["ab"], &[]).is_empty());
    }
}
