//! How texts are cut into words before byte pairs are merged: `tokenizer.ggml.pre` names a rule that GGUF files do not
//! spell out. The expressions are those of the models' own tokenizer.json; a rule that no tokenizer.json was at hand for is
//! the one that the format's own program has under this name.

use serde_json::{Value, json};

/// A rule for cutting words.
pub(super) struct PreTokenizer {
    /// Its names in files.
    names: &'static [&'static str],
    /// What cuts, one after the other.
    steps: &'static [Step],
    /// Bring the text to Unicode's normal form C first.
    pub nfc: bool,
    /// A word that is a token is not merged.
    pub ignore_merges: bool,
    /// Texts begin with a token when the file does not say.
    pub adds_bos: bool,
}

#[derive(Clone, Copy)]
enum Step {
    /// Whatever the expression matches stands alone.
    Split(&'static str),
    /// Every digit stands alone.
    Digits,
    /// GPT-2's words.
    Gpt2,
}

use Step::{Digits, Gpt2, Split};

/// Words of letters, numbers of up to three digits: cl100k_base's and Llama 3's.
const WORDS_AND_TRIPLETS: Step = Split(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// The same with digits one by one: Qwen's.
const WORDS_AND_DIGITS: Step = Split(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// Qwen3.5's, whose words include combining marks.
const MARKED_WORDS_AND_DIGITS: Step = Split(concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// o200k_base's, which cuts words where capitals begin.
const CASED_WORDS: Step = Split(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// Kimi's: the same with Chinese apart from all other letters.
const KIMI_WORDS: Step = Split(concat!(
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// Mistral's tekken: the same without contractions, digits one by one.
const TEKKEN_WORDS: Step = Split(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// DeepSeek V3's, behind triplets of digits and runs of Chinese or kana.
const DEEPSEEK_WORDS: Step = Split(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
/// Spark-X2.5's variant of it.
const SPARK_WORDS: Step = Split(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
));
const TRIPLETS: Step = Split(r"\p{N}{1,3}");
const CJK_AND_KANA: Step = Split("[一-龥\u{3040}-ゟ゠-ヿ]+");
const CJK_AND_HANGUL: Step = Split("[一-龥\u{800}-一가-\u{d7ff}]+");
/// The letters of alphabets with two cases, as DeepSeek LLM lists them.
const CASED_LETTERS: Step = Split(concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1f7d}ᾀ-ᾴᾶ-ᾼ\x{1fbe}ῂ-ῄῆ-ῌῐ-\x{1fd3}ῖ-\x{1fdb}",
    r"ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝ\x{2124}\x{2126}\x{2128}\x{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
));

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], steps: &[], nfc: false, ignore_merges: false, adds_bos: false };

const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["default"],
        steps: &[Split(r"[\p{P}\$\+<=>\^~\|]+"), Gpt2, Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais", "trillion",
        ],
        steps: &[Gpt2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        steps: &[WORDS_AND_TRIPLETS],
        ignore_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        steps: &[WORDS_AND_TRIPLETS],
        ..PLAIN
    },
    PreTokenizer { names: &["qwen2", "hunyuan"], steps: &[WORDS_AND_DIGITS], nfc: true, ..PLAIN },
    PreTokenizer {
        names: &["deepseek-r1-qwen", "stablelm2", "grok-2", "solar-open", "megrez", "kormo"],
        steps: &[WORDS_AND_DIGITS],
        ..PLAIN
    },
    PreTokenizer { names: &["qwen35"], steps: &[MARKED_WORDS_AND_DIGITS], nfc: true, ..PLAIN },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            Split(r"[\r\n]"),
            CASED_LETTERS,
            Split(r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"),
            Split(r"\s+$"),
            CJK_AND_HANGUL,
            Split(r"\p{N}+"),
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), CJK_AND_HANGUL, Digits],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        steps: &[TRIPLETS, CJK_AND_KANA, DEEPSEEK_WORDS],
        ..PLAIN
    },
    PreTokenizer { names: &["spark2_5"], steps: &[TRIPLETS, CJK_AND_KANA, SPARK_WORDS, Digits], ..PLAIN },
    PreTokenizer {
        names: &["falcon"],
        steps: &[Split(r"[\p{P}\$\+<=>\^~\|`]+"), Gpt2, Split("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[Digits, Gpt2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        steps: &[Split(r" ?[^(\s|.,!?…。，、।۔،)]+")],
        ..PLAIN
    },
    PreTokenizer { names: &["tekken"], steps: &[TEKKEN_WORDS], ignore_merges: true, adds_bos: true, ..PLAIN },
    PreTokenizer { names: &["kimi-k2"], steps: &[KIMI_WORDS], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], steps: &[CASED_WORDS], ..PLAIN },
];

/// The rule of a name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name))
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRE_TOKENIZERS.iter().flat_map(|pre| pre.names.iter().copied())
}

/// The step that spells bytes as characters; `words` cuts GPT-2's words before.
pub(super) fn byte_level(words: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words})
}

/// GPT-2's words where others follow.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// As a tokenizer.json has it.
    pub fn json(&self) -> Value {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let step = |step: &Step| match step {
            Split(pattern) => split(pattern),
            Digits => json!({"type": "Digits", "individual_digits": true}),
            Gpt2 => split(GPT2_WORDS),
        };
        let steps = self.steps.iter().map(step).chain([byte_level(false)]);
        json!({"type": "Sequence", "pretokenizers": steps.collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
    };

    use super::*;
    use crate::Tokenizer;

    #[test]
    fn names_are_there_once() {
        let mut seen = HashSet::new();
        names().for_each(|name| assert!(seen.insert(name), "{name}"));
        assert!(find("viking").is_none());
    }

    #[test]
    fn words_are_cut_as_each_rule_says() {
        let cases: [(&str, &str, &[&str]); 12] = [
            ("default", "it's $12345", &["it", "'", "s", " ", "$", "123", "45"]),
            ("gpt-2", "it's 12345  x", &["it", "'s", " 12345", " ", " x"]),
            ("llama-bpe", "IT'S 12345\n\n x", &["IT", "'S", " ", "123", "45", "\n\n", " x"]),
            ("qwen2", "a 123!\n", &["a", " ", "1", "2", "3", "!\n"]),
            ("qwen35", "e\u{301}e", &["e\u{301}e"]),
            ("deepseek-llm", "ab 模速12\nx", &["ab", " ", "模速", "12", "\n", "x"]),
            ("deepseek-coder", "ab 模速12\nx", &["ab", " ", "模速", "1", "2", "\n", "x"]),
            ("deepseek-v3", "(ab 1234 日本の", &["(ab", " ", "123", "4", " ", "日本の"]),
            ("falcon", "a+12345 b", &["a", "+", "123", "45", " b"]),
            ("starcoder", "a12 b", &["a", "1", "2", " b"]),
            ("gpt-4o", "HelloWorld's 1234", &["Hello", "World's", " ", "123", "4"]),
            ("kimi-k2", "中文English混合", &["中文", "English", "混合"]),
        ];
        for (name, text, expected) in cases {
            let rule: PreTokenizerWrapper = serde_json::from_value(find(name).unwrap().json()).unwrap();
            let mut words = PreTokenizedString::from(text);
            rule.pre_tokenize(&mut words).unwrap();
            let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let words: Vec<&str> = words.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect();
            assert_eq!(words, expected, "{name}");
        }
    }

    /// Every expression compiles, and every rule leaves the text as it is.
    #[test]
    fn no_rule_loses_text() {
        let text = "I'VE 1234 cats\r\n\n  e\u{301} 한국어 日本語の模速—“x”\t<|im|> ٣٤ $a+b=c²  ";
        for pre in PRE_TOKENIZERS {
            let alphabet = Tokenizer::of_bytes().unwrap();
            let vocab: serde_json::Map<String, Value> = (0..alphabet.vocab_size() as u32)
                .map(|id| (super::super::tests::byte_name(id as u8), id.into()))
                .collect();
            let json = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": pre.json(),
                "decoder": byte_level(false), "model": {"type": "BPE", "vocab": vocab, "merges": []}});
            let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), Path::new("t")).unwrap();
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{:?}", pre.names);
        }
    }
}
