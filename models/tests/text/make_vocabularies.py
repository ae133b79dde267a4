"""Makes the small vocabularies of the tests that are not a tokenizer.json, and what the reference implementations make
of texts with them.

    python models/tests/text/make_vocabularies.py        # needs sentencepiece, tiktoken and tokenizers

SentencePiece models are trained on the sentences of make.py; the output is the same each time.
"""

import base64
import io
import json
import random
import re
import unicodedata
from pathlib import Path

import sentencepiece
import tiktoken
from make import CORPUS, TRAINING, byte_level
from sentencepiece import sentencepiece_model_pb2
from tokenizers import pre_tokenizers

HERE = Path(__file__).parent

DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUMBERS = DIGITS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

# Compatibility characters, so that the compiled rules stay small.
NFKC = [chr(c) for c in [*range(0xA0, 0x180), *range(0x1100, 0x1180), *range(0x2000, 0x2070), *range(0x2100, 0x2190),
                         *range(0x2460, 0x2480), *range(0x3000, 0x3002), *range(0xFB00, 0xFB10), *range(0xFF00, 0xFFA0), 0xFDFA]]

MORE = [
    "ﬁne ①②③ Ｆｕｌｌ　ｗｉｄｔｈ ｶﾞｷﾞ ﷺ e\u0301 ﬀ Ⅷ ½ ™",
    "  two  spaces   three    four  ",
    "\u3000\u2003 wide spaces \u00a0",
    "aaaaaaaaaaaaaaaaaaaaaaaa engineengine tokenstokens",
    "▁▁ ▁engine ▁ <0x41> <unk> <0x",
    "<sep>engine<sep> <sep>  <sep>a<sep>",
    "한글 자모 ㄱㄴ",
    "𠀀𠀁 rare 𝔘𝔫𝔦 🏳️‍🌈🇨🇳 end",
    "\x00\x01\x7f\t\r\n\v\f",
]

ALPHABETS = ["abeinkst ", "aàâé ́fifl", " ▁\n\t\u3000", "推理引擎模型词元，。 ", "0123456789., ", "🙂🏳️‍🌈👩‍👩‍👧", "Ａ①ﬁ㎏ｶﾞ ",
             "'sTtllve ", "<sep>/u0x41", "\u1112\u1161\u11ab한 "]


def texts():
    generator = random.Random(7)
    made = []
    for alphabet in ALPHABETS:
        made += ["".join(generator.choices(alphabet, k=generator.randint(1, 24))) for _ in range(12)]
    mixed = "".join(ALPHABETS) + "".join(TRAINING[:8])
    made += ["".join(generator.choices(mixed, k=generator.randint(1, 60))) for _ in range(40)]
    words = " ".join(TRAINING[:8]).split()
    made += [" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(30)]
    return CORPUS + MORE + made


TEXTS = texts()


def id_lists(size, skipped):
    """Random tokens: most are no text."""
    generator = random.Random(11)
    lists = []
    for low, high in [(0, size), (3, 259), (0, 12), (size // 2, size)]:
        ids = [i for i in range(low, min(high, size)) if i not in skipped]
        lists += [generator.choices(ids, k=generator.randint(1, 20)) for _ in range(40)]
    return lists


def write(name, file, content, config=None):
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    (directory / file).write_bytes(content)
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


def segments(text, names):
    """The text, cut at names."""
    return [part for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text) if part]


def train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TRAINING for line in text.splitlines()), model_writer=model,
        num_threads=1, minloglevel=2, hard_vocab_limit=False, **options,
    )
    return model.getvalue()


def loaded(proto):
    return sentencepiece.SentencePieceProcessor(model_proto=proto)


def without_prefix(model):
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = False
    return loaded(proto.SerializeToString())


def piece_golden(name, model, config):
    """Control tokens are found in a text by name, as transformers finds them; the stretches between are the reference's."""
    write(name, "tokenizer.model", model, config)
    reference = loaded(model)
    later = reference if config.get("legacy", True) else without_prefix(model)
    control = {reference.id_to_piece(i): i for i in range(reference.vocab_size())
               if reference.is_control(i) or reference.is_unknown(i)}
    added = {token["content"]: int(i) for i, token in config.get("added_tokens_decoder", {}).items()}
    # An added token takes the place of the piece with its id.
    control = {piece: i for piece, i in control.items() if i not in added.values()} | added
    encoded = []
    for text in TEXTS:
        ids = []
        for index, part in enumerate(segments(text, sorted(control, key=len, reverse=True))):
            ids += [control[part]] if part in control else (reference if index == 0 else later).encode(part)
        encoded.append(ids)
    lists = id_lists(reference.vocab_size(), set(control.values()))
    return {
        "ids": encoded,
        "vocab_size": max(reference.vocab_size(), 1 + max(control.values())),
        "decoded": [[ids, reference.decode(ids)] for ids in lists],
    }


def rank_tokens():
    """The bytes of a byte-level vocabulary's tokens in the order of merging."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(code): code for code in codes}
    letters |= {chr(256 + n): code for n, code in enumerate(c for c in range(256) if c not in codes)}
    tokenizer = byte_level()
    vocab = {token: i for token, i in tokenizer.get_vocab(with_added_tokens=False).items() if not token.startswith("<|")}
    assert sorted(letters) == alphabet
    return [bytes(letters[c] for c in token) for token in sorted(vocab, key=vocab.get)]


def rank_lines(tokens, number=lambda i: i):
    return b"".join(base64.b64encode(token) + f" {number(i)}\n".encode() for i, token in enumerate(tokens))


def rank_golden(pattern, ranks, special, nfc):
    encoding = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    normalized = [unicodedata.normalize("NFC", text) if nfc else text for text in TEXTS]
    return {
        "ids": [encoding.encode(text, allowed_special="all") for text in normalized],
        "vocab_size": len(ranks) + len(special),
        "decoded": [[ids, encoding.decode(ids)] for ids in id_lists(len(ranks), set(special.values()))],
    }


def added(names, start):
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(start + i): {"content": name, **entry} for i, name in enumerate(names)}


def main():
    goldens = {}
    bytes_and_merges = train(
        model_type="bpe", vocab_size=520, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "▁▁", "▁▁▁▁"], max_sentencepiece_length=8,
    )
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    goldens["spm_bpe"] = piece_golden("spm_bpe", bytes_and_merges, llama)
    size = loaded(bytes_and_merges).vocab_size()
    renamed = added(["<|im_start|>"], size - 1) | added(["<|im_end|>"], size)
    goldens["spm_bpe_first_prefix"] = piece_golden(
        "spm_bpe_first_prefix", bytes_and_merges, {**llama, "legacy": False, "added_tokens_decoder": renamed}
    )
    goldens["spm_bpe_unknown"] = piece_golden(
        "spm_bpe_unknown",
        train(model_type="bpe", vocab_size=300, normalization_rule_name="identity", user_defined_symbols=["<sep>"]),
        {"tokenizer_class": "PreTrainedTokenizer", "add_eos_token": True, "eos_token": "</s>"},
    )
    rules = HERE / "rules.tsv"
    rule = lambda text: " ".join(f"{ord(c):X}" for c in text)
    changed = [(c, unicodedata.normalize("NFKC", c)) for c in NFKC if unicodedata.normalize("NFKC", c) != c]
    changed += [("e\u0301", "é"), ("\u1112\u1161\u11ab", "한"), ("\u1112\u1161", "하")]
    rules.write_text("".join(f"{rule(old)}\t{rule(new)}\n" for old, new in changed))
    unigram = {"model_type": "unigram", "normalization_rule_tsv": str(rules), "user_defined_symbols": ["<sep>", "engine"]}
    goldens["spm_unigram"] = piece_golden(
        "spm_unigram", train(vocab_size=300, **unigram), {"tokenizer_class": "Other", "legacy": False}
    )
    goldens["spm_unigram_bytes"] = piece_golden(
        "spm_unigram_bytes",
        train(vocab_size=500, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, **unigram), {},
    )
    rules.unlink()

    tokens = rank_tokens()
    qwen_names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]
    ranks = {token: i for i, token in enumerate(tokens)}
    write("qwen_ranks", "qwen.tiktoken", rank_lines(tokens), {"tokenizer_class": "QWenTokenizer"})
    qwen = {name: len(tokens) + i for i, name in enumerate(qwen_names)}
    goldens["qwen_ranks"] = rank_golden(DIGITS, ranks, qwen, nfc=True)

    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|im_end|>"]
    config = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": added(names, len(tokens) + 3)}
    write("glm4_ranks", "tokenizer.model", rank_lines(tokens), config)
    glm = {name: len(tokens) + 3 + i for i, name in enumerate(names)}
    goldens["glm4_ranks"] = rank_golden(NUMBERS, ranks, glm, nfc=False)

    names = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"] + qwen_names[3:]
    repeated = tokens[:300] + tokens[:2] + tokens[300:]
    write("hunyuan_ranks", "hy.tiktoken", rank_lines(repeated, lambda i: 5 * i), {"tokenizer_class": "HYTokenizer"})
    hunyuan = {name: len(tokens) + i for i, name in enumerate(names)}
    goldens["hunyuan_ranks"] = rank_golden(DIGITS, ranks, hunyuan, nfc=True)

    used, names = len(tokens) - 20, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    fill = [f"<SPECIAL_{i}>" for i in range(5, 8)]
    tekken = {
        "config": {"pattern": NUMBERS, "num_vocab_tokens": len(tokens), "default_vocab_size": used + 8,
                   "default_num_special_tokens": 8, "version": "v7"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
                  for i, token in enumerate(tokens)],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)],
    }
    write("tekken", "tekken.json", json.dumps(tekken).encode())
    shifted = {token: i + 8 for i, token in enumerate(tokens[:used])}
    special = {name: i for i, name in enumerate(names + fill)}
    goldens["tekken"] = rank_golden(NUMBERS, shifted, special, nfc=False)

    content = {"texts": TEXTS, "vocabularies": goldens}
    (HERE / "vocabularies.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    for name, golden in goldens.items():
        print(name, golden["vocab_size"])


if __name__ == "__main__":
    main()
