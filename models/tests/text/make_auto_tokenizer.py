"""Records what transformers' AutoTokenizer makes of a tokenizer.json with a tokenizer_config.json beside it.

    python models/tests/text/make_auto_tokenizer.py        # needs transformers, sentencepiece and jinja2

Run once with each major version; the recording is named after it. Last run with transformers 4.57.6 (tokenizers 0.22.2)
and 5.24.0 (tokenizers 0.23.3). The tokenizers are those of make.py with some of their parts replaced.
"""

import json
import tempfile
from pathlib import Path

import transformers
from make import SPLIT
from transformers import AutoTokenizer

HERE = Path(__file__).parent

TEXTS = [
    "",
    " ",
    "Hello, world! It's 2026.",
    "  two  spaces   three",
    "\n\n\r\n trailing \n",
    "推理引擎，模型 engine",
    "🙂👩‍👩‍👧 end",
    "cafe\u0301 №",
    "▁ metaspace Ġ",
    "<s>hi</s>",
    " a <s> b </s> c",
    "hi <think> so </think> ok",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a  <left>  b<left>",
    "a  <right>  b<right>",
    "  <both>  <both> \n <both>",
    "sop",
    "asop sopa _sop sop. sop",
    "x<norm>y <norm> <norm>",
    "<plain> <plain>",
    " <gap> at start",
    "a <gap>b <gap",
    "caf\u00e9! cafe\u0301!",
    "<named> <listed> <mapped> <renamed> <unk> <pad>",
]

# With what begins and ends a text: for every pair of flags.
ENDS = ["", "hi", "<s>hi</s>"]
FLAGS = [None, True, False]


def token(content, **flags):
    defaults = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    return {"content": content, **defaults, **flags}


# The tokenizers of make.py, the first id that they do not use, and parts that take the place of their own.
BYTES = {"base": "byte_level", "next": 601, "parts": {}}
PIECES = {"base": "byte_fallback", "next": 600, "parts": {}}


def replaced(tokenizer, **parts):
    return {**tokenizer, "parts": {**tokenizer["parts"], **parts}}


def with_added(config, tokenizer, normalized=True):
    """A configuration that lists the tokens of tokenizer.json, as published ones do, and some that it lacks."""
    known = json.loads((HERE / tokenizer["base"] / "tokenizer.json").read_text())["added_tokens"]
    listed = {entry.pop("id"): entry for entry in known}
    missing = [
        token("<left>", lstrip=True, special=True),
        token("<right>", rstrip=True, special=True),
        token("<both>", lstrip=True, rstrip=True),
        token("sop", single_word=True),
        token("<plain>"),
        token(" <gap>"),
    ]
    missing += [token("<norm>", normalized=True), token("caf\u00e9!", normalized=True, special=True)] * normalized
    listed |= {tokenizer["next"] + i: entry for i, entry in enumerate(missing)}
    return {**config, "added_tokens_decoder": {str(i): entry for i, entry in listed.items()}}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
MISTRAL = replaced(PIECES, normalizer=None, pre_tokenizer=METASPACE, decoder=METASPACE)
GEMMA = replaced(
    PIECES,
    normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    decoder={"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]},
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GPT2 = replaced(BYTES, normalizer=None, pre_tokenizer=BYTE_LEVEL, post_processor=BYTE_LEVEL)
QWEN2 = replaced(BYTES, pre_tokenizer={"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": SPLIT.replace("{1,3}", "")}, "behavior": "Isolated", "invert": False},
    {**BYTE_LEVEL, "use_regex": False},
]})


def begins(name, i):
    """A post-processor that puts a token before every text."""
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    pieces = [special, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]}}}


LLAMA3 = replaced(BYTES, post_processor=begins("<|endoftext|>", 596))
DISTILLED = replaced(QWEN2, post_processor=begins("<|endoftext|>", 596))

LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
QWEN = {"bos_token": None, "eos_token": "<|im_end|>", "unk_token": None, "pad_token": "<|endoftext|>"}
DEEPSEEK = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": None, "pad_token": "<|im_end|>"}
GPT = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
FAST = "PreTrainedTokenizerFast"


def case(tokenizer, name, model_type, config, **files):
    """`files`: contents by name, without `.json`."""
    config = {"tokenizer_class": name, **config} if name else config
    files = {"tokenizer_config": config, **files}
    return {"base": tokenizer["base"], "parts": tokenizer["parts"], "model_type": model_type, "files": files}


def published(tokenizer, name, model_type, config, normalized=True):
    """A class as published checkpoints have it; what begins and ends a text is recorded too."""
    return {**case(tokenizer, name, model_type, with_added(config, tokenizer, normalized)), "with_ends": True}


CODE_LLAMA = {**LLAMA, "prefix_token": None, "middle_token": None, "suffix_token": None, "eot_token": None, "fill_token": None}
NO_PREFIX = {**BYTE_LEVEL, "add_prefix_space": True}

CASES = {
    # Every class that published checkpoints of our families name, over the kind of vocabulary that it comes with.
    # A normalizer that puts a space before a token is left to a case of its own.
    "llama1": published(PIECES, "LlamaTokenizer", "llama", LLAMA, normalized=False),
    "llama2": published(PIECES, "LlamaTokenizerFast", "llama", {**LLAMA, "legacy": False}, normalized=False),
    "llama3": published(LLAMA3, FAST, "llama", {**DEEPSEEK, "bos_token": "<|endoftext|>"}),
    "llama4": published(LLAMA3, FAST, "llama4", {**DEEPSEEK, "bos_token": "<|endoftext|>"}),
    "code_llama": published(PIECES, "CodeLlamaTokenizer", "llama", CODE_LLAMA, normalized=False),
    "mistral": published(MISTRAL, "LlamaTokenizerFast", "mistral", LLAMA),
    "mixtral": published(PIECES, "LlamaTokenizer", "mixtral", LLAMA, normalized=False),
    "phi3": published(PIECES, "LlamaTokenizer", "phi3", {**LLAMA, "legacy": False}, normalized=False),
    "phi4": published(GPT2, "GPT2Tokenizer", "phi3", GPT),
    "ernie": published(PIECES, "LlamaTokenizer", "ernie4_5", LLAMA, normalized=False),
    "gemma": published(GEMMA, "GemmaTokenizerFast", "gemma2", {**LLAMA, "pad_token": "<unk>", "mask_token": None}),
    "qwen": published(QWEN2, "Qwen2Tokenizer", "qwen3", {**QWEN, "unk_token": "<|endoftext|>"}),
    "gpt2": published(GPT2, "GPT2TokenizerFast", "gpt2", GPT),
    "minimax": published(BYTES, "GPT2Tokenizer", "minimax_m2", GPT),
    "gpt_oss": published(BYTES, FAST, "gpt_oss", QWEN),
    "bloom": published(BYTES, "BloomTokenizerFast", "bloom", {**GPT, "pad_token": "<|im_end|>"}),
    "glm": published(BYTES, FAST, "glm4", QWEN),
    "hunyuan": published(BYTES, FAST, "hunyuan_v1_dense", DEEPSEEK),
    "deepseek": published(BYTES, "LlamaTokenizerFast", "deepseek_v3", DEEPSEEK),
    "deepseek_qwen": published(DISTILLED, "LlamaTokenizerFast", "qwen2", DEEPSEEK),
    "step": published(BYTES, "LlamaTokenizerFast", "step3p5", DEEPSEEK),
    "internlm2": published(PIECES, "InternLM2Tokenizer", "internlm2", LLAMA, normalized=False),
    "pangu": published(PIECES, "PanguTokenizer", "PanguEmbedded", LLAMA, normalized=False),
    "version_5": {**case(PIECES, "LlamaTokenizer", "phi3", {**LLAMA, "backend": "tokenizers"}), "with_ends": True},
    "class_defaults": {**case(BYTES, "LlamaTokenizerFast", "deepseek_v3", {}), "with_ends": True},
    "no_class": {**case(PIECES, None, "glm4", LLAMA), "with_ends": True},
    # What else the files say of tokens.
    "normalized": case(PIECES, "LlamaTokenizer", "mixtral", {**LLAMA, "added_tokens_decoder": {"600": token("<norm>", normalized=True)}}),
    "normalized_special": case(PIECES, "LlamaTokenizer", "mixtral", {**LLAMA, "added_tokens_decoder": {"600": token("<norm>", normalized=True, special=True)}}),
    "qwen_defaults": case(QWEN2, "Qwen2Tokenizer", "qwen3", {}),
    "gpt2_defaults": case(GPT2, "GPT2Tokenizer", "gpt2", {}),
    "same_id": case(BYTES, FAST, "glm4", {**QWEN, "added_tokens_decoder": {"600": token("<renamed>", special=True)}}),
    "far_id": case(BYTES, FAST, "glm4", {**QWEN, "added_tokens_decoder": {"100000": token("<plain>"), "700": token("<left>")}}),
    "known_token": case(BYTES, FAST, "glm4", {**QWEN, "added_tokens_decoder": {"7": token("<think>", rstrip=True), "9": token("<|im_end|>", lstrip=True)}}),
    "no_text": case(BYTES, FAST, "glm4", {**QWEN, "pad_token": "", "added_tokens_decoder": {"601": token(""), "602": token("<plain>")}}),
    "objects": case(BYTES, FAST, "glm4", {
        **QWEN, "eos_token": {"__type": "AddedToken", **token("<named>", lstrip=True, rstrip=True)},
        "pad_token": {"__type": "AddedToken", **token("<|im_end|>", lstrip=True)},
        "additional_special_tokens": ["<listed>", {"__type": "AddedToken", **token("<mapped>", rstrip=True)}]}),
    "new_strings": case(PIECES, FAST, "glm4", {**LLAMA, "pad_token": "<pad>", "eos_token": "hi", "additional_special_tokens": ["<named>"]}),
    "extra_list": case(BYTES, "TokenizersBackend", "glm4", {**QWEN, "backend": "tokenizers", "extra_special_tokens": ["<listed>", "<think>"]}),
    "extra_names": case(BYTES, FAST, "glm4", {**QWEN, "extra_special_tokens": {"image_token": "<named>"}}),
    "map": case(BYTES, FAST, "glm4", QWEN, special_tokens_map={
        "eos_token": token("<mapped>", lstrip=True), "pad_token": "<pad>", "additional_special_tokens": [token("<listed>", rstrip=True), "<named>"]}),
    "map_unread": case(BYTES, FAST, "glm4", with_added(QWEN, BYTES), special_tokens_map={"eos_token": "<mapped>"}),
    "old_added": case(BYTES, FAST, "glm4", {**QWEN, "pad_token": "<pad>"}, added_tokens={"<plain>": 606, "<pad>": 605, "<|im_end|>": 598, " <gap>": 601}),
    "split": case(BYTES, FAST, "glm4", {**with_added(QWEN, BYTES), "split_special_tokens": True}),
    "prefix_space": case(GPT2, "GPT2Tokenizer", "gpt2", {**GPT, "add_prefix_space": True}),
    "no_prefix_space": case(replaced(GPT2, pre_tokenizer=NO_PREFIX), "GPT2Tokenizer", "gpt2", {**GPT, "add_prefix_space": False}),
    "prefix_unsaid": case(replaced(GPT2, pre_tokenizer=NO_PREFIX), FAST, "glm4", QWEN),
    "no_config": {**case(PIECES, None, "glm4", {}), "files": {}},
}


def load(case, flags):
    """The tokenizer of a directory with the case's files."""
    tokenizer = json.loads((HERE / case["base"] / "tokenizer.json").read_text())
    tokenizer |= {"truncation": None, "padding": None, **case["parts"]}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = {**case["files"], "tokenizer": tokenizer, "config": {"model_type": case["model_type"]}}
        if flags:
            files["tokenizer_config"] = {**files["tokenizer_config"], **flags}
        for file, content in files.items():
            (directory / f"{file}.json").write_text(json.dumps(content))
        return AutoTokenizer.from_pretrained(directory)


def record(case):
    tokenizer = load(case, {})
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    decode = lambda skip: [
        tokenizer.decode(one, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for one in ids
    ]
    recording = {"ids": ids, "decoded": decode(False), "skipped": decode(True), "tokens": len(tokenizer)}
    if case.get("with_ends"):
        recording["ends"] = []
        for bos in FLAGS:
            for eos in FLAGS:
                flags = {"add_bos_token": bos, "add_eos_token": eos}
                flags = {key: flag for key, flag in flags.items() if flag is not None}
                tokenizer = load(case, flags)
                recording["ends"].append([tokenizer.encode(text) for text in ENDS])
    return recording


def main():
    recordings = {}
    for name, case in CASES.items():
        try:
            recordings[name] = record(case)
        except (ValueError, TypeError) as error:
            # One version refuses what the other reads.
            recordings[name] = None
            print(name, error)
    version = transformers.__version__
    content = {"transformers": version, "recordings": recordings}
    directory = HERE / "auto_tokenizer"
    directory.mkdir(exist_ok=True)
    write = lambda file, content: (directory / file).write_text(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    write("cases.json", {"texts": TEXTS, "ends": ENDS, "cases": CASES})
    write(f"transformers-{version.split('.')[0]}.json", content)


if __name__ == "__main__":
    main()
