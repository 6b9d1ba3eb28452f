#!/usr/bin/env python3
"""Loads an adapter that qalof trained in Python peft on its base and compares span logits in f32.

  tools/interop/check_peft.py --model assets/nano/model --adapter out/demo/switch/w8
      --validation_file assets/nano/data/validation.json

qalof answers the first questions at 32 bits and writes its best spans with their logits; peft and
transformers compute the same logits in f32 and in f64. Two programs in f32 round differently, and
how far that moves a logit depends on the model: exit status 1 where ours is further from f64 than
ROUNDING times what theirs in f32 is, and than LEAST_TOLERANCE. Contexts must fit into one window.
Needs torch, transformers, peft and tokenizers.
"""

import argparse
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

N_BEST = 20
MAX_ANSWER_LENGTH = 30
ROUNDING, LEAST_TOLERANCE = 4, 1e-4


def best_spans(model, tokenizer, question, context):
    """[(start logit, end logit)], best first, of the spans run_qa would consider."""
    first = len(tokenizer.encode(question).ids)
    ids = tokenizer.encode(question).ids + tokenizer.encode(context).ids
    with torch.no_grad():
        result = model(input_ids=torch.tensor([ids]))
    start, end = result.start_logits[0], result.end_logits[0]
    count = min(N_BEST, len(ids))
    spans = [
        (start[s].item(), end[e].item())
        for s in start.topk(count).indices
        for e in end.topk(count).indices
        if first <= s <= e < s + MAX_ANSWER_LENGTH
    ]
    return sorted(spans, key=lambda span: -sum(span))[:N_BEST]


def largest_difference(found, expected):
    """Of logits [spans, 2]. Spans whose sums differ in the last bits may change places, and with
    the last one drop out: sums are compared in order, starts and ends of those before the last by
    size."""
    found, sums = found.double(), expected.sum(1)
    kept = int((sums > sums[-1] + LEAST_TOLERANCE).sum())
    pairs = [(found.sum(1), sums)]
    if kept > 0:
        pairs.append((found[:kept].sort(0).values, expected[:kept].sort(0).values))
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", required=True, help="one PEFT directory, such as out/w8")
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--questions", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [
                arguments.qalof,
                "eval",
                "--quiet",
                "--model_name_or_path",
                arguments.model,
                "--adapter",
                arguments.adapter,
                "--precision",
                "32",
                "--validation_file",
                arguments.validation_file,
                "--max_eval_samples",
                str(arguments.questions),
                "--n_best_size",
                str(N_BEST),
                "--max_answer_length",
                str(MAX_ANSWER_LENGTH),
                "--max_seq_length",
                "100000",
                "--output_dir",
                directory,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours = json.loads(
            (pathlib.Path(directory) / "eval_nbest_predictions.json").read_text(encoding="utf-8")
        )
    # LlamaForQuestionAnswering calls the decoder "transformer" and leaves it random where the files
    # say "model".
    mapping = (
        {"^model\\.": "transformer."}
        if json.loads((arguments.model / "config.json").read_text())["model_type"] == "llama"
        else None
    )
    base = transformers.AutoModelForQuestionAnswering.from_pretrained(
        arguments.model, dtype=torch.float32, key_mapping=mapping
    )
    with warnings.catch_warnings():
        # Of tensors that are missing or not used peft only warns.
        warnings.filterwarnings("error", message="(?s).*(missing|unexpected).*")
        model = peft.PeftModel.from_pretrained(base, arguments.adapter).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    data = json.loads(pathlib.Path(arguments.validation_file).read_text(encoding="utf-8"))["data"]
    questions = [
        (qa, paragraph["context"])
        for article in data
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    asked = questions[: arguments.questions]
    spans, ours_off, theirs_off = {}, [], []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        spans[dtype] = [
            torch.tensor(
                best_spans(model, tokenizer, qa["question"].lstrip(), context), dtype=torch.float64
            )
            for qa, context in asked
        ]
    for (qa, _), theirs, exact in zip(
        asked, spans[torch.float32], spans[torch.float64], strict=True
    ):
        found = torch.tensor([(span["start_logit"], span["end_logit"]) for span in ours[qa["id"]]])
        if found.shape != exact.shape:
            print(f"{qa['id']}: {len(found)} spans, expected {len(exact)}")
            return 1
        ours_off.append(largest_difference(found, exact))
        theirs_off.append(largest_difference(theirs, exact))
    allowed = max(LEAST_TOLERANCE, ROUNDING * max(theirs_off))
    passed = all(off <= allowed for off in ours_off)  # false for NaN
    print(
        f"largest difference from f64 of {sum(e.numel() for e in spans[torch.float64])} logits of "
        f"{len(ours_off)} questions: "
        f"ours {max(ours_off):.3g}, of peft in f32 {max(theirs_off):.3g}, allowed {allowed:.3g}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
