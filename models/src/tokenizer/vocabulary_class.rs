//! What published tokenizers do that their files do not say: it stands in the Python class that tokenizer_config.json
//! names.

use super::ranks::Numbering;

/// The words of Qwen and Hunyuan: numbers are cut into digits.
const DIGIT_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The words of cl100k_base, which GLM-4 uses: up to three digits.
const NUMBER_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A class of tokenizers over a rank file.
#[derive(Clone, Copy, Debug)]
pub(super) struct RankClass {
    /// As `tokenizer_class` spells it.
    pub name: &'static str,
    /// The regular expression that cuts words.
    pub words: &'static str,
    pub nfc: bool,
    pub numbering: Numbering,
    /// Special tokens that follow the last rank, and then `<|extra_0|>` to `<|extra_204|>` if there are any.
    pub special: &'static [&'static str],
    /// Special tokens that begin every text.
    pub before: &'static [&'static str],
}

const RANK_CLASSES: [RankClass; 3] = [
    RankClass {
        name: "QWenTokenizer",
        words: DIGIT_WORDS,
        nfc: true,
        numbering: Numbering::Stated,
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        before: &[],
    },
    RankClass {
        name: "HYTokenizer",
        words: DIGIT_WORDS,
        nfc: true,
        numbering: Numbering::ByLine,
        special: &["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"],
        before: &[],
    },
    RankClass {
        name: "ChatGLM4Tokenizer",
        words: NUMBER_WORDS,
        nfc: false,
        numbering: Numbering::Stated,
        special: &[],
        before: &["[gMASK]", "<sop>"],
    },
];

impl RankClass {
    /// The class of a name; the error names those there are.
    pub fn of(name: &str) -> Result<RankClass, String> {
        RANK_CLASSES.into_iter().find(|class| class.name == name).ok_or_else(|| {
            let known = RANK_CLASSES.map(|class| class.name).join(", ");
            format!(
                "a file of ranks needs to know how words are cut: `tokenizer_class` of tokenizer_config.json is \
                 {name:?}; supported are {known}"
            )
        })
    }

    /// The names of the special tokens that follow the last rank.
    pub fn special_names(&self) -> Vec<String> {
        let extras = if self.special.is_empty() { 0 } else { 205 };
        let extras = (0..extras).map(|number| format!("<|extra_{number}|>"));
        self.special.iter().map(|name| name.to_string()).chain(extras).collect()
    }
}

/// What a class of SentencePiece tokenizers adds to its model.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceClass {
    /// Whether a text begins with `bos_token` when tokenizer_config.json does not say.
    pub adds_bos: bool,
    /// Special tokens that follow the last piece when tokenizer_config.json lists no added tokens.
    pub special: &'static [&'static str],
    /// Special tokens that begin every text.
    pub before: &'static [&'static str],
}

impl PieceClass {
    /// The class of a name; any other adds nothing.
    pub fn of(name: &str) -> PieceClass {
        const PLAIN: PieceClass = PieceClass { adds_bos: false, special: &[], before: &[] };
        match name {
            "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" | "InternLMTokenizer"
            | "InternLM2Tokenizer" | "InternLM3Tokenizer" | "SkyworkTokenizer" | "PanguTokenizer" => {
                PieceClass { adds_bos: true, ..PLAIN }
            }
            // Versions 2 and 3; the first one has no roles, and room for them.
            "ChatGLMTokenizer" => PieceClass {
                special: &[
                    "[MASK]",
                    "[gMASK]",
                    "[sMASK]",
                    "sop",
                    "eop",
                    "<|system|>",
                    "<|user|>",
                    "<|assistant|>",
                    "<|observation|>",
                ],
                before: &["[gMASK]", "sop"],
                ..PLAIN
            },
            _ => PLAIN,
        }
    }
}

/// What a class of tokenizers does to a tokenizer.json: as transformers 4 has it, for which they were published.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonClass {
    /// As `tokenizer_class` spells it, without `Fast` at its end.
    name: &'static str,
    /// Whether a text begins with `bos_token` when `add_bos_token` does not say. `None`: tokenizer.json has the only
    /// say on what begins and ends a text, and none of the flags counts.
    pub adds_bos: Option<bool>,
    /// Special tokens that tokenizer_config.json need not name.
    pub special_tokens: &'static [(&'static str, &'static str)],
}

const JSON_CLASSES: [JsonClass; 6] = [
    JsonClass {
        name: "LlamaTokenizer",
        adds_bos: Some(true),
        special_tokens: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
    },
    JsonClass {
        name: "CodeLlamaTokenizer",
        adds_bos: Some(true),
        special_tokens: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
    },
    JsonClass {
        name: "GemmaTokenizer",
        adds_bos: Some(true),
        special_tokens: &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
    },
    JsonClass {
        name: "Qwen2Tokenizer",
        adds_bos: None,
        special_tokens: &[
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ],
    },
    JsonClass {
        name: "GPT2Tokenizer",
        adds_bos: None,
        special_tokens: &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
    },
    JsonClass {
        name: "BloomTokenizer",
        adds_bos: None,
        special_tokens: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
    },
];

impl JsonClass {
    /// The class of a name, which may end in `Fast`; any other leaves everything to the files.
    pub fn of(name: &str) -> Option<JsonClass> {
        let name = name.strip_suffix("Fast").unwrap_or(name);
        JSON_CLASSES.into_iter().find(|class| class.name == name)
    }
}
