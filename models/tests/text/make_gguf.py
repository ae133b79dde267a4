"""Writes the vocabularies of the tests as GGUF files, as llama.cpp's converter would.

    python models/tests/text/make_gguf.py        # needs gguf, sentencepiece, protobuf

Their ids are compared with those that the originals give: tokens.json and vocabularies.json.
"""

import base64
import json
from pathlib import Path

import gguf
from gguf import TokenType
from sentencepiece import sentencepiece_model_pb2

HERE = Path(__file__).parent
OUT = HERE / "gguf"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def alphabet():
    """The character of each byte in byte-level vocabularies."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {byte: chr(byte) for byte in itself} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


ALPHABET = alphabet()


def spelled(token):
    return "".join(ALPHABET[byte] for byte in token)


def merges_of(ranks):
    """The merge that makes each token, found by encoding it with those before it."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [(ranks.get(a + b), n) for n, (a, b) in enumerate(zip(parts, parts[1:]))]
            best, n = min((pair for pair in pairs if pair[0] is not None and pair[0] < rank), default=(None, 0))
            if best is None:
                break
            parts[n : n + 2] = [parts[n] + parts[n + 1]]
        if len(parts) == 2:
            merges.append(" ".join(map(spelled, parts)))
    return merges


def write(name, model, pre, tokens, merges=None, scores=None, more=None):
    """One file; `tokens` are pairs of a text and its type."""
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([int(kind) for _, kind in tokens])
    if scores is not None:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    writer.add_chat_template(TEMPLATE)
    (more or (lambda _: None))(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level():
    content = json.loads((HERE / "byte_level/tokenizer.json").read_text())
    tokens = {id: (text, TokenType.NORMAL) for text, id in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        tokens[token["id"]] = (token["content"], kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]

    def more(writer):
        writer.add_eos_token_id(next(token["id"] for token in content["added_tokens"] if token["special"]))
        writer.add_add_bos_token(False)

    write("byte_level", "gpt2", "smaug-bpe", [tokens[id] for id in range(len(tokens))], merges, more=more)


def pieces(name, padding):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((HERE / name / "tokenizer.model").read_bytes())
    # The types have the same numbers.
    tokens = [(piece.piece, TokenType(piece.type)) for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    for number in range(padding):
        tokens.append((f"[PAD{len(tokens)}]", TokenType.UNUSED))
        scores.append(-10000.0)

    def more(writer):
        writer.add_bos_token_id(model.trainer_spec.bos_id)
        writer.add_eos_token_id(model.trainer_spec.eos_id)
        writer.add_unk_token_id(model.trainer_spec.unk_id)

    write(name, "llama", "default", tokens, scores=scores, more=more)


def ranks(name, pre):
    file = next(path for path in (HERE / name).iterdir() if path.suffix in (".tiktoken", ".model"))
    lines = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
    found = {}
    for token, rank in lines:
        found.setdefault(base64.b64decode(token), len(found) if name == "hunyuan_ranks" else int(rank))
    tokens = {rank: (spelled(token), TokenType.NORMAL) for token, rank in found.items()}
    config = json.loads((HERE / name / "tokenizer_config.json").read_text())
    for id, token in config.get("added_tokens_decoder", {}).items():
        tokens[int(id)] = (token["content"], TokenType.CONTROL)
    extras = {"qwen_ranks": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
              "hunyuan_ranks": ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"]}
    first = max(tokens) + 1
    if name in extras:
        special = extras[name] + [f"<|extra_{number}|>" for number in range(205)]
        tokens |= {first + number: (text, TokenType.CONTROL) for number, text in enumerate(special)}
    listed = [tokens.get(id, (f"[PAD{id}]", TokenType.UNUSED)) for id in range(max(tokens) + 1)]
    write(name, "gpt2", pre, listed, merges_of(found), more=lambda writer: writer.add_add_bos_token(False))


def tekken():
    content = json.loads((HERE / "tekken/tekken.json").read_text())
    config = content["config"]
    special = config["default_num_special_tokens"]
    count = config["default_vocab_size"] - special
    found = {base64.b64decode(token["token_bytes"]): token["rank"] for token in content["vocab"][:count]}
    names = {token["rank"]: token["token_str"] for token in content.get("special_tokens", [])}
    tokens = [(names.get(id, f"<SPECIAL_{id}>"), TokenType.CONTROL) for id in range(special)]
    tokens += [(spelled(token), TokenType.NORMAL) for token in sorted(found, key=found.get)]
    # Its expression is Llama 3's.
    write("tekken", "gpt2", "llama-bpe", tokens, merges_of(found), more=lambda writer: writer.add_add_bos_token(False))


def main():
    OUT.mkdir(exist_ok=True)
    byte_level()
    pieces("spm_bpe", padding=3)
    ranks("qwen_ranks", "qwen2")
    ranks("glm4_ranks", "chatglm-bpe")
    ranks("hunyuan_ranks", "hunyuan")
    tekken()


if __name__ == "__main__":
    main()
