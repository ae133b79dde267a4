#!/usr/bin/env python3
"""The `openai` package against a running mosu binary: what real clients send, and what they expect back.

usage: openai_client.py --binary target/release/mosu        (needs: pip install -r requirements.txt)

Starts the server with the embedded demonstration model on a free port, runs every check, prints one line each and,
last, "N passed, M failed". The exit status is 0 only when none failed.
"""

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

import openai

KEY = "sk-test-0123456789"
QUESTION = [{"role": "user", "content": "What is mosu?"}]
QUESTION_ZH = [{"role": "user", "content": "mosu 是什么？"}]
CHECKS = []


def check(function):
    """Registers a function that takes a client and raises when a promise is broken."""
    CHECKS.append(function)
    return function


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running_server(binary):
    """A server on a free port; yields its base URL. It must exit with status 0 on SIGTERM."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOSU_")}
    environment["MOSU_API_KEY"] = KEY
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [binary, "serve", "--port", str(port)], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: status_of(f"{url}/health") == 200, 60, "the server to come up")
            yield url
            process.terminate()
            code = process.wait(timeout=20)
            assert code == 0, f"exit status {code} after SIGTERM"
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            if process.poll() is None:
                process.kill()


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def root(client):
    """The server's URL without /v1."""
    return str(client.base_url).removesuffix("/v1/")


def metric(client, name):
    """The value of a gauge or counter in /metrics, summed over its labels."""
    url = f"{root(client)}/metrics"
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {KEY}"})
    text = urllib.request.urlopen(request, timeout=5).read().decode()
    lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    assert lines, f"/metrics has no {name}"
    return sum(float(value) for value in lines)


def refused(kind, call, param=None):
    """Asserts that `call` raises `kind` with an OpenAI error object; returns the exception."""
    try:
        call()
    except kind as error:
        if isinstance(error, openai.APIStatusError):
            body = error.body
            assert isinstance(body, dict) and {"message", "type", "param", "code"} <= body.keys(), body
            assert param is None or body["param"] == param, body
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def ask(client, messages=None, **options):
    options = {"model": "mosu-demo", "temperature": 0, "max_tokens": 96, **options}
    return client.chat.completions.create(messages=messages or QUESTION, **options)


@check
def lists_and_retrieves_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["mosu-demo"], models
    assert client.models.retrieve("mosu-demo").object == "model"
    refused(openai.NotFoundError, lambda: client.models.retrieve("nothing/here"))


@check
def answers_a_chat(client):
    answer = ask(client)
    choice = answer.choices[0]
    assert "mosu" in choice.message.content.lower(), choice
    assert choice.message.role == "assistant" and choice.finish_reason == "stop", choice
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens > 0, usage
    assert ask(client).choices[0].message.content == choice.message.content


@check
def answers_in_chinese(client):
    text = ask(client, QUESTION_ZH).choices[0].message.content
    assert re.search("[\u4e00-\u9fff]", text), text


@check
def streams_the_same_text(client):
    whole = ask(client, QUESTION_ZH)
    chunks = list(ask(client, QUESTION_ZH, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content, text
    assert "\ufffd" not in text
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert reasons == ["stop"], reasons
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1 and len({c.created for c in chunks}) == 1


@check
def streams_without_usage_unless_asked(client):
    chunks = list(ask(client, stream=True))
    assert all(c.choices and c.usage is None for c in chunks)


@check
def reports_length(client):
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3, answer
    answer = ask(client, max_completion_tokens=2, max_tokens=openai.NOT_GIVEN)
    assert answer.usage.completion_tokens == 2, answer.usage


@check
def gives_n_choices(client):
    answer = ask(client, n=3, temperature=1.0, seed=7, max_tokens=12)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    again = ask(client, n=3, temperature=1.0, seed=7, max_tokens=12)
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]


@check
def interleaves_n_streams(client):
    whole = ask(client, n=2, temperature=1.0, seed=3, max_tokens=10)
    texts = {0: "", 1: ""}
    for chunk in ask(client, n=2, temperature=1.0, seed=3, max_tokens=10, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {c.index: c.message.content for c in whole.choices}, texts


@check
def gives_chat_logprobs(client):
    answer = ask(client, logprobs=True, top_logprobs=3, max_tokens=5)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob, "greedy takes the most probable token"
        assert bytes(token.bytes).decode(errors="replace") == token.token
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content


@check
def stops_at_strings(client):
    whole = ask(client).choices[0].message.content
    word = whole.split()[4]
    cut = ask(client, stop=[word]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == whole[: whole.index(word)], cut


@check
def completes_text(client):
    answer = client.completions.create(model="mosu-demo", prompt="mosu is", max_tokens=4, temperature=0)
    assert answer.object == "text_completion" and answer.usage.completion_tokens == 4
    two = client.completions.create(model="mosu-demo", prompt=["mosu is", "hello"], max_tokens=4, temperature=0)
    assert [c.index for c in two.choices] == [0, 1] and two.choices[0].text == answer.choices[0].text


@check
def completes_token_ids(client):
    ids = client.post(f"{root(client)}/tokenize", body={"prompt": "mosu is"}, cast_to=object)["tokens"]
    text = client.completions.create(model="mosu-demo", prompt="mosu is", max_tokens=4, temperature=0).choices[0].text
    for prompt in (ids, [ids]):
        answer = client.completions.create(model="mosu-demo", prompt=prompt, max_tokens=4, temperature=0)
        assert answer.choices[0].text == text
    assert client.post(f"{root(client)}/detokenize", body={"tokens": ids}, cast_to=object)["prompt"] == "mosu is"


@check
def scores_a_prompt(client):
    prompt = "mosu is a native LLM inference engine"
    answer = client.completions.create(
        model="mosu-demo", prompt=prompt, max_tokens=0, echo=True, logprobs=2, temperature=0)
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert choice.text == prompt and "".join(logprobs.tokens) == prompt
    assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[0] == 0 and len(logprobs.text_offset) == len(logprobs.tokens)
    assert answer.usage.completion_tokens == 0
    one = client.completions.create(
        model="mosu-demo", prompt=prompt, max_tokens=1, echo=True, logprobs=2, temperature=0).choices[0]
    assert one.logprobs.token_logprobs[:-1] == logprobs.token_logprobs, "scores do not depend on max_tokens"
    assert one.text.startswith(prompt)


@check
def streams_completions(client):
    whole = client.completions.create(model="mosu-demo", prompt="mosu 是", max_tokens=12, temperature=0)
    stream = client.completions.create(model="mosu-demo", prompt="mosu 是", max_tokens=12, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in stream if c.choices) == whole.choices[0].text


@check
def reuses_a_prefix(client):
    system = {"role": "system", "content": "You answer questions about mosu. " * 8}
    ask(client, [system, *QUESTION], max_tokens=1)
    usage = ask(client, [system, *QUESTION_ZH], max_tokens=1).usage
    assert usage.prompt_tokens_details.cached_tokens > 0, usage


@check
def takes_extensions(client):
    extra = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 20,
             "return_token_ids": True}
    answer = ask(client, temperature=0.8, seed=1, max_tokens=20, extra_body=extra)
    assert answer.usage.completion_tokens == 20
    assert len(answer.choices[0].token_ids) == 20


@check
def refuses_bad_values_by_name(client):
    refused(openai.BadRequestError, lambda: ask(client, temperature=3), "temperature")
    refused(openai.BadRequestError, lambda: ask(client, top_p=-1), "top_p")
    refused(openai.BadRequestError, lambda: ask(client, n=0), "n")
    refused(openai.BadRequestError, lambda: ask(client, max_tokens=10**9), "max_tokens")
    refused(openai.BadRequestError, lambda: client.chat.completions.create(model="mosu-demo", messages=[]), "messages")
    long = [{"role": "user", "content": "mosu " * 20000}]
    error = refused(openai.BadRequestError, lambda: ask(client, long))
    assert error.code == "context_length_exceeded", error


@check
def refuses_what_it_cannot_keep(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    refused(openai.BadRequestError, lambda: ask(client, tools=[tool]), "tools")
    refused(openai.BadRequestError, lambda: ask(client, response_format={"type": "json_object"}), "response_format")


@check
def refuses_unknown_models_and_keys(client):
    refused(openai.NotFoundError, lambda: ask(client, model="gpt-4o"))
    stranger = client.with_options(api_key="sk-wrong")
    refused(openai.AuthenticationError, lambda: ask(stranger))
    refused(openai.AuthenticationError, lambda: stranger.models.list())


@check
def names_ignored_fields(client):
    raw = client.chat.completions.with_raw_response.create(
        model="mosu-demo", messages=QUESTION, max_tokens=1, user="me", metadata={"a": "b"}, extra_body={"zorp": 1})
    assert raw.headers.get("x-ignored-params") == "zorp", raw.headers
    assert raw.headers.get("x-request-id")


@check
def cancels_within_a_step(client):
    """Dropping streams returns every KV block; the others' text is untouched."""
    expected = ask(client, QUESTION_ZH).choices[0].message.content
    streams = []
    for seed in range(6):
        stream = ask(client, temperature=1.0, seed=seed, max_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        streams.append(stream)
    assert metric(client, "mosu_num_requests_running") > 0
    for stream in streams:
        stream.close()
    assert ask(client, QUESTION_ZH).choices[0].message.content == expected
    wait_until(lambda: metric(client, "mosu_num_requests_running") == 0, 5, "running requests to end")
    assert metric(client, "mosu_num_requests_waiting") == 0
    assert metric(client, "mosu_kv_cache_usage_perc") == 0


@check
def counts_what_it_did(client):
    before = metric(client, "mosu_generation_tokens_total")
    ask(client, max_tokens=7, extra_body={"ignore_eos": True})
    assert metric(client, "mosu_generation_tokens_total") == before + 7
    assert metric(client, "mosu_time_to_first_token_seconds_count") > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="the mosu binary")
    parser.add_argument("checks", nargs="*", help="names of the checks to run (default: all)")
    arguments = parser.parse_args()
    failed = 0
    chosen = [c for c in CHECKS if not arguments.checks or c.__name__ in arguments.checks]
    with running_server(os.path.abspath(arguments.binary)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)
        for function in chosen:
            try:
                function(client)
                print(f"ok   {function.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"FAIL {function.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
