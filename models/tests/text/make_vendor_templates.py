"""Renders conversations with transformers and templates in the formats of many vendors.

    python models/tests/text/make_vendor_templates.py        # needs transformers

The templates in `templates/` are written for these tests: each speaks the format of a vendor (marks of roles, of tool
calls and of thoughts) with the constructs that published templates of that vendor use. The built-in ones of
`models/src/chat_template/builtin` are rendered too.
"""

import datetime
import itertools
import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from make_templates import AGAIN, ANSWER, CALL, CALLS, PARTS, REASONED, RESULT, RESULT_JSON, SYSTEM, THOUGHT, TOOLS, USER, render
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>"}
NOW = datetime.datetime(2026, 3, 1, 4, 5, 6)


class Frozen(datetime.datetime):
    """A clock that stands still, so that `strftime_now` gives the same text each time."""

    @classmethod
    def now(cls, tz=None):
        return NOW


NESTED = {"type": "function", "function": {
    "name": "book", "description": "Books a trip.", "strict": True, "parameters": {
        "type": "object", "required": ["legs"], "additionalProperties": False, "properties": {
            "legs": {"type": "array", "description": "In order.", "items": {"type": "object", "required": ["to"], "properties": {
                "to": {"type": "string"}, "when": {"oneOf": [{"type": "integer"}, {"type": "string", "enum": ["now", "later"]}]}}}},
            "class": {"type": "string", "enum": ["first", "second"], "default": "second"},
            "price": {"type": ["number", "null"], "default": 10.5}, "tags": {"type": "array", "items": {"type": "string"}, "nullable": True},
            "extra": {"type": "object"}, "any": {}}}}}
CALL_NESTED = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghk", "type": "function", "function": {
    "name": "book", "arguments": {"legs": [{"to": "Genève", "when": 3}], "class": "first", "price": None, "quiet": False, "extra": {}}}}]}
SEARCH = {"role": "assistant", "content": "Looking.", "tool_calls": [
    {"id": "abcdefghl", "type": "function", "function": {"name": "search", "arguments": {"q": "\"模速\" <b>", "n": 1.5}}}]}
THINKING_CALL = {"role": "assistant", "reasoning_content": "Need the weather.\n", "content": "", "tool_calls": CALL["tool_calls"]}
TOOL_PARTS = {"role": "tool", "content": [{"type": "text", "text": "sun"}, {"output": "rain", "type": "output"}]}
BRIEF = {"role": "system", "content": "Be brief."}
DONE = {"role": "assistant", "content": "Done 🙂."}
CODE = {"role": "user", "content": "Fix:\n\n```py\nx = {'a': [1, 2]}\n```\n{% raw %} {{ braces }}"}

CONVERSATIONS = {
    "question": [USER],
    "turns": [BRIEF, USER, ANSWER, AGAIN, DONE],
    "open": [BRIEF, USER, ANSWER, AGAIN],
    "code": [CODE, DONE, USER],
    "thought": [USER, THOUGHT, AGAIN],
    "thought_last": [BRIEF, USER, THOUGHT],
    "reasoned": [USER, ANSWER, AGAIN, REASONED],
    "call": [USER, CALL, RESULT],
    "called": [SYSTEM, USER, CALL, RESULT, DONE, AGAIN],
    "calls": [USER, CALLS, RESULT, RESULT, REASONED],
    "nested": [BRIEF, USER, CALL_NESTED, RESULT_JSON, AGAIN],
    "search": [USER, SEARCH, RESULT, DONE],
    "thinking_call": [USER, THINKING_CALL, RESULT],
    "parts": [PARTS],
    "tool_parts": [USER, CALL, TOOL_PARTS],
    "two_questions": [USER, USER],
    "stray_result": [USER, RESULT],
    "two_systems": [BRIEF, SYSTEM, USER],
}
PROMPT = {"add_generation_prompt": True}
VARIANTS = [
    ({}, {}),
    (PROMPT, {}),
    ({**PROMPT, "tools": TOOLS}, {}),
    ({**PROMPT, "tools": [NESTED, TOOLS[1]]}, {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"}),
    (PROMPT, {"enable_thinking": True, "thinking": True, "tools_in_user_message": False, "date_string": "1 Jan 2026"}),
    ({"tools": TOOLS[:1]}, {"builtin_tools": ["search", "code_interpreter"], "tools_in_user_message": False}),
]


def main():
    chat_template_utils.datetime = Frozen
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    files = [*(HERE / "templates").glob("*.jinja"), *(HERE.parents[1] / "src/chat_template/builtin").glob("*.jinja")]
    templates = {path.stem: path.read_text() for path in sorted(files)}
    cases, counts = [], {}
    # Each conversation meets each template in two of the six variants.
    every = itertools.product(enumerate(templates), enumerate(CONVERSATIONS.items()), enumerate(VARIANTS))
    chosen = (one for one in every if sum(index for index, _ in one) % 3 == 0)
    for (_, name), (_, (conversation, messages)), (variant, (options, kwargs)) in chosen:
        case = {"template": name, "conversation": conversation, "variant": variant}
        try:
            case["text"] = render(tokenizer, templates[name], messages, options, kwargs)
        except TemplateError as error:
            case |= {"raised": str(error)} if type(error) is TemplateError else {"fails": True}
        except (ValueError, TypeError, KeyError, AttributeError):
            case["fails"] = True
        # Failures of a template look alike: three are enough.
        kind = next(key for key in ("text", "raised", "fails") if key in case)
        counts[kind] = counts.get(kind, 0) + 1
        failures = sum(other["template"] == name and "text" not in other for other in cases)
        if kind == "text" or failures < 3:
            cases.append(case)
    content = {
        "special_tokens": SPECIAL, "now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "conversations": CONVERSATIONS, "variants": [{**options, "kwargs": kwargs} for options, kwargs in VARIANTS], "cases": cases,
    }
    (HERE / "vendor_templates.json").write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(len(cases), counts)


if __name__ == "__main__":
    main()
