"""Renders conversations with transformers, for models/src/chat_template/tests.rs.

    python models/tests/text/make_templates.py        # needs transformers

Every template is written for these tests, in the style of a family of published ones.
"""

import json
from pathlib import Path

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

TEMPLATES = {
    "chatml": """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "headers": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("today") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

Date: {{ date_string }}
{% if tools is not none %}
You may call these functions.
{% for t in tools %}
    {{- t | tojson(indent=4) }}
    {{- "\\n\\n" }}
{%- endfor %}
{% endif %}
{{- system }}<|eot|>
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("one call at a time, not " ~ message.tool_calls|length) }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|start_header_id|>tool<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "inst": """\
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}\
{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}\
{% endif %}\
{% if loop.index0 == 0 and system != false %}\
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
{% endfor %}""",
    "namespaced": """\
{%- set user_messages = messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0, last=-1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate.") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and loop.index0 == ns.last %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id|length != 9 %}
                {{- raise_exception("Call ids have nine characters!") }}
            {%- endif %}
            {{- call.function|tojson ~ ', "id": "' ~ call.id ~ '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[RESULT] {"content": ' ~ message.content|string ~ ", " ~ user_messages|length ~ "}" }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool roles!") }}
    {%- endif %}
{%- endfor %}
""",
    "thinking": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Functions\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<result>') and message.content.endswith('</result>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<result>\\n' + content + '\\n</result>' }}
        {%- if loop.last or (loop.nextitem.role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "turns": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<turn>model\\n'}}
{%- endif -%}
""",
    "macros": """\
{%- macro kind(spec) -%}
    {%- if spec.type == "array" -%}{{ kind(spec["items"]) }}[]
    {%- elif spec.enum -%}{{ spec.enum | map("tojson") | join(" | ") }}
    {%- else -%}{{ spec.type | default("any", true) }}
    {%- endif -%}
{%- endmacro -%}
{%- macro signature(tool, mark="?") -%}
function {{ tool.name }}({% for name, spec in tool.parameters.properties.items() -%}
{{ name }}{{ mark if name not in tool.parameters.required }}: {{ kind(spec) }}{{ ", " if not loop.last }}
{%- endfor %})
{%- endmacro -%}
{%- for tool in tools or [] %}
{{ signature(tool.function, mark="*") }}
{% endfor -%}
{%- macro wrap() %}[{{ caller() }}]{% endmacro -%}
{%- for message in messages -%}
    {%- if message.role == "skip" %}{% continue %}{% endif -%}
    {%- call wrap() %}{{ message.role | upper }}{% endcall %} {{ message.content | replace("\\n", " / ") }}
    {%- if message.role == "stop" %}{% break %}{% endif %}
{% endfor %}
""",
    "generation": """\
{% for message in messages %}
    {% if message.role == "assistant" %}
        {% generation %}
A: {{ message.content }}
        {%- endgeneration %}

    {% else %}
Q: {{ message.content }}
    {% endif %}
{% endfor %}
{% raw %}{% generation %}{% endraw %}
{# {% generation %} #}
""",
    "prints": """\
{{ true }} {{ false }} {{ none }} [{{ missing }}] {{ 1 / 2 }} {{ 7 // 2 }} {{ 2 ** 3 }} {{ -7 % 3 }} {{ 1e20 }} {{ 1.0 }}
{{ [1, "a'b", none, true, 2.5] }} {{ {"k": [1, {"z": "y"}]} }} {{ (1, 2) }} {{ (1,) }}
{{ true ~ none ~ 1 }} {{ [1, none] | join(",") }} {{ "x" * 3 }} {{ not missing }} {{ missing is none }}
{{ messages | length }} {{ messages[-1].content[1:3] }} {{ messages[0].content[::-1] }} {{ missing | default("d") }}
{{ "a" in "abc" }} {{ "b" not in ["a"] }} {{ 1 if false }} {{ 3 | string + "x" }} {{ "%s-%d" | format("a", 3) }}
{{ "abc" is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ "abc" is iterable }} {{ {} is mapping }} {{ 1 is number }}
{{ range(3) | list }} {{ range(1, 9, 3) | list }} {{ [3, 1, 2] | sort }} {{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }}
{% set ns = namespace(n=0) %}{% for i in range(5) if i is odd %}{% set ns.n = ns.n + i %}{{ loop.index }}{{ loop.length }} {% else %}none{% endfor %}{{ ns.n }}
{% for x in missing %}{{ x }}{% else %}empty{% endfor %}

{%- set block %}  kept {{ 1 }}  {% endset %}
{{ block }}|{{ block | trim }}|{{ dict(a=1).a }}|{{ {"a": 1}.get("b", "no") }}|{{ {"a": 1}.get("b") }}
{{ {"b": 1, "a": 2} | dictsort }} {{ {"b": 1, "a": 2} | items | list }} {{ {"b": 1}.keys() | list }} {{ [[1, 2], [3]] | sum(start=[]) }}
""",
    "methods": """\
{%- set s = messages[0].content %}
{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ s.upper() }}|{{ s.title() }}|{{ s.capitalize() }}
{{ "a,b,,c".split(",") }} {{ "a,b,,c".split(",", 1) }} {{ "a,b,,c".split(",", maxsplit=1) }} {{ "a,b,,c".rsplit(",", 1) }}
{{ "  a  b c ".split() }} {{ "  a  b c ".split(none, 1) }} {{ "  a  b c ".rsplit(none, 1) }} {{ "".split() }} {{ "".split(",") }}
{{ "a=b=c".partition("=") }} {{ "a=b=c".rpartition("=") }} {{ "abc".partition("=") }} {{ "abc".rpartition("=") }}
{{ "prefix-x".removeprefix("prefix-") }} {{ "x.py".removesuffix(".py") }} {{ "xxaxx".strip("x") }} {{ "a b".replace(" ", "") }}
{{ "aaa".replace("a", "b", 2) }} {{ "abc".find("c") }} {{ "abc".find("z") }} {{ "abcabc".rfind("b") }} {{ "abcabc".count("b") }}
{{ ", ".join(["a", "b"]) }} {{ "{} and {}".format("a", 2) }} {{ "abc".startswith(("x", "a")) }} {{ "a\\nb\\n".splitlines() }}
{{ "12".isdigit() }} {{ "ab".isalpha() }} {{ "".isspace() }} {{ "Ab".islower() }} {{ "é".upper() }}
""",
    "json": """\
{{ messages | tojson }}
{{ messages[0] | tojson(indent=2) }}
{{ [] | tojson(indent=4) }} {{ {} | tojson(indent=4) }} {{ [1, [2, {"a": []}]] | tojson(indent=1) }}
{{ messages[0].content | tojson(ensure_ascii=true) }}
{{ {"b": 1, "a": [true, none, 1.5, 1e-7, 1e22]} | tojson(sort_keys=true, separators=(",", ":")) }}
{{ "<a href='x'>&amp;\\u007f\\u0001</a>" | tojson }} {{ messages[0].extra | tojson }}
""",
    "undefined_attribute": "{{ missing.attribute }}",
    "undefined_sum": "{{ missing + 'x' }}",
    "syntax_none": "{{ none + 'x' }}",
    "raises": "{{ raise_exception('Refused: ' ~ messages[0].role) }}",
    "raises_in_macro": "{% macro check(m) %}{% if m.role != 'user' %}{{ raise_exception('not a user') }}{% endif %}{% endmacro %}{% for m in messages %}{{ check(m) }}{{ m.content }}{% endfor %}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m | tojson }}\n{% endfor %}",
    "trimming": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}",
    "dropping": "{% for m in messages %}{{ m.role }} {{ 'content' }}{% endfor %}",
    "content_none": "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}<calls {{ m.tool_calls | length }}>{% else %}{{ '<' + m.role + '>' + m.content }}{% endif %}{% endfor %}",
    "content_defined": "{% for m in messages %}{{ m.role }}{% if m.content is defined and m.content is not none %}: {{ m.content }}{% endif %}\n{% endfor %}",
    "content_must_be_text": "{% for m in messages %}{% if m.content is not string %}{{ raise_exception('text only') }}{% endif %}{{ m.role ~ m.content }}{% endfor %}",
    "crlf": "{% for m in messages %}\r\n{{ m.role }}:\r\n{{ m.content }}\r\n{% endfor %}\r\n{{ 'a\r\nb' | tojson }}\r\n\r\n",
    "arguments": "{{ style }} {{ flags }} {{ flags.a.b }} {{ documents }} {{ tools }} {{ unk_token is defined }} {{ pad_token }}",
}

SYSTEM = {"role": "system", "content": " You are concise. "}
USER = {"role": "user", "content": "What is 你好? <b>&\"quotes\"</b> 🙂"}
ANSWER = {"role": "assistant", "content": "  A greeting.\nIndeed. "}
AGAIN = {"role": "user", "content": "And\n\nthen?"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nSo."}
REASONED = {"role": "assistant", "content": "So.", "reasoning_content": "\nwell\n"}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "abcdefghi", "type": "function",
     "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "exact": True}}}]}
CALLS = {"role": "assistant", "content": "Let me look.", "tool_calls": [
    {"id": "abcdefghi", "function": {"name": "weather", "arguments": "{\"city\": \"Bern\"}"}},
    {"id": "abcdefghj", "function": {"name": "weather", "arguments": {"city": "Basel", "when": None}}}]}
EMPTY = {"role": "assistant", "content": None, "tool_calls": []}
RESULT = {"role": "tool", "content": "12 °C", "tool_call_id": "abcdefghi"}
RESULT_JSON = {"role": "tool", "content": {"celsius": 12.0, "wind": [1, 2]}}
PARTS = {"role": "user", "content": [{"type": "text", "text": " Look: "}, {"type": "image"}, {"type": "text", "text": "what?"}]}
TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "The weather <now> & \"later\", 天气",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "integer", "enum": [1, 2, 7]},
            "items": {"type": "array", "items": {"type": "number"}}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "time", "description": "Time", "parameters": {
        "type": "object", "properties": {}, "required": []}}},
]
PLAIN = [SYSTEM, USER, ANSWER, AGAIN]
TOOLED = [SYSTEM, USER, CALL, RESULT, ANSWER, AGAIN]


def case(template, messages, **options):
    return {"template": template, "messages": messages, **options}


PROMPT = {"add_generation_prompt": True}
CONTINUE = {"continue_final_message": True}
CASES = [
    case("chatml", PLAIN), case("chatml", PLAIN, **PROMPT), case("chatml", [USER], **PROMPT),
    case("chatml", [USER, ANSWER], **CONTINUE), case("chatml", [USER, {"role": "assistant", "content": ""}], **CONTINUE),
    case("chatml", [USER, {"role": "assistant", "content": "CONTINUE_FINAL_MESSAGE_TAG x"}], **CONTINUE),
    case("chatml", [USER, ANSWER], **CONTINUE, **PROMPT), case("chatml", [USER, CALL], **CONTINUE),
    case("chatml", [{"role": "user"}]), case("chatml", [PARTS]),
    case("headers", PLAIN, **PROMPT), case("headers", [USER], **PROMPT), case("headers", TOOLED, tools=TOOLS, **PROMPT),
    case("headers", [USER, CALL, RESULT_JSON], tools=TOOLS[:1]), case("headers", [USER, CALLS]),
    case("headers", [USER], kwargs={"date_string": "26 Jul 2024"}), case("headers", [USER], tools=[]),
    case("headers", [USER, ANSWER], **CONTINUE),
    case("inst", PLAIN), case("inst", [USER, ANSWER, AGAIN]), case("inst", [USER, USER]), case("inst", [ANSWER]),
    case("inst", [USER, ANSWER], **CONTINUE),
    case("namespaced", [USER, ANSWER, AGAIN]), case("namespaced", [USER, CALL, RESULT, ANSWER, AGAIN], tools=TOOLS),
    case("namespaced", [USER, CALLS, RESULT, RESULT], tools=TOOLS), case("namespaced", [SYSTEM, USER]),
    case("namespaced", [USER, {"role": "assistant", "tool_calls": [{"id": "short", "function": {"name": "f"}}]}]),
    case("thinking", PLAIN, **PROMPT), case("thinking", TOOLED, tools=TOOLS, **PROMPT),
    case("thinking", [USER, THOUGHT, AGAIN], **PROMPT, kwargs={"enable_thinking": False}),
    case("thinking", [USER, REASONED], kwargs={"enable_thinking": True}), case("thinking", [USER, THOUGHT]),
    case("thinking", [SYSTEM, USER, CALLS, RESULT, RESULT, REASONED], tools=TOOLS), case("thinking", [PARTS], **PROMPT),
    case("thinking", [USER, {"role": "assistant", "content": "<think>\nhm"}], **CONTINUE),
    case("thinking", [{"role": "user", "content": "<result>x</result>"}, THOUGHT, SYSTEM]),
    case("turns", PLAIN, **PROMPT), case("turns", [USER, ANSWER]), case("turns", [PARTS], **PROMPT),
    case("turns", [{"role": "system", "content": [{"type": "text", "text": "Sys"}]}, PARTS]),
    case("turns", [{"role": "user", "content": 7}]), case("turns", [USER, PARTS], **CONTINUE),
    case("turns", [USER, {"role": "user", "content": [{"type": "image"}]}], **CONTINUE),
    case("turns", [USER, ANSWER], **CONTINUE),
    case("macros", PLAIN, tools=TOOLS), case("macros", PLAIN),
    case("macros", [USER, {"role": "skip", "content": ""}, {"role": "stop", "content": "end"}, AGAIN]),
    case("generation", [USER, ANSWER, AGAIN, THOUGHT]),
    case("prints", [USER, ANSWER]), case("methods", [{"role": "user", "content": "  hello wORLD \n"}]),
    case("json", [{"role": "user", "content": "a\"\\/\n\t\r\b\f é 你 🙂 \u2028", "extra": {"k": [1, -2.0, 1e100, 12345678901234567890]}}]),
    case("undefined_attribute", [USER]), case("undefined_sum", [USER]), case("syntax_none", [USER]),
    case("raises", [USER]), case("raises_in_macro", [USER, AGAIN]), case("raises_in_macro", PLAIN),
    case("reasoning", [REASONED, {"role": "assistant", "content": "x", "reasoning": "r"},
                       {"role": "assistant", "content": None, "thinking": "t", "name": None}]),
    case("trimming", [USER, ANSWER], **CONTINUE), case("trimming", [USER, {"role": "assistant", "content": "no space"}], **CONTINUE),
    case("dropping", [USER, ANSWER], **CONTINUE),
    case("arguments", [USER], kwargs={"style": "brief", "flags": {"a": {"b": [1, None]}}}), case("arguments", [USER], tools=[]),
    case("arguments", []), case("trimming", []),
    *(case(template, [USER, CALL, RESULT]) for template in ("chatml", "content_none", "content_defined", "content_must_be_text")),
    *(case(template, [USER, EMPTY, AGAIN]) for template in ("chatml", "content_none", "content_defined", "content_must_be_text")),
    case("content_none", PLAIN), case("content_none", [{"role": "user"}]), case("crlf", PLAIN),
    case("raises", [{"role": "assistant", "content": None}]),
]


def lacks_content(message):
    return message.get("role") == "assistant" and message.get("content") is None


def render(tokenizer, template, messages, options, kwargs):
    """As `apply_chat_template`, which drops null fields; where that fails for an answer without content, the content is
    None, and at last the empty text."""
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options, **kwargs)
    except Exception:
        if "continue_final_message" in options or not any(map(lacks_content, messages)):
            raise
        for content in (None, ""):
            given = [{**{k: v for k, v in m.items() if v is not None}, **({"content": content} if lacks_content(m) else {})} for m in messages]
            try:
                return render_jinja_template([given], chat_template=template, **options, **tokenizer.special_tokens_map, **kwargs)[0][0]
            except Exception:
                pass
        raise


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    for one in CASES:
        options = {key: value for key, value in one.items() if key not in ("template", "messages", "kwargs")}
        try:
            one["text"] = render(tokenizer, TEMPLATES[one["template"]], one["messages"], options, one.get("kwargs", {}))
        except TemplateError as error:
            # raise_exception raises the class itself, faults of the template are of its subclasses.
            one |= {"raised": str(error)} if type(error) is TemplateError else {"fails": True}
        except (ValueError, TypeError, KeyError):
            one["fails"] = True
    golden = {"special_tokens": SPECIAL, "templates": TEMPLATES, "cases": CASES}
    (HERE / "templates.json").write_text(json.dumps(golden, ensure_ascii=True, indent=1) + "\n")
    kinds = [next(key for key in ("text", "raised", "fails") if key in one) for one in CASES]
    print({kind: kinds.count(kind) for kind in set(kinds)})


if __name__ == "__main__":
    main()
