//! Names of KV block contents. A block's keys and values depend on every token before them, so its name is
//! chained: the hash of its parent's name and its own token ids.
//!
//! SipHash-2-4 with 128 bits of output, under a key sampled when the process starts: without the key no one can
//! construct two prefixes of the same name, and a chance collision needs about 2^64 KV blocks.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher24};

/// The name of a prefix that ends at a KV block's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PrefixHash(u128);

/// Who may share a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PrefixScope {
    /// Every request without a salt.
    Shared,
    /// Every request with this salt.
    Salted(String),
    /// The choices of one request.
    Request(u64),
}

/// Computes [`PrefixHash`]es.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefixHasher {
    key: (u64, u64),
}

/// First byte of every hashed message, so that no two kinds of message are ever equal.
#[repr(u8)]
enum Message {
    Shared,
    Salted,
    Request,
    Block,
}

impl PrefixHasher {
    /// A hasher with a key from the system's random source.
    pub fn with_random_key() -> PrefixHasher {
        let word = || RandomState::new().build_hasher().finish();
        PrefixHasher { key: (word(), word()) }
    }

    /// The parent of a sequence's first KV block.
    pub fn root(&self, scope: &PrefixScope) -> PrefixHash {
        match scope {
            PrefixScope::Shared => self.hash(Message::Shared, |_| ()),
            PrefixScope::Salted(salt) => self.hash(Message::Salted, |hasher| hasher.write(salt.as_bytes())),
            PrefixScope::Request(id) => self.hash(Message::Request, |hasher| hasher.write_u64(*id)),
        }
    }

    /// The KV block that continues `parent` with `tokens`.
    pub fn block(&self, parent: PrefixHash, tokens: &[u32]) -> PrefixHash {
        self.hash(Message::Block, |hasher| {
            hasher.write_u128(parent.0);
            tokens.iter().for_each(|&token| hasher.write_u32(token));
        })
    }

    fn hash(&self, message: Message, write: impl FnOnce(&mut SipHasher24)) -> PrefixHash {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u8(message as u8);
        write(&mut hasher);
        PrefixHash(hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_key_scope_parent_and_tokens() {
        let (one, other) = (PrefixHasher { key: (1, 2) }, PrefixHasher { key: (1, 3) });
        let root = one.root(&PrefixScope::Shared);
        let tenant = one.root(&PrefixScope::Salted("tenant".into()));
        let hashes = [
            root,
            other.root(&PrefixScope::Shared),
            tenant,
            one.root(&PrefixScope::Salted(String::new())),
            one.root(&PrefixScope::Request(0)),
            one.root(&PrefixScope::Request(1)),
            one.block(root, &[1, 2]),
            one.block(root, &[2, 1]),
            one.block(tenant, &[1, 2]),
            one.block(one.block(root, &[1, 2]), &[1, 2]),
        ];
        for (index, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(hash), "hash {index} is not distinct");
        }
        assert_eq!(one.block(root, &[1, 2]), one.block(root, &[1, 2]));
    }

    #[test]
    fn keys_are_drawn_anew() {
        assert_ne!(PrefixHasher::with_random_key().key, PrefixHasher::with_random_key().key);
    }
}
