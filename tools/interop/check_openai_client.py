#!/usr/bin/env python3
"""Talks to `qalof serve` with OpenAI's own Python client: completions, streams, chats, errors.

  tools/interop/check_openai_client.py [--qalof build/release/qalof] [--model assets/nano/model]

The model gets a simple chat template in a temporary copy. Texts must be those of `qalof generate`
with the same precision and seed; a chat's must be those of a completion of its tokens. Exit status
1 at the first difference. Needs the package openai (tried with 3.57).
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import openai

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = "a-key-of-this-check-0123456789"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PROMPT = "Once upon a time"


def check(is_true, what):
    print("ok  " if is_true else "FAIL", what)
    if not is_true:
        sys.exit(1)


def raises(kind, call, what):
    try:
        call()
    except kind as error:
        check(True, f"{what}: {kind.__name__}, {error.message[:70]}")
        return error
    except openai.OpenAIError as error:
        check(False, f"{what}: found {type(error).__name__}, expected {kind.__name__}")
    check(False, f"{what}: nothing was raised")


def generated(qalof, model, precision, tokens, temperature=0, seed=0):
    command = [qalof, "generate", "--model_name_or_path", model, "--prompt", PROMPT, "--json"]
    command += ["--precision", precision, "--max_new_tokens", str(tokens)]
    command += ["--temperature", str(temperature), "--seed", str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["text"]


def check_completions(client, qalof, model, name):
    names = [entry.id for entry in client.models.list()]
    check(names == [name], f"models.list: {names}")
    for precision in ("8", "4"):
        options = {"model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        expected = generated(qalof, model, precision, 12)
        raw = client.completions.with_raw_response.create(
            **options, extra_body={"precision": precision}
        )
        found = raw.parse()
        check(found.choices[0].text == expected, f"completion at {precision} bits is generate's")
        form = f"w{precision}a{precision}kv{precision}"
        check(raw.headers["x-qalof-precision"] == form, f"header says {form}")
        check(found.precision == form and found.kv_bits == int(precision), "response says it too")
        pieces = list(
            client.completions.create(
                **options,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"precision": precision},
            )
        )
        text = "".join(piece.choices[0].text for piece in pieces if piece.choices)
        check(text == expected and len(pieces) > 3, f"a stream of {len(pieces)} pieces is the same")
        check(pieces[-1].usage.completion_tokens == 12, "its last piece has the usage")
    sampled = client.completions.create(
        model=name,
        prompt=PROMPT,
        max_tokens=12,
        temperature=0.9,
        seed=5,
        n=2,
        logprobs=3,
        extra_body={"precision": "8"},
    )
    for choice in sampled.choices:
        expected = generated(qalof, model, "8", 12, 0.9, 5 + choice.index)
        check(choice.text == expected, f"choice {choice.index} is that of its seed")
        check(len(choice.logprobs.token_logprobs) == 12, "with log probabilities")
    stopped = client.completions.create(
        model=name, prompt=PROMPT, max_tokens=30, temperature=0, stop=" has"
    )
    check(stopped.choices[0].finish_reason == "stop", "a stop string ends the text")


def check_chats(client, name, url):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    found = client.chat.completions.create(
        model=name, messages=messages, max_completion_tokens=10, temperature=0, logprobs=True
    )
    answer = found.choices[0].message
    check(answer.role == "assistant", "a chat is answered by the assistant")
    check(len(found.choices[0].logprobs.content) == 10, "with log probabilities")
    tokens = client.post(
        url + "/tokenize", cast_to=object, body={"model": name, "messages": messages}
    )["tokens"]
    same = client.completions.create(model=name, prompt=tokens, max_tokens=10, temperature=0)
    check(answer.content == same.choices[0].text, "its text is that of its tokens")
    pieces = client.chat.completions.create(
        model=name, messages=messages, max_completion_tokens=10, temperature=0, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    check(text == answer.content, "and its stream's")


def check_errors(client, name, url):
    create = client.completions.create
    raises(openai.NotFoundError, lambda: create(model="other", prompt="a"), "unknown model")
    raises(openai.BadRequestError, lambda: create(model=name, prompt="a", temperature=3), "range")
    error = raises(
        openai.BadRequestError,
        lambda: create(model=name, prompt="a", extra_body={"precision": "9"}),
        "unknown precision",
    )
    check(error.param == "precision", "the error names its field")
    raises(
        openai.BadRequestError,
        lambda: create(model=name, prompt="a", extra_body={"presicion": "8"}),
        "unknown field",
    )
    raises(
        openai.BadRequestError,
        lambda: create(model=name, prompt="a " * 200, max_tokens=200),
        "too many tokens",
    )
    raises(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=name, messages=[]),
        "no message",
    )
    wrong = openai.OpenAI(base_url=url + "/v1", api_key="another-key-of-16-letters")
    raises(openai.AuthenticationError, wrong.models.list, "wrong key")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--model", default=str(ROOT / "assets/nano/model"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = pathlib.Path(directory) / "chatty"
        shutil.copytree(options.model, model)
        (model / "chat_template.jinja").write_text(TEMPLATE)
        keys = pathlib.Path(directory) / "keys"
        keys.write_text(KEY + "\n")
        command = [options.qalof, "serve", "--model_name_or_path", str(model), "--port", "0"]
        command += ["--json", "--api_key_file", str(keys), "--precision", "8"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                start = json.loads(server.stdout.readline())
                url = start["url"]
                client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
                check_completions(client, options.qalof, str(model), start["model"])
                check_chats(client, start["model"], url)
                check_errors(client, start["model"], url)
            finally:
                server.terminate()
        check(server.returncode == 0, "SIGTERM ends the service with exit code 0")


if __name__ == "__main__":
    main()
