#!/usr/bin/env python3
"""Loads adapters that qalof trained in Python peft, in the class of their task, and compares logits
in f32.

  tools/interop/check_peft_classes.py --model MODEL --adapter out/w4 --file dev.tsv --qalof
      build/release/qalof

The task is read from adapter_config.json: SEQ_CLS compares the predicted class and the mean cross
entropy of the first texts of an SST-2 TSV or AG News CSV, CAUSAL_LM the mean loss of a text file.
(QUESTION_ANS: tools/interop/check_peft.py.) Exit status 1 where they differ. Needs torch,
transformers, peft and tokenizers.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import peft
import tokenizers
import torch
import transformers


def examples(path: pathlib.Path) -> list[tuple[str, int]]:
    """(text, label from 0) of a classification file."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return [
                (f"{title} {description}", int(label) - 1)
                for label, title, description in csv.reader(file)
            ]
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(sentence, int(label)) for sentence, label in rows if label != "label"]


def qalof_eval(arguments, task: str, directory: str) -> dict:
    command = [
        arguments.qalof,
        "eval",
        "--quiet",
        "--json",
        "--task",
        task,
        "--model_name_or_path",
        arguments.model,
        "--adapter",
        arguments.adapter,
        "--precision",
        "32",
        "--validation_file",
        arguments.file,
        "--max_seq_length",
        str(arguments.max_seq_length),
    ]
    if task == "classification":
        command += ["--max_eval_samples", str(arguments.samples), "--output_dir", directory]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument(
        "--adapter", type=pathlib.Path, required=True, help="one PEFT directory, such as out/w8"
    )
    parser.add_argument("--file", type=pathlib.Path, required=True)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = json.loads((arguments.adapter / "adapter_config.json").read_text())["task_type"]
    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        # Of tensors that are missing or not used peft only warns.
        warnings.filterwarnings("error", message="(?s).*(missing|unexpected).*")
        if task == "CAUSAL_LM":
            ours = qalof_eval(arguments, "lm", directory)
            base = transformers.AutoModelForCausalLM.from_pretrained(
                arguments.model, dtype=torch.float32
            )
            model = peft.PeftModel.from_pretrained(base, arguments.adapter).eval()
            ids = torch.tensor([tokenizer.encode(arguments.file.read_text(encoding="utf-8")).ids])
            if ids.shape[1] > arguments.max_seq_length:
                parser.error("--file: the text must fit into one window")
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(
                    model(input_ids=ids).logits[0, :-1], ids[0, 1:]
                ).item()
        else:
            ours = qalof_eval(arguments, "classification", directory)
            predictions = json.loads(
                (pathlib.Path(directory) / "eval_predictions.json").read_text()
            )["predictions"]
            labels = json.loads((arguments.adapter.parent / "qalof.json").read_text())[
                "label_names"
            ]
            base = transformers.AutoModelForSequenceClassification.from_pretrained(
                arguments.model, dtype=torch.float32, num_labels=len(labels)
            )
            model = peft.PeftModel.from_pretrained(base, arguments.adapter).eval()
            total = 0.0
            data = examples(arguments.file)[: arguments.samples]
            for (text, label), prediction in zip(data, predictions, strict=True):
                ids = tokenizer.encode(text).ids[: arguments.max_seq_length]
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0]
                if logits.argmax().item() != prediction:
                    print(f"{text!r}: class {prediction}, expected {logits.argmax().item()}")
                    return 1
                total += torch.nn.functional.cross_entropy(logits, torch.tensor(label)).item()
            loss = total / len(data)
    print(f"{task}: loss {ours['eval_loss']:.7f}, with peft {loss:.7f}")
    return 0 if abs(ours["eval_loss"] - loss) <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
