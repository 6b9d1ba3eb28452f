#!/usr/bin/env python3
"""Compares lm-evaluation-harness, talking to `qalof serve`, with `qalof eval`.

  tools/interop/check_lm_eval_server.py [--qalof build/release/qalof] [--model assets/nano/model]
      [--file assets/nano/data/multiple_choice.jsonl] [--precision 8] [--limit 40]

The file's questions become a local task of lm-eval, which asks the service's /v1/completions
(model type local-completions: token ids, echo, logprobs). `qalof eval --task multiple_choice`
answers the same questions. Exit status 1 where a log-likelihood is further off than --tolerance or
an accuracy differs. Needs lm-eval[api] (tried with 0.4.13) and transformers for the tokenizer.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = "served_multiple_choice"


def ask_harness(url, model, data, folder):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    import lm_eval
    import lm_eval.models.openai_completions
    import lm_eval.tasks

    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(task), encoding="utf-8")
    positions = json.loads((pathlib.Path(model) / "config.json").read_text())["n_positions"]
    harness = lm_eval.models.openai_completions.LocalCompletionsAPI(
        model=pathlib.Path(model).name,
        base_url=url + "/v1/completions",
        tokenizer=model,
        tokenizer_backend="huggingface",
        max_length=positions,
        num_concurrent=4,
        batch_size=1,
        max_retries=1,
    )
    results = lm_eval.simple_evaluate(
        model=harness,
        tasks=[TASK],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    values = [[float(value) for value, _ in sample["filtered_resps"]] for sample in samples]
    return float(results["results"][TASK]["acc,none"]), values


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--model", default=str(ROOT / "assets/nano/model"))
    parser.add_argument("--file", default=str(ROOT / "assets/nano/data/multiple_choice.jsonl"))
    parser.add_argument("--precision", default="8")
    parser.add_argument("--limit", type=int, default=40, help="questions")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        data = folder / "data.jsonl"
        lines = pathlib.Path(options.file).read_text(encoding="utf-8").splitlines()
        data.write_text("\n".join(lines[: options.limit]) + "\n", encoding="utf-8")
        common = ["--model_name_or_path", options.model, "--precision", options.precision]
        command = [options.qalof, "eval", "--quiet", "--json", "--task", "multiple_choice", *common]
        command += ["--validation_file", str(data), "--output_dir", str(folder / "eval")]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        choices = (folder / "eval/eval_choices.jsonl").read_text(encoding="utf-8")
        ours = [json.loads(line) for line in choices.splitlines()]
        command = [options.qalof, "serve", *common, "--port", "0", "--json", "--quiet"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = json.loads(server.stdout.readline())["url"]
                accuracy, theirs = ask_harness(url, options.model, data, folder)
            finally:
                server.terminate()
    worst = 0.0
    for mine, values in zip(ours, theirs, strict=True):
        for a, b in zip(mine["log_likelihoods"], values, strict=True):
            worst = max(worst, abs(a - b)) if abs(a - b) >= 0 else float("nan")
    print(f"{len(ours)} questions, largest difference of log-likelihoods {worst:.2e}")
    print(f"accuracy: lm-eval over HTTP {100 * accuracy:.2f}, qalof {found['eval_accuracy']:.2f}")
    same = abs(100 * accuracy - found["eval_accuracy"]) < 1e-6
    if not (worst <= options.tolerance and same):
        sys.exit(1)


if __name__ == "__main__":
    main()
