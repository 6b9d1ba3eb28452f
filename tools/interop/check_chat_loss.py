#!/usr/bin/env python3
"""Compares the loss of conversations with that of transformers, with labels -100 outside answers.

    python3 tools/interop/check_chat_loss.py --qalof build/release/qalof [--count 24]
        --data assets/nano/data/chat_validation.jsonl assets/nano/model SMOLLM2_DIR ...

For each model: the loss of `qalof eval --task chat` and of the first step of `qalof train`, both on
conversations packed without padding, beside transformers' on the same conversations, padded to one
batch and each alone. A model without a chat template is written by the plain one. Labels do not
come from qalof: the model's template is marked with {% generation %} by --marked FILE (or here, for
the plain template and for ChatML as SmolLM2 has it), and return_assistant_tokens_mask says what is
an answer. Each conversation's loss alone is compared too, and that of all packed with the mean of
those alone. Needs `torch`, `transformers` and `jinja2`. Exit status 1 where one differs by more
than 1e-4.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MOST = 1e-4
PLAIN = (
    "{% for message in messages %}### {{ message.role }}:\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{{ '\n' }}{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
)


def conversations(path, count):
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["messages"] for line in lines]


def encoded(tokenizer, messages, marked, length):
    """Ids and labels of a conversation."""
    found = tokenizer.apply_chat_template(
        messages,
        chat_template=marked,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = found["input_ids"][:length], found["assistant_masks"][:length]
    return ids, [one if answer else -100 for one, answer in zip(ids, mask, strict=True)]


@torch.no_grad()
def padded_loss(model, windows):
    """transformers' own loss of windows in one padded batch."""
    longest = max(len(ids) for ids, _ in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (own, wanted) in enumerate(windows):
        ids[row, : len(own)] = torch.tensor(own)
        labels[row, : len(own)] = torch.tensor(wanted)
        attention[row, : len(own)] = 1
    return float(model(input_ids=ids, attention_mask=attention, labels=labels).loss)


def call(qalof, command):
    run = subprocess.run(
        [qalof, *map(str, command)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"qalof {' '.join(map(str, command))}:\n{run.stderr}")
    return run.stdout


def own_losses(qalof, directory, data, flags, count, length, work):
    """By eval, of all packed and of each alone; and by the first step of a training."""
    common = ["--task", "chat", "--precision", "32", "--max_seq_length", length, "--quiet"]
    common += ["--model_name_or_path", directory, *flags]

    def score(path):
        found = json.loads(call(qalof, ["eval", "--json", "--validation_file", path, *common]))
        return found["eval_loss"], found["tokens"]

    packed, _ = score(data)
    alone = []
    for line in data.read_text(encoding="utf-8").splitlines():
        one = work / "one.jsonl"
        one.write_text(line + "\n", encoding="utf-8")
        alone.append(score(one))
    output = work / "train"
    train = ["train", "--method", "lora", "--max_steps", "1", "--warmup_steps", "0"]
    train += ["--per_device_train_batch_size", count, "--logging_steps", "1", "--train_file", data]
    call(qalof, [*train, *common, "--output_dir", output, "--overwrite_output_dir"])
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    return packed, alone, state["log_history"][0]["loss"]


def check(qalof, directory, arguments):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    own = getattr(tokenizer, "chat_template", None)
    marked, flags = arguments.marked and arguments.marked.read_text(encoding="utf-8"), []
    if own is None:
        flags, marked = ["--chat_template", "plain"], PLAIN
    marked = marked or CHATML
    positions = model.config.max_position_embeddings
    length = min(arguments.max_seq_length, positions)
    windows = [
        encoded(tokenizer, messages, marked, length)
        for messages in conversations(arguments.data, arguments.count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        data = work / "data.jsonl"
        lines = arguments.data.read_text(encoding="utf-8").splitlines()[: arguments.count]
        data.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        packed, alone, step = own_losses(
            qalof, directory, data, flags, arguments.count, length, work
        )
    wanted = padded_loss(model, windows)
    single = max(
        abs(padded_loss(model, [window]) - loss)
        for window, (loss, _) in zip(windows, alone, strict=True)
    )
    tokens = sum(count for _, count in alone)
    mean = sum(loss * count for loss, count in alone) / tokens
    differences = {
        "eval": abs(packed - wanted),
        "training step": abs(step - wanted),
        "alone, the most": single,
        "packed from alone": abs(packed - mean),
    }
    fits = all(value <= MOST for value in differences.values())  # NaN does not
    text = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(
        f"{'ok' if fits else 'DIFFERS'} {directory}: {len(windows)} conversations, {tokens} "
        f"answer tokens, transformers {wanted:.7f}; differences: {text}"
    )
    return not fits


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--marked", type=pathlib.Path)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    sys.exit(sum(check(arguments.qalof, model, arguments) for model in arguments.models) > 0)


if __name__ == "__main__":
    main()
