#!/usr/bin/env python3
"""Trains adapters of 8 and 4 bits on a random model of every family and compares their losses with
Python peft's.

  tools/interop/check_families.py [--qalof build/release/qalof] [--only gemma2_caps ...]

Each case of tools/fixtures/make_family_fixtures.py, with the vocabulary of assets/nano, is made by
`qalof init`, trained for three steps by `qalof train` and loaded by transformers and peft
(check_peft_classes.py): transformers must find every tensor, and the loss of a text must agree.
Exit status 1 where it does not. Needs torch, transformers, peft and tokenizers.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
NANO = ROOT / "assets/nano"
CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
TOKENS = 40


def short_text(tokenizer: tokenizers.Tokenizer) -> str:
    text = (NANO / "data/text.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text[:2000]).ids[:TOKENS]
    return tokenizer.decode(ids)


def check(name: str, case: dict, text: pathlib.Path, qalof: str, work: pathlib.Path) -> bool:
    config = dict(case["config"], initializer_range=0.2, bos_token_id=0, eos_token_id=0)
    text_part = config.get("text_config", config)
    text_part.update(vocab_size=1024, initializer_range=0.2)
    config["architectures"] = [CLASSES[config["model_type"]]]
    (work / "config.json").write_text(json.dumps(config))
    model, out = work / "model", work / "out"
    commands = [
        ["init", "--config_name", work / "config.json", "--tokenizer_name", NANO / "model"]
        + ["--output_dir", model],
        ["train", "--model_name_or_path", model, "--task", "lm", "--output_dir", out]
        + ["--train_file", NANO / "data/text.txt", "--method", "joint", "--bit_widths", "8", "4"]
        + ["--max_steps", "3", "--learning_rate", "0.05", "--warmup_steps", "0"]
        + ["--max_seq_length", str(TOKENS)]
        + ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"],
    ]
    for command in commands:
        command = [qalof, *map(str, command), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    good = True
    for width in ("w8", "w4"):
        result = subprocess.run(
            [sys.executable, ROOT / "tools/interop/check_peft_classes.py", "--qalof", qalof]
            + ["--model", model, "--adapter", out / width, "--file", text]
            + ["--max_seq_length", str(TOKENS), "--tolerance", "2e-5"],
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"{name} {width}: {result.stdout.strip()}")
        good = good and result.returncode == 0
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--only", nargs="*", help="cases to run; all without it")
    arguments = parser.parse_args()
    cases = json.loads((ROOT / "tests/support/data/families.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(NANO / "model/tokenizer.json"))
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        text = pathlib.Path(directory) / "text.txt"
        text.write_text(short_text(tokenizer), encoding="utf-8")
        for name in arguments.only or cases:
            work = pathlib.Path(directory) / name
            work.mkdir()
            if not check(name, cases[name], text, arguments.qalof, work):
                failed.append(name)
    if failed:
        print("differ: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
