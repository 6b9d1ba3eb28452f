#!/usr/bin/env python3
"""Compares `qalof tokenize --chat` with apply_chat_template of transformers, ids and text.

    python3 tools/interop/check_chat_templates.py --qalof build/release/qalof MODEL_DIR ...
        [--template FILE.jinja ...]

A model directory needs a tokenizer and a chat template; each --template is tried with the last
directory's tokenizer. The 200 conversations are those of tools/fixtures/make_chat_fixtures.py, with
and without a generation prompt. Where a template has {% generation %}, the masks of answers are
compared with return_assistant_tokens_mask. What transformers refuses, qalof has to refuse. Needs
`transformers` and `jinja2`.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from transformers import AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fixtures"))
from make_chat_fixtures import conversations  # noqa: E402


def reference(tokenizer, messages, prompt, has_marks):
    """Text, ids and mask by transformers, or None where it refuses."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        found = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            add_generation_prompt=prompt,
            return_dict=True,
            return_assistant_tokens_mask=has_marks,
        )
    except Exception:  # noqa: BLE001  templates raise what Python raises
        return None
    return text, found["input_ids"], found.get("assistant_masks")


def tokenize(qalof, directory, conversations_, prompt):
    """What qalof makes of conversations; none where it refuses one of them."""
    command = [qalof, "tokenize", "--model_name_or_path", directory, "--chat", "--jsonl"]
    command += ["--parse_special"] + (["--add_generation_prompt"] if prompt else [])
    command += ["--template_date", datetime.date.today().isoformat()]
    lines = "".join(json.dumps(messages) + "\n" for messages in conversations_)
    run = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    if run.returncode != 0:
        print(run.stderr.decode()[-300:])
        return []
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(qalof, directory):
    """Differences of one directory."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    has_marks = "generation %}" in tokenizer.get_chat_template()
    same = refused = different = 0
    for prompt in (False, True):
        wanted = [
            (messages, reference(tokenizer, messages, prompt, has_marks))
            for number, messages in enumerate(conversations())
            if (number % 2 == 0) == prompt
        ]
        taken = [(messages, want) for messages, want in wanted if want is not None]
        found = tokenize(qalof, directory, [messages for messages, _ in taken], prompt)
        different += len(taken) - len(found)
        for (messages, want), got in zip(taken, found, strict=False):
            fits = got["text"] == want[0] and got["ids"] == list(want[1])
            fits = fits and (not has_marks or got["answers"] == list(want[2]))
            same += fits
            different += not fits
            if not fits:
                print(f"  {json.dumps(messages)[:300]}\n    {want}\n    {got}"[:1200])
        # One process for each, so a few of them.
        for messages, _ in [one for one in wanted if one[1] is None][:4]:
            fits = not tokenize(qalof, directory, [messages], prompt)
            refused += fits
            different += not fits
    print(f"{directory}: {same} equal, {refused} refused by both, {different} different")
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--template", type=pathlib.Path, action="append", default=[])
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    different = sum(check(args.qalof, model) for model in args.models)
    for template in args.template:
        with tempfile.TemporaryDirectory() as directory:
            for path in pathlib.Path(args.models[-1]).iterdir():
                if path.name.startswith(("tokenizer", "special", "vocab", "merges")):
                    shutil.copy(path, directory)
            shutil.copy(template, pathlib.Path(directory) / "chat_template.jinja")
            print(template, end=": ")
            different += check(args.qalof, directory)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
