#!/usr/bin/env python3
"""Trains adapters on conversations in qalof and in PyTorch with peft and trl in turn, on the same
file, and writes the section of docs/benchmarks.md.

    tools/bench/bench_chat.py --qalof build/release/qalof --model SMOLLM2_DIR --peer_python PYTHON
        --train_file out/squad_chat/train.jsonl [--rounds 3] [--write docs/benchmarks.md]

PYTHON is a Python with torch, transformers, peft and trl. Both train a LoRA adapter of the same
rank on all linears, on as many conversations a step, cut to the same length, in the dtype that is
faster there (--peer_dtype). A round runs every row once; a figure is the median over rounds of the
tokens of real text in a second, padding not counted: PyTorch's without its first step, qalof's with
it.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.documents import call, conditions, without_paths, write_section  # noqa: E402

BEGIN, END = "<!-- chat: written by tools/bench/bench_chat.py -->", "<!-- chat: end -->"
RANK = 8


def peer(arguments):
    """Real tokens a second of trl's SFTTrainer with a LoRA adapter of peft, padded as it pads."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(arguments.threads)
    lines = arguments.train_file.read_text(encoding="utf-8").splitlines()
    count = arguments.batch * (arguments.steps + 1)
    rows = []
    for line in lines[:count]:
        messages = json.loads(line)["messages"]
        rows.append({"prompt": messages[:-1], "completion": messages[-1:]})
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[arguments.peer_dtype]
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
    seen = []  # (seconds, real tokens) of each step

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.begin = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            seen.append(time.perf_counter() - self.begin)

    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"),
            args=SFTConfig(
                output_dir=output,
                per_device_train_batch_size=arguments.batch,
                max_steps=arguments.steps + 1,
                max_length=arguments.length,
                learning_rate=1e-3,
                completion_only_loss=True,
                gradient_checkpointing=False,
                report_to=[],
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                disable_tqdm=True,
            ),
            callbacks=[Watch()],
        )
        tokens = []
        collate = trainer.data_collator

        def counted(features):
            batch = collate(features)
            tokens.append(int(batch["attention_mask"].sum()))
            return batch

        trainer.data_collator = counted
        trainer.train()
    timed = seen[1:]
    return {"tokens_per_second": sum(tokens[1 : len(timed) + 1]) / sum(timed)}


def ours(arguments, *flags):
    return [
        arguments.qalof,
        "train",
        "--task",
        "chat",
        "--model_name_or_path",
        str(arguments.model),
        "--train_file",
        str(arguments.train_file),
        "--max_train_samples",
        str(arguments.batch * (arguments.steps + 1)),
        "--max_seq_length",
        str(arguments.length),
        "--per_device_train_batch_size",
        str(arguments.batch),
        "--max_steps",
        str(arguments.steps + 1),
        "--lora_r",
        str(RANK),
        "--threads",
        str(arguments.threads),
        *flags,
    ]


def run_ours(command):
    """Real tokens a second over all steps."""
    with tempfile.TemporaryDirectory() as output:
        flags = ["--json", "--quiet", "--overwrite_output_dir", "--output_dir", output]
        return call([*command, *flags])["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--train_file", type=pathlib.Path, required=True)
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--peer_dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3, help="measured, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--write", type=pathlib.Path, help="a file whose marked section is replaced; default: print"
    )
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(peer(arguments)))
        return
    name = f"PyTorch + peft + trl, {arguments.peer_dtype}"
    rows = {
        "LoRA, f32": ours(arguments, "--method", "lora"),
        "LoRA, bf16": ours(arguments, "--method", "lora", "--bf16"),
        "LoRA at 8 bits": ours(arguments, "--method", "lora", "--precision", "8"),
        "LoRA at 4 bits, tuned": ours(
            arguments, "--method", "lora", "--precision", "4", "--scheme", "tuned"
        ),
    }
    speed = {}
    for index in range(arguments.rounds):
        for row, command in rows.items():
            speed.setdefault(row, []).append(run_ours(command))
        found = call([arguments.peer_python, __file__, "--peer", *sys.argv[1:]])
        speed.setdefault(name, []).append(found["tokens_per_second"])
        for row, values in speed.items():
            print(f"round {index + 1} {row}: {values[-1]:,.0f}", file=sys.stderr, flush=True)
    median = {row: statistics.median(values) for row, values in speed.items()}
    lines = [BEGIN, "", conditions(arguments.qalof, arguments.threads, arguments.rounds), ""]
    lines += [
        "| training on conversations | real tokens/s | against PyTorch |",
        "| --- | --- | --- |",
    ]
    for row, value in median.items():
        ratio = "" if row == name else f"{value / median[name]:.2f}x"
        lines.append(f"| {row} | {value:,.0f} | {ratio} |")
    lines += ["", "```"]
    names = {"--model_name_or_path": "MODEL", "--train_file": "TRAIN_FILE"}
    for command in rows.values():
        lines.append("qalof " + " ".join(without_paths(command, names)[1:]))
    write_section(arguments.write, BEGIN, END, "\n".join([*lines, "```", "", END]))


if __name__ == "__main__":
    main()
