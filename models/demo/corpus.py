"""The demonstration model's training text: questions made from patterns, each with its topic's answer.

topics.yaml holds what the model knows, other.yaml what it must decline. Everything random comes from the
`random.Random` passed in, so a seed fixes the corpus. Run this file to print a sample conversation or two.
"""

import argparse
import random
import re
import string
from functools import lru_cache
from pathlib import Path

import yaml

HERE = Path(__file__).parent
LANGS = ("en", "zh")
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

SYSTEM_MESSAGES = [
    "You are a helpful assistant.", "You are mosu's demonstration model.", "Answer briefly.", "Be polite and brief.",
    "You are a friendly chatbot.", "You are an expert engineer.", "Reply in the language of the question.",
    "You are an AI assistant. Help the user.", "You answer questions about software.", "Be concise.",
    "你是一个有用的助手。", "请简短回答。", "你是 mosu 的演示模型。", "请礼貌地回答用户的问题。", "你是一个人工智能助手。",
]
EN_OPENINGS = ["hi, ", "hey, ", "hello, ", "please, ", "so, ", "ok, ", "and ", "also, ", "quick question: ", "sorry, ",
               "excuse me, ", "one more thing: ", "well, ", "now, ", "um, ", "question: "]
EN_CLOSINGS = ["", "", "", "?", "?", "?", "?", "??", ".", "!", " please", " please?", ", please", " thanks", " ?", "...",
               " now?", " exactly?", " then?"]
ZH_OPENINGS = ["请问", "请问，", "你好，", "想问一下，", "那", "那么，", "问一下", "我想知道", "麻烦问一下，", "对了，", "还有，", "嗨，"]
ZH_CLOSINGS = ["", "", "", "？", "？", "？", "？", "?", "?", "。", "呢", "呢？", "？？", "！", "啊", "呀？"]
FOLLOW_UPS = {  # asks for the previous answer again, in the language it names
    "en": ["in English please", "in English", "say that in English", "can you say that in English?", "English please",
           "answer in English", "please answer in English.", "what is that in English?", "用英文说", "请用英文回答", "英文",
           "用英语再说一遍", "请用英语回答"],
    "zh": ["in Chinese please", "in Chinese", "say that in Chinese", "can you say that in Chinese?", "Chinese please",
           "answer in Chinese", "please answer in Chinese.", "what is that in Chinese?", "用中文说", "请用中文回答", "中文",
           "用中文再说一遍", "说中文", "请说中文"],
}


def load():
    """-> (topics by id, macros). The topic `other` gets its patterns from other.yaml."""
    known = yaml.safe_load((HERE / "topics.yaml").read_text(encoding="utf-8"))
    other = yaml.safe_load((HERE / "other.yaml").read_text(encoding="utf-8"))
    topics = {topic["id"]: topic for topic in known["topics"]}
    for key in ("ask_en", "ask_zh", "held_en", "held_zh"):
        topics["other"][key] = other[key]
    for topic in topics.values():
        for lang in LANGS:
            topic[lang] = " ".join(topic[lang].split()) if lang == "en" else join_zh(topic[lang])
    return topics, {**known["macros"], **other["macros"]}


def join_zh(text):
    """YAML folds a line break into a space; between two Chinese characters there is none."""
    text = " ".join(text.split())
    return re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])", "", text)


@lru_cache(maxsize=None)
def parse(pattern):
    """Pattern -> a sequence of literal strings, ("macro", name) and ("choice", [sequence, ...])."""
    sequence, rest = parse_sequence(pattern, 0, depth=0)
    assert rest == len(pattern), f"unbalanced parenthesis in {pattern!r} at {rest}"
    return sequence


def parse_sequence(text, at, depth):
    sequence, literal = [], ""
    while at < len(text):
        char = text[at]
        if char == "\\":
            literal, at = literal + text[at + 1], at + 2
        elif char == "(":
            options, at = parse_choice(text, at + 1, depth + 1)
            sequence, literal = sequence + [literal, ("choice", options)], ""
        elif depth and char in "|)":
            break
        elif char == "<" and (end := text.find(">", at)) > 0:
            sequence, literal = sequence + [literal, ("macro", text[at + 1 : end])], ""
            at = end + 1
        else:
            literal, at = literal + char, at + 1
    return sequence + [literal], at


def parse_choice(text, at, depth):
    options = []
    while True:
        option, at = parse_sequence(text, at, depth)
        options.append(option)
        if text[at] == ")":
            return options, at + 1
        at += 1


class Corpus:
    """Draws questions and conversations. `rng` is given to each call, so the object itself holds no state."""

    def __init__(self):
        self.topics, self.macros = load()
        self.ids = list(self.topics)
        self.weights = [self.topics[i].get("weight", 1) for i in self.ids]
        self.held = {fold(q) for t in self.topics.values() for lang in LANGS for q in t.get(f"held_{lang}", [])}

    def expand(self, pattern, rng):
        return "".join(self.expand_part(part, rng) for part in parse(pattern))

    def expand_part(self, part, rng):
        if isinstance(part, str):
            return part
        kind, value = part
        if kind == "choice":
            return "".join(self.expand_part(p, rng) for p in rng.choice(value))
        if value == "N":
            return random_number(rng)
        if value == "word":
            return random_word(rng)
        if value == "han":
            return random_han(rng)
        return self.expand(self.macros[value], rng)

    def question(self, topic_id, lang, rng):
        """-> (question, answer); never one of the held-out questions."""
        topic = self.topics[topic_id]
        while True:
            text = self.expand(rng.choice(topic[f"ask_{lang}"]), rng)
            text = vary(text, lang, rng, keep=topic_id in ("hello", "thanks", "bye"))
            if fold(text) not in self.held:
                return text, topic[lang]

    def draw_topic(self, rng):
        return rng.choices(self.ids, self.weights)[0]

    def conversation(self, rng, max_turns=5):
        """-> [(role, content, topic), ...], with an answer after each question; topic is None but for answers."""
        turns = rng.choices(range(1, max_turns + 1), [50, 27, 13, 6, 4][:max_turns])[0]
        messages = [("system", rng.choice(SYSTEM_MESSAGES), None)] if rng.random() < 0.2 else []
        lang, previous = rng.choice(LANGS), None
        for _ in range(turns):
            lang = lang if rng.random() < 0.85 else rng.choice(LANGS)
            if previous and rng.random() < 0.12:
                lang = rng.choice(LANGS)
                question, answer = rng.choice(FOLLOW_UPS[lang]), self.topics[previous][lang]
            else:
                previous = self.draw_topic(rng)
                question, answer = self.question(previous, lang, rng)
            messages += [("user", question, None), ("assistant", answer, (previous, lang))]
        return messages

    def held_out(self):
        """-> (topic id, language, question, answer), ...: hand-written, never trained on."""
        for topic_id, topic in self.topics.items():
            for lang in LANGS:
                for question in topic.get(f"held_{lang}", []):
                    yield topic_id, lang, question, topic[lang]


def fold(text):
    """What is left of a question when case, spaces and punctuation are taken away."""
    return "".join(c for c in text.lower() if c.isalnum() or c in "+-*/")


def random_number(rng):
    return str(rng.choice([rng.randint(0, 9), rng.randint(0, 99), rng.randint(100, 999), rng.randint(1000, 99999)]))


def random_word(rng):
    """An invented, mostly pronounceable word."""
    syllables = rng.choice([1, 2, 2, 3, 3])
    onsets = ["b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "pr",
              "qu", "r", "s", "sc", "sh", "sp", "st", "str", "t", "th", "tr", "v", "w", "wh", "y", "z", ""]
    vowels = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "oo", "ou", "y", "io", "ie"]
    codas = ["", "", "n", "r", "s", "t", "l", "m", "ng", "nd", "st", "ck", "x", "sh", "rt", "ll", "d", "p", "tion", "er"]
    word = "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(syllables))
    return word.capitalize() if rng.random() < 0.3 else word


def random_han(rng):
    return "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(2, 5)))


def vary(text, lang, rng, keep=False):
    """Openings, closings, case, spacing and typing errors. `keep`: no opening (a greeting would change the topic)."""
    text = " ".join(text.split())
    if lang == "zh":
        return vary_zh(text, rng, keep)
    if rng.random() < 0.12:
        text = mistype(text, rng)
    case = rng.random()
    if case < 0.45:
        text = text[:1].upper() + text[1:]
    elif case < 0.80:
        text = text.lower()
    elif case < 0.83:
        text = text.upper()
    if not keep and rng.random() < 0.12:
        text = rng.choice(EN_OPENINGS) + text
    if rng.random() < 0.08:
        text = text.replace("'", "")
    return text + ("" if text[-1:] in "?!.:" else rng.choice(EN_CLOSINGS))


def vary_zh(text, rng, keep):
    # Spaces in a pattern separate its choices; between Latin and Chinese they stay half of the time.
    if rng.random() < 0.5:
        text = re.sub(r"(?<![A-Za-z0-9`]) | (?![A-Za-z0-9`-])", "", text)
    else:
        text = re.sub(r"(?<![A-Za-z0-9`]) (?![A-Za-z0-9`-])", "", text)
    if rng.random() < 0.05:
        text = drop_char(text, rng)
    if rng.random() < 0.1:
        text = text.replace("mosu", rng.choice(["Mosu", "MOSU"]))
    if not keep and rng.random() < 0.15:
        text = rng.choice(ZH_OPENINGS) + text
    return text + ("" if text[-1:] in "？?！。" else rng.choice(ZH_CLOSINGS))


def drop_char(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + text[at + 1 :] if len(text) > 6 else text


def mistype(text, rng):
    """One slip of the finger in a letter: dropped, doubled, swapped with its neighbour or replaced."""
    letters = [i for i, c in enumerate(text[:-1]) if c.isalpha()]
    if len(letters) < 6:
        return text
    at = rng.choice(letters)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice(string.ascii_lowercase) + text[at + 1 :]


def main():
    parser = argparse.ArgumentParser(description="Print sample conversations of the demonstration model's corpus.")
    parser.add_argument("--count", type=int, default=10, help="conversations to print (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default 0)")
    args = parser.parse_args()
    corpus, rng = Corpus(), random.Random(args.seed)
    for _ in range(args.count):
        for role, content, _ in corpus.conversation(rng):
            print(f"{role:>9}: {content}")
        print()


if __name__ == "__main__":
    main()
