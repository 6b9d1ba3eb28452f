#!/usr/bin/env python3
"""A stand-in for qalof in tests of tools/experiments/attack_results.py: directories, predictions
and texts without any model.

A text is classified by its last word's first letter; a width below 6 takes texts with "!" for class
0.
"""

import json
import pathlib
import sys


def value_of(flag):
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else None


def predict(text, width):
    if "!" in text and width < 6:
        return 0
    return int(text.split()[-1][0] == "g")


def main():
    command = sys.argv[1]
    if command == "doctor":
        print(json.dumps({"processor": "none", "isa": "portable"}))
        return
    directory = pathlib.Path(value_of("--output_dir"))
    if "fail" in (value_of("--adversarial_steps") or ""):
        sys.exit("no such thing")
    directory.mkdir(parents=True, exist_ok=True)
    if command == "train":
        (directory / "flags.json").write_text(json.dumps(sys.argv[1:]))
        print(
            json.dumps(
                {"train_loss": 0.5, "steps": 3, "eval": [{"precision": "8", "eval_accuracy": 90.0}]}
            )
        )
    if command in ("eval", "attack"):
        lines = pathlib.Path(value_of("--validation_file")).read_text().splitlines()
        rows = [(text, int(label)) for text, label in (line.rsplit("\t", 1) for line in lines)]
    if command == "eval":
        precision = value_of("--precision")
        widths = [int(w) for w in precision.removeprefix("random:").split(",")]
        seed = int(value_of("--seed") or 0)
        found = [
            predict(text, widths[(i + seed) % len(widths)]) for i, (text, _) in enumerate(rows)
        ]
        (directory / "eval_predictions.json").write_text(
            json.dumps({"labels": [label for _, label in rows], "predictions": found})
        )
        print(json.dumps({"precision": precision}))
    if command == "attack":
        rows = rows[: int(value_of("--num_samples"))]
        with (directory / "attack.jsonl").open("w") as file:
            for text, label in rows:
                file.write(
                    json.dumps({"original": text, "text": "! " + text, "label": label}) + "\n"
                )
        print(json.dumps({"adversarial_accuracy": 50.0, "samples": len(rows)}))
    with (pathlib.Path(sys.argv[0]).parent / "calls.txt").open("a") as file:
        file.write(command + "\n")


main()
