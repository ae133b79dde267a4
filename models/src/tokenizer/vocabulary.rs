//! A tokenizer made of a published vocabulary that is not a tokenizer.json: pieces or ranks, and the tokens around them.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokenizers::AddedToken as TokenRules;

use super::{
    added_tokens::{AddedToken, AddedTokens, Segment},
    error::TokenizerError,
    joining::Joining,
    ranks::{self, Ranks, Tekken},
    sentencepiece::SentencePiece,
    token_table::{TokenPiece, TokenTable},
    tokenizer_config::TokenizerConfig,
    vocabulary_class::{PieceClass, RankClass},
};

#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    pieces: Pieces,
    added: AddedTokens,
    /// Ids that begin and end every text, when asked for.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Every id by its name. A name stands for one id; an id may have had another name in the model.
    names: HashMap<String, u32>,
    table: TokenTable,
}

#[derive(Clone, Debug)]
enum Pieces {
    /// `every_prefix`: each stretch of text gets the space that the model puts before a text, not the first alone.
    SentencePiece {
        model: Box<SentencePiece>,
        every_prefix: bool,
    },
    Ranks(Ranks),
}

/// What all kinds of vocabularies are made of, before they are put together.
struct Parts {
    pieces: Pieces,
    /// By id: the name, the bytes, and whether it is a byte or special.
    tokens: BTreeMap<u32, OwnPiece>,
    added: Vec<AddedToken>,
    before: Vec<String>,
    after: Vec<String>,
}

struct OwnPiece {
    name: Option<String>,
    bytes: Vec<u8>,
    is_byte: bool,
    is_special: bool,
    has_metaspace: bool,
}

impl Vocabulary {
    /// A `tokenizer.model`: SentencePiece's, or ranks under the same name. The error says what is not supported.
    pub fn of_model(bytes: &[u8], config: &TokenizerConfig) -> Result<Vocabulary, String> {
        if ranks::is_rank_file(bytes) {
            return Vocabulary::of_ranks(bytes, config);
        }
        let model = Box::new(SentencePiece::read(bytes)?);
        let class = PieceClass::of(&config.class);
        let mut tokens = BTreeMap::new();
        let mut added = Vec::new();
        model.for_each_piece(|name, piece| {
            let id = tokens.len() as u32;
            let TokenPiece { bytes, is_byte, is_special, has_metaspace } = piece;
            if is_special {
                added.push(AddedToken::special(id, name));
            }
            let (name, bytes) = (Some(name.into()), bytes.into());
            tokens.insert(id, OwnPiece { name, bytes, is_byte, is_special, has_metaspace });
        });
        if config.added_tokens.is_empty() {
            added.extend((tokens.len() as u32..).zip(class.special).map(|(id, name)| AddedToken {
                id,
                rules: TokenRules::from(*name, true).single_word(name.chars().all(char::is_alphabetic)),
            }));
        }
        let end = |add: Option<bool>, default: bool, name: &str| {
            let token = config.special_tokens.get(name).filter(|_| add.unwrap_or(default));
            token.map(String::from)
        };
        let before = class.before.iter().map(|name| name.to_string());
        let every_prefix = config.legacy.unwrap_or(true);
        Parts {
            pieces: Pieces::SentencePiece { model, every_prefix },
            tokens,
            added,
            before: before.chain(end(config.add_bos_token, class.adds_bos, "bos_token")).collect(),
            after: end(config.add_eos_token, false, "eos_token").into_iter().collect(),
        }
        .assemble(config)
    }

    /// A rank file. The error says what is not supported.
    pub fn of_ranks(bytes: &[u8], config: &TokenizerConfig) -> Result<Vocabulary, String> {
        let class = RankClass::of(&config.class)?;
        let ranks = Ranks::new(ranks::read_rank_file(bytes, class.numbering)?, class.words, class.nfc)?;
        let added = (ranks.next_id()..).zip(class.special_names());
        let added = added.map(|(id, name)| AddedToken::special(id, &name)).collect();
        let before = class.before.iter().map(|name| name.to_string()).collect();
        Parts::of_ranks(ranks, added, before).assemble(config)
    }

    /// A `tekken.json`. The error says what is wrong with it.
    pub fn of_tekken(bytes: &[u8], config: &TokenizerConfig) -> Result<Vocabulary, String> {
        let tekken = Tekken::read(bytes)?;
        let special = (0..).zip(tekken.special_tokens());
        let added = special.map(|(id, name)| AddedToken::special(id, &name)).collect();
        Parts::of_ranks(tekken.ranks()?, added, vec!["<s>".into()]).assemble(config)
    }

    /// The ids of `text`, with or without what begins and ends every text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = if add_special_tokens { self.before.clone() } else { Vec::new() };
        for (index, segment) in self.added.split(text).into_iter().enumerate() {
            match (segment, &self.pieces) {
                (Segment::Token(id), _) => ids.push(id),
                (Segment::Text(text), Pieces::SentencePiece { model, every_prefix }) => {
                    ids.extend(model.encode(text, index == 0 || *every_prefix));
                }
                (Segment::Text(text), Pieces::Ranks(ranks)) => ids.extend(ranks.encode(text)?),
            }
        }
        if add_special_tokens {
            ids.extend(&self.after);
        }
        Ok(ids)
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn id_of(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub fn kind(&self) -> &'static str {
        match &self.pieces {
            Pieces::SentencePiece { model, .. } => model.kind(),
            Pieces::Ranks(_) => "ranks, as tiktoken",
        }
    }

    pub fn table(&self) -> &TokenTable {
        &self.table
    }

    pub fn joining(&self) -> Joining {
        match &self.pieces {
            Pieces::SentencePiece { model, .. } => model.joining(),
            Pieces::Ranks(_) => Joining::BYTE_LEVEL,
        }
    }
}

impl Parts {
    fn of_ranks(ranks: Ranks, added: Vec<AddedToken>, before: Vec<String>) -> Parts {
        let own = |bytes: &[u8]| OwnPiece {
            name: String::from_utf8(bytes.into()).ok(),
            bytes: bytes.into(),
            is_byte: false,
            is_special: false,
            has_metaspace: false,
        };
        let tokens = ranks.tokens().map(|(bytes, id)| (id, own(bytes))).collect();
        Parts { pieces: Pieces::Ranks(ranks), tokens, added, before, after: Vec::new() }
    }

    /// Adds what tokenizer_config.json lists, which has the last word, and the named special tokens.
    fn assemble(mut self, config: &TokenizerConfig) -> Result<Vocabulary, String> {
        let ids: HashSet<u32> = config.added_tokens.iter().map(|token| token.id).collect();
        let contents: HashSet<&str> =
            config.added_tokens.iter().map(|token| token.rules.content.as_str()).collect();
        self.added
            .retain(|token| !ids.contains(&token.id) && !contents.contains(token.rules.content.as_str()));
        self.added.extend(config.added_tokens.iter().cloned());
        for token in &self.added {
            let AddedToken { id, rules: TokenRules { content, special, .. } } = token;
            let piece = OwnPiece {
                name: Some(content.clone()),
                bytes: content.clone().into_bytes(),
                is_byte: false,
                is_special: *special,
                has_metaspace: false,
            };
            self.tokens.insert(*id, piece);
        }
        let named = self.tokens.iter().filter_map(|(&id, piece)| Some((piece.name.clone()?, id)));
        let mut names: HashMap<String, u32> = named.collect();
        names.extend(self.added.iter().map(|token| (token.rules.content.clone(), token.id)));
        for (_, name) in config.special_tokens.iter() {
            let known = self.added.iter().any(|token| token.rules.content == name);
            if let Some((&id, false)) = names.get(name).map(|id| (id, known)) {
                self.added.push(AddedToken::special(id, name));
                self.tokens.entry(id).and_modify(|piece| piece.is_special = true);
            }
        }
        let ids = |tokens: Vec<String>| {
            let id =
                |name: String| names.get(&name).copied().ok_or_else(|| format!("there is no token {name:?}"));
            tokens.into_iter().map(id).collect::<Result<Vec<u32>, String>>()
        };
        Ok(Vocabulary {
            before: ids(self.before)?,
            after: ids(self.after)?,
            added: AddedTokens::new(self.added),
            names,
            pieces: self.pieces,
            table: table(&self.tokens),
        })
    }
}

fn table(tokens: &BTreeMap<u32, OwnPiece>) -> TokenTable {
    let mut table = TokenTable::default();
    let mut next = 0;
    for (&id, OwnPiece { bytes, is_byte, is_special, has_metaspace, .. }) in tokens {
        let (is_byte, is_special, has_metaspace) = (*is_byte, *is_special, *has_metaspace);
        (next..id).for_each(|_| table.skip());
        table.push(TokenPiece { bytes, is_byte, is_special, has_metaspace });
        next = id + 1;
    }
    table
}

#[cfg(test)]
mod tests;
