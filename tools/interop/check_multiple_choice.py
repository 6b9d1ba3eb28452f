#!/usr/bin/env python3
"""Compares `qalof eval --task multiple_choice` with lm-evaluation-harness, choice by choice.

  tools/interop/check_multiple_choice.py
  tools/interop/check_multiple_choice.py --model MODEL --file FILE.jsonl --qalof build/release/qalof
  tools/interop/check_multiple_choice.py \\
      --write_expected tests/tasks/data/multiple_choice_expected.json

The file's lines are {"context": TEXT, "choices": [TEXT, ...], "answer": INDEX}. They become a local
task of lm-eval (no examples in the prompt, one space between context and choice), which runs the
model through transformers in f32 on the CPU. qalof answers the same file at 32 bits, with
--parse_special, because transformers parses special tokens in texts always. Exit status 1 where a
log-likelihood is further off than --tolerance (and ROUNDING of its size, which sums of hundreds of
tokens in f32 need), or not a number, or where a prediction or an accuracy differs. Names on either
side:

  lm-eval    eval_results.json    eval_choices.jsonl   the largest of
  acc        eval_accuracy        predicted            log-likelihood
  acc_norm   eval_accuracy_norm   predicted_norm       log-likelihood / characters of the choice
  acc_bytes  eval_accuracy_bytes  predicted_bytes      log-likelihood / UTF-8 bytes of the choice

qalof's accuracies are percent, lm-eval's and those of --write_expected are parts of one. A row
whose names qalof did not write at all is reported as left out; acc and acc_norm may not be.
--write_expected stores lm-eval's numbers, for tests, and does not run qalof. --llama3_tokenizer
gives both sides a copy of the model whose tokenizer does what Llama 3's does: a first token before
every text, Llama 3's words, and a token of "?" and a line end, so that the end of a context and the
beginning of a choice can become one token.

Needs lm-eval[hf] (tried with 0.4.13; old ones leave a tokenizer's first token away) and torch.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# (lm-eval's name, qalof's accuracy, qalof's prediction)
METRICS = [
    ("acc", "eval_accuracy", "predicted"),
    ("acc_norm", "eval_accuracy_norm", "predicted_norm"),
    ("acc_bytes", "eval_accuracy_bytes", "predicted_bytes"),
]
REQUIRED = 2
ROUNDING = 1e-6
DIGITS = 7  # significant ones of a stored log-likelihood
TASK = "local_multiple_choice"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_questions(path: pathlib.Path) -> list[dict]:
    """The lines in the file's order. A mark at its beginning and empty lines are passed over."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def llama3_changes(model: pathlib.Path) -> dict:
    """What differs in tokenizer.json; its last merge and that merge's token are replaced."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    first = next(t for t in tokenizer["added_tokens"] if t["id"] == config["bos_token_id"])
    name, sequence = first["content"], {"Sequence": {"id": "A", "type_id": 0}}
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    pair = [special, sequence, {"Sequence": {"id": "B", "type_id": 0}}]
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split | {"invert": False}, byte_level | {"use_regex": False}]
    ids = {name: {"id": name, "ids": [first["id"]], "tokens": [name]}}
    template = {"type": "TemplateProcessing", "single": pair[:2], "pair": pair}
    return {
        "post_processor": template | {"special_tokens": ids},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "last_merge": ["?", "\u010a"],  # U+010A stands for the byte of a line end
    }


def change_tokenizer(model: pathlib.Path, changes: dict, output: pathlib.Path) -> None:
    """A copy of the model's directory with another tokenizer.json."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(model / name, output / name)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    for name in ("post_processor", "pre_tokenizer"):
        tokenizer[name] = changes[name]
    bpe, merge = tokenizer["model"], changes["last_merge"]
    old = "".join(bpe["merges"][-1])
    bpe["vocab"]["".join(merge)] = bpe["vocab"].pop(old)
    bpe["merges"][-1] = merge
    (output / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    # By this class transformers reads tokenizer.json and nothing else.
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (output / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def first_largest(values) -> int:
    """As numpy.argmax: the first of equals, and a NaN is the largest."""
    for index, value in enumerate(values):
        if math.isnan(value):
            return index
    return max(range(len(values)), key=values.__getitem__)


def divided(value: float, size: int) -> float:
    """value <= 0. What has no length can not win."""
    return value / size if size else -math.inf if value else math.nan


def predictions(log_likelihoods: list[float], choices: list[str]) -> dict[str, int]:
    characters = [divided(v, len(c)) for v, c in zip(log_likelihoods, choices, strict=False)]
    by_bytes = [divided(v, len(c.encode())) for v, c in zip(log_likelihoods, choices, strict=False)]
    scores = (log_likelihoods, characters, by_bytes)
    return {ours: first_largest(s) for (_, _, ours), s in zip(METRICS, scores, strict=False)}


def run_lm_eval(model: pathlib.Path, questions: list[dict]) -> dict:
    """{"acc", "acc_norm", "acc_bytes", "questions": [{"log_likelihoods", "predicted", ...}]}."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    import lm_eval
    import lm_eval.models.huggingface
    import lm_eval.tasks
    import torch
    import transformers

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(q) + "\n" for q in questions), encoding="utf-8")
        metrics = [
            {"metric": n, "aggregation": "mean", "higher_is_better": True} for n, *_ in METRICS
        ]
        # JSON is YAML. Names of columns are taken as they are, not as templates.
        task = {
            "task": TASK,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(data)},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "context",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": " ",
            "num_fewshot": 0,
            "metric_list": metrics,
        }
        (folder / f"{TASK}.yaml").write_text(json.dumps(task), encoding="utf-8")
        # With logits_cache the harness takes wrong rows where two questions have the same tokens
        # and only the cut between context and choice differs.
        harness = lm_eval.models.huggingface.HFLM(
            pretrained=str(model), device="cpu", dtype="float32", batch_size=1, logits_cache=False
        )
        results = lm_eval.simple_evaluate(
            model=harness,
            tasks=[TASK],
            task_manager=lm_eval.tasks.TaskManager(
                include_path=str(folder), include_defaults=False
            ),
            log_samples=True,
            bootstrap_iters=0,
        )
    found = []
    for sample, asked in zip(
        sorted(results["samples"][TASK], key=lambda s: s["doc_id"]), questions, strict=True
    ):
        values = [float(ll) for ll, _ in sample["filtered_resps"]]
        predicted = predictions(values, asked["choices"])
        for name, _, ours in METRICS:
            if sample[name] != float(predicted[ours] == asked["answer"]):
                raise SystemExit(f"question {sample['doc_id']}: lm-eval's {name} is not understood")
        found.append({"log_likelihoods": values} | predicted)
    scores = {name: float(results["results"][TASK][f"{name},none"]) for name, *_ in METRICS}
    versions = {"lm_eval": lm_eval.__version__, "transformers": transformers.__version__}
    return versions | scores | {"questions": found}


def run_qalof(program: str, model: pathlib.Path, file: pathlib.Path) -> tuple[dict, list[dict]]:
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "eval", "--quiet", "--json", "--task", "multiple_choice"]
        command += ["--parse_special"]
        command += ["--model_name_or_path", model, "--precision", "32"]
        command += ["--validation_file", file, "--output_dir", directory]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        output = pathlib.Path(directory)
        results = json.loads((output / "eval_results.json").read_text(encoding="utf-8"))
        return results, read_questions(output / "eval_choices.jsonl")


def compare(
    results: dict, ours: list[dict], expected: dict, questions: list[dict], tolerance: float
) -> list[str]:
    """What differs; prints how much the log-likelihoods do."""
    if len(ours) != len(questions):
        return [f"{len(ours)} questions, expected {len(questions)}"]
    wrong, differences, shares = [], [], []
    for index, (mine, theirs, asked) in enumerate(
        zip(ours, expected["questions"], questions, strict=True)
    ):
        values = mine["log_likelihoods"]
        if mine["index"] != index or len(values) != len(asked["choices"]):
            wrong.append(f"question {index}: index {mine['index']}, {len(values)} choices")
            continue
        for choice, (value, other) in enumerate(
            zip(values, theirs["log_likelihoods"], strict=False)
        ):
            off = abs(value - other) if isinstance(value, float | int) else math.nan
            allowed = tolerance + ROUNDING * abs(other)
            if not off <= allowed:  # also for NaN
                wrong.append(f"question {index}, choice {choice}: {value}, expected {other}")
            differences.append(off)
            shares.append(off / allowed)
        checks = {name: theirs[name] for *_, name in METRICS}
        checks |= {"answer": asked["answer"], "bytes": [len(c.encode()) for c in asked["choices"]]}
        checks |= {"characters": [len(c) for c in asked["choices"]]}
        optional = {"characters", *(name for *_, name in METRICS[REQUIRED:])}
        for name, value in checks.items():
            if (name in mine or name not in optional) and mine.get(name) != value:
                wrong.append(f"question {index}: {name} {mine.get(name)}, expected {value}")
    for number, (theirs, accuracy, _) in enumerate(METRICS):
        if accuracy not in results and number >= REQUIRED:
            print(f"{theirs} left out: qalof wrote no {accuracy}")
        elif not abs(results.get(accuracy, math.nan) - 100 * expected[theirs]) <= 1e-9:
            wrong.append(f"{accuracy} {results.get(accuracy)}, expected {100 * expected[theirs]}")
    if differences:
        print(
            f"{len(differences)} log-likelihoods of {len(ours)} questions: they differ by at most "
            f"{differences[first_largest(differences)]:.3g}, and by at most "
            f"{shares[first_largest(shares)]:.2g} times what is allowed"
        )
    return wrong


def write_expected(path: pathlib.Path, expected: dict) -> None:
    def rounded(question: dict) -> dict:
        values = [float(f"{v:.{DIGITS}g}") for v in question["log_likelihoods"]]
        return question | {"log_likelihoods": values}

    lines = ",\n".join("  " + json.dumps(rounded(q)) for q in expected["questions"])
    head = {name: value for name, value in expected.items() if name != "questions"}
    text = json.dumps(head)[:-1] + f', "questions": [\n{lines}\n]}}\n'
    json.loads(text)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("assets/nano/model"))
    parser.add_argument(
        "--file", type=pathlib.Path, default=pathlib.Path("assets/nano/data/multiple_choice.jsonl")
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of a log-likelihood")
    parser.add_argument("--llama3_tokenizer", action="store_true", help="see above")
    parser.add_argument("--write_expected", type=pathlib.Path, help="writes this file instead")
    arguments = parser.parse_args()
    questions = read_questions(arguments.file)
    with tempfile.TemporaryDirectory() as directory:
        model, origin = (
            arguments.model,
            {
                "model": arguments.model.as_posix(),
                "file": arguments.file.as_posix(),
            },
        )
        if arguments.llama3_tokenizer:
            origin["tokenizer"] = llama3_changes(model)
            model = pathlib.Path(directory)
            change_tokenizer(arguments.model, origin["tokenizer"], model)
        expected = origin | run_lm_eval(model, questions)
        print(", ".join(f"{name} {expected[name]:.4f}" for name, *_ in METRICS))
        if arguments.write_expected:
            write_expected(arguments.write_expected, expected)
            return 0
        wrong = compare(
            *run_qalof(arguments.qalof, model, arguments.file),
            expected,
            questions,
            arguments.tolerance,
        )
    for line in wrong[:20]:
        print(line)
    print(f"{len(wrong)} differences" if wrong else "equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
