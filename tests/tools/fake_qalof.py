#!/usr/bin/env -S python3 -SE
"""Stands in for qalof in results_test.py: writes what the harness reads, in no time, and notes
every call in CALLS.
"""

import json
import os
import pathlib
import sys

arguments = sys.argv[1:]
command = arguments[0]
flags = {}
for word in arguments[1:]:
    if word.startswith("--"):
        name = word[2:]
        flags[name] = []
    else:
        flags[name].append(word)
flags = {name: " ".join(values) for name, values in flags.items()}
if command == "--version":
    print("fake 1")
    sys.exit()
with open(os.environ["CALLS"], "a", encoding="utf-8") as file:
    file.write(" ".join(arguments) + "\n")
if command == "train":
    if flags["method"] == os.environ.get("FAIL"):
        sys.exit("error: told to fail")
    output = pathlib.Path(flags["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    passes = 2 if flags["method"] == "joint" else 1
    steps = (
        int(flags["max_steps"])
        if "max_steps" in flags
        else int(flags["max_tokens"]) // (1000 * passes)
    )
    result = {
        "tokens": 1000 * steps * passes,
        "steps": steps,
        "train_loss": 0.5,
        "phases": [{"seconds": 1}],
        "interrupted": False,
    }
    (output / "all_results.json").write_text(json.dumps(result))
    (output / "rate").write_text(flags["learning_rate"])
elif command == "quantize":
    pathlib.Path(flags["output"]).write_text("packed")
    result = {}
else:
    chats = flags["task"] == "chat"
    with open(flags["validation_file"], encoding="utf-8") as file:
        if chats:
            ids = [str(number + 1) for number, line in enumerate(file) if line.strip()]
        else:
            data = json.load(file)["data"]
            ids = [qa["id"] for a in data for p in a["paragraphs"] for qa in p["qas"]]
    source = pathlib.Path(flags.get("adapter") or flags["model_name_or_path"])
    rate = float((source / "rate").read_text()) if (source / "rate").exists() else 0
    scores = {
        name: [100.0, 100.0] if number % 4 or rate == 0.02 else [0.0, 50.0]
        for number, name in enumerate(ids)
    }
    output = pathlib.Path(flags["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    if chats:  # in the order in which answers ended
        lines = [
            json.dumps({"line": int(name), "exact_match": em, "f1": f1}) + "\n"
            for name, (em, f1) in reversed(scores.items())
        ]
        (output / "eval_answers.jsonl").write_text("".join(lines))
    else:
        (output / "eval_scores.json").write_text(json.dumps(scores))
    em, f1 = (sum(score[i] for score in scores.values()) / len(scores) for i in (0, 1))
    result = {
        "exact_match" if chats else "eval_exact_match": em,
        "f1" if chats else "eval_f1": f1,
        "precision": flags.get("precision", "32"),
        "effective_bits": {"weights": 4.25, "activations": 4.5, "kv": 5},
        "bytes": {"linears": 1000, "adapters": 2000, "other": 3000},
    }
print(json.dumps(result))
