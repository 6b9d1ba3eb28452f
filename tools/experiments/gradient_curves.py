#!/usr/bin/env python3
"""Trains with products of gradients in 32, 16 and 8 bits and writes their loss curves: a table into
docs/benchmarks.md and a picture beside it.

  tools/experiments/gradient_curves.py --qalof build/release/qalof --model assets/nano/model
      --train_file assets/nano/data/train.json
      --validation_file assets/nano/data/validation.json [--seeds 1 2 3] [--steps 400] [--work
          out/gradients]
      [--write docs/benchmarks.md --picture docs/images/gradient_curves.svg]

Every run is one `qalof train --method switch --bit_widths 8`; a run that is finished is not
repeated. A point of a curve is the mean over seeds and over a tenth of the steps. Only the standard
library is needed.
"""

import argparse
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.documents import call, write_section  # noqa: E402

BEGIN, END = (
    "<!-- gradients: written by tools/experiments/gradient_curves.py -->",
    "<!-- gradients: end -->",
)
BITS = (32, 16, 8)
COLOURS = {32: "#4477aa", 16: "#228833", 8: "#cc3311"}


def command(arguments, bits, seed, output):
    return [
        arguments.qalof,
        "train",
        "--method",
        "switch",
        "--bit_widths",
        "8",
        "--gradient_bits",
        str(bits),
        "--seed",
        str(seed),
        "--model_name_or_path",
        str(arguments.model),
        "--train_file",
        str(arguments.train_file),
        "--validation_file",
        str(arguments.validation_file),
        "--max_steps",
        str(arguments.steps),
        "--learning_rate",
        str(arguments.learning_rate),
        "--logging_steps",
        "1",
        "--output_dir",
        str(output),
        "--json",
    ]


def run(arguments, bits, seed):
    """Losses of all steps, and F1."""
    output = arguments.work / f"g{bits}_s{seed}"
    if not (output / "all_results.json").exists():
        call(command(arguments, bits, seed, output) + ["--overwrite_output_dir"])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((output / "all_results.json").read_text())
    return [line["loss"] for line in lines if "loss" in line], results["eval"][0]["eval_f1"]


def tenths(losses):
    count = len(losses)
    return [statistics.mean(losses[count * i // 10 : count * (i + 1) // 10]) for i in range(10)]


def picture(curves, steps):
    width, height, left, bottom = 640, 320, 56, 40
    top = max(max(curve) for curve in curves.values()) * 1.05

    def x(i):
        return left + (i + 0.5) / 10 * (width - left - 16)

    def y(value):
        return 16 + (1 - value / top) * (height - bottom - 16)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<path d="M{left} 16V{height - bottom}H{width - 16}" fill="none" stroke="#888888"/>',
    ]
    for part in range(5):
        value = top * part / 4
        parts.append(
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" '
            f'fill="#333333">{value:.2f}</text>'
        )
    for i in range(10):
        parts.append(
            f'<text x="{x(i):.1f}" y="{height - bottom + 18}" text-anchor="middle" '
            f'fill="#333333">{steps * (i + 1) // 10}</text>'
        )
    parts.append(
        f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle" fill="#333333">step</text>'
    )
    for row, (bits, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(curve))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[bits]}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{width - 190}" y="{36 + 18 * row}" fill="{COLOURS[bits]}">gradients in '
            f"{bits} bits</text>"
        )
    return "\n".join(parts + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    for name in ("model", "train_file", "validation_file"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("out/gradients"))
    parser.add_argument(
        "--write", type=pathlib.Path, help="a file whose marked section is replaced; default: print"
    )
    parser.add_argument("--picture", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    curves, scores = {}, {}
    for bits in BITS:
        runs = []
        for seed in arguments.seeds:
            losses, f1 = run(arguments, bits, seed)
            runs.append(tenths(losses))
            scores.setdefault(bits, []).append(f1)
            print(f"gradients {bits}, seed {seed}: F1 {f1:.2f}", file=sys.stderr, flush=True)
        curves[bits] = [statistics.mean(values) for values in zip(*runs, strict=True)]
    ends = [arguments.steps * (i + 1) // 10 for i in range(10)]
    lines = [
        BEGIN,
        "",
        f"{len(arguments.seeds)} seeds, {arguments.steps} steps, learning rate "
        f"{arguments.learning_rate:g}:",
        "",
        "| mean loss up to step | " + " | ".join(map(str, ends)) + " | F1 |",
        "| --- " * 12 + "|",
    ]
    for bits, curve in curves.items():
        spread = statistics.stdev(scores[bits]) if len(scores[bits]) > 1 else 0
        lines.append(
            f"| gradients in {bits} bits | "
            + " | ".join(f"{value:.4f}" for value in curve)
            + f" | {statistics.mean(scores[bits]):.2f} ± {spread:.2f} |"
        )
    write_section(arguments.write, BEGIN, END, "\n".join(lines + ["", END]))
    if arguments.picture:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        arguments.picture.write_text(picture(curves, arguments.steps))


if __name__ == "__main__":
    main()
