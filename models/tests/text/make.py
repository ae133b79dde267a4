"""Makes the two small tokenizers of the tests and the ids that the Python library gives them.

    python models/tests/text/make.py        # needs tokenizers

Both are trained on the sentences below; the output is the same each time.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent

TRAINING = [
    "The engine reads a checkpoint, builds a batch and answers in a stream of tokens.",
    "A paged cache keeps keys and values in blocks; a block holds sixteen tokens.",
    "def step(batch):\n    for row in batch:\n        yield sample(row, temperature=0.7)\n",
    "fn main() {\n    let total: usize = (0..10).map(|x| x * x).sum();\n    println!(\"{total}\");\n}\n",
    "推理引擎读取模型，建立批次，然后逐个生成词元。",
    "引擎用分页缓存保存键和值，每一块十六个词元。",
    "エンジンは文章をトークンに分けて、一つずつ答えます。",
    "In 2024 there were 365 days + 1, or 8784 hours; 3.14159 is not 22/7.",
] * 4

CORPUS = TRAINING[:8] + [
    "",
    " ",
    "    four spaces, then\ttab and  two",
    "\n\n\r\n trailing \n",
    "Hello, world! It's what we'll say; THEY'LL not.",
    "naïve café — “quotes” … №5",
    "你好，世界！今天是2026年11月22日。",
    "한국어 문장도 있습니다",
    "🙂👩‍👩‍👧‍👦🇨🇳 emoji 🏳️‍🌈 end",
    "1234567890 00 1,000,000.00 0x1F 1e-5",
    "if (a[i] != b->c) { return a ? b : c; } // comment",
    "<|im_start|>user\nhi<|im_end|>",
    "<s>[INST] hi [/INST]</s>",
    "a\u0301 combining, \u200b zero width, \ufeff bom, \x00 nul",
    "مرحبا بالعالم",
    "▁ already a metaspace and Ġ a byte letter",
]

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level():
    """As Qwen and Llama 3: a split with look-ahead, GPT-2's byte alphabet, no token added. Truncation and padding are
    stored, as some publish them, and must have no effect."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer


def byte_fallback():
    """As Llama 2: spaces are U+2581, one is put before the text, bytes are the last resort, and <s> is added."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, max_token_length=8, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    # The bytes must be of the vocabulary, not added tokens, as in Llama 2.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def golden(tokenizer):
    cases = []
    for text in CORPUS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({
            "text": text,
            "ids": ids,
            "ids_with_special": tokenizer.encode(text).ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
        })
    return {"vocab_size": tokenizer.get_vocab_size(), "cases": cases}


def main():
    goldens = {}
    for make in (byte_level, byte_fallback):
        tokenizer = make()
        goldens[make.__name__] = golden(tokenizer)
        if make is byte_level:
            tokenizer.enable_truncation(8)
            tokenizer.enable_padding(length=64)
        directory = HERE / make.__name__
        directory.mkdir(exist_ok=True)
        tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    text = json.dumps(goldens, ensure_ascii=True, indent=None, separators=(",", ":"))
    (HERE / "tokens.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
