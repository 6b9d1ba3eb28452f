#!/usr/bin/env python3
"""Loads an adapter that qalof wrote in Python peft on its base and compares span logits in f32.

LOGITS is a JSON file {"ids": [...], "logits": [start 0, end 0, start 1, ...]} of what qalof computed at 32 bits; the test
SavedAdapter writes one with an adapter where QALOF_PEFT_EXPORT_DIR names a directory. Exit status 1 where they differ.

  tools/check_peft.py BASE_DIR ADAPTER_DIR LOGITS [--tolerance 1e-4]
"""
import argparse
import json
import sys
import warnings

import peft
import torch
import transformers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("logits")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = transformers.GPT2ForQuestionAnswering.from_pretrained(arguments.base, dtype=torch.float32)
    with warnings.catch_warnings():
        # Of tensors that are missing or not used peft only warns.
        warnings.filterwarnings("error", message="(?s).*(missing|unexpected).*")
        model = peft.PeftModel.from_pretrained(base, arguments.adapter).eval()
    with open(arguments.logits, encoding="utf-8") as file:
        ours = json.load(file)
    with torch.no_grad():
        result = model(input_ids=torch.tensor([ours["ids"]]))
    theirs = torch.stack([result.start_logits[0], result.end_logits[0]], dim=-1).flatten()
    found = torch.tensor(ours["logits"])
    if found.shape != theirs.shape:
        print(f"{arguments.logits}: {found.numel()} logits, expected {theirs.numel()}")
        return 1
    difference = (found - theirs).abs().max().item()
    print(f"largest difference of {found.numel()} logits: {difference:.3g}")
    return 0 if difference <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
