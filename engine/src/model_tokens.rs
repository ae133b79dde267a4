//! A model's tokenizer, as the detokenizer needs it.

use std::{collections::HashSet, sync::Arc};

use mosu_models::Tokenizer;

use crate::detokenizer::TokenDecoder;

/// A tokenizer, and what its tokens are.
pub(crate) struct ModelTokens {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that stand for a single byte, as byte fallback names them.
    byte_tokens: HashSet<u32>,
}

impl ModelTokens {
    /// Knows `tokenizer`'s byte tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> ModelTokens {
        // Without byte fallback, a token of such a name would be that text.
        let is_fallback = |byte: u8, id: u32| tokenizer.token_bytes(id) == Some(vec![byte]);
        let named =
            (0..=u8::MAX).filter_map(|byte| Some((byte, tokenizer.id_of(&format!("<0x{byte:02X}>"))?)));
        let byte_tokens = named.filter(|&(byte, id)| is_fallback(byte, id)).map(|(_, id)| id).collect();
        ModelTokens { byte_tokens, tokenizer }
    }
}

impl TokenDecoder for ModelTokens {
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(|error| error.to_string())
    }

    fn is_silent(&self, id: u32, skip_special_tokens: bool) -> bool {
        (skip_special_tokens && self.tokenizer.is_special(id)) || self.tokenizer.token_bytes(id).is_none()
    }

    fn is_byte(&self, id: u32) -> bool {
        self.byte_tokens.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mosu_models::ModelSource;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::{detokenizer::Detokenizer, sampling::SplitMix64};

    /// As Llama 2 and Mixtral have it: U+2581 for spaces, byte fallback, and a leading space that decoding drops.
    fn byte_fallback() -> Tokenizer {
        let words = ["<s>", "</s>", "\u{2581}", "\u{2581}mosu", "is", "\u{2581}\u{2581}", "模", "!"];
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        let names = bytes.chain(words.map(String::from)).enumerate();
        let vocab: Map<String, Value> = names.map(|(id, name)| (name, id.into())).collect();
        let special = |name: &str| {
            json!({ "id": vocab[name], "content": name, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false })
        };
        let file = json!({
            "version": "1.0",
            "added_tokens": [special("<s>"), special("</s>")],
            "model": { "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true, "fuse_unk": true },
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ] },
        });
        Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("tokenizer.json")).unwrap()
    }

    /// Random ids, of which bytes, whole words, unknown and special tokens are all frequent.
    fn random_ids(random: &mut SplitMix64, vocab_size: usize) -> Vec<u32> {
        let low = [0, 0, 256.min(vocab_size - 8), vocab_size - 8][random.next() as usize % 4];
        let len = 1 + random.next() % 40;
        (0..len).map(|_| low as u32 + (random.next() % (vocab_size + 4 - low) as u64) as u32).collect()
    }

    #[test]
    fn joined_chunks_are_the_text_of_all_tokens() {
        for tokenizer in [Tokenizer::load(&ModelSource::Demo).unwrap(), byte_fallback()] {
            let tokenizer = Arc::new(tokenizer);
            let decoder = ModelTokens::new(Arc::clone(&tokenizer));
            let mut random = SplitMix64(11);
            for round in 0..4000 {
                let ids = random_ids(&mut random, tokenizer.vocab_size());
                let skip = round % 2 == 0;
                let mut detokenizer = Detokenizer::new(skip);
                let mut chunks: String =
                    ids.iter().map(|&id| detokenizer.push(id, &decoder).unwrap()).collect();
                chunks += &detokenizer.flush(&decoder).unwrap();
                let known: Vec<u32> =
                    ids.into_iter().filter(|&id| tokenizer.token_bytes(id).is_some()).collect();
                assert_eq!(chunks, tokenizer.decode(&known, skip).unwrap(), "{known:?}");
            }
        }
    }

    #[test]
    fn only_byte_fallback_has_byte_tokens() {
        let byte_fallback = ModelTokens::new(Arc::new(byte_fallback()));
        assert_eq!(byte_fallback.byte_tokens, (0..256).collect());
        let byte_level = ModelTokens::new(Arc::new(Tokenizer::load(&ModelSource::Demo).unwrap()));
        assert!(byte_level.byte_tokens.is_empty());
    }
}
