#!/usr/bin/env python3
"""States what the original says of sensitivity beside what sweeps measured: confirmed, refuted or
open, with intervals.

Usage: tools/experiments/sensitivity_findings.py DIR... [--cost loss] [--bits 4] [--output FILE.md]
    [--json FILE.json]
A DIR is what `qalof sensitivity --output_dir DIR` has left. Claims on single linears need
--granularity sublayer, the last two kind; give both. Several models make
several tables. Needs Python's standard library.

Of every claim: the mean cost of one group of units less that of another, over the same questions.
95 % interval: percentile bootstrap over questions (2,000 draws) of the mean over units. A second
interval draws units, too: what other blocks of the same kind would say. The rank correlation
between halves of the questions says how far costs repeat at all: no estimate can be expected to
agree with them better.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.statistics import group_difference, mean, rank_correlation  # noqa: E402

ROUNDING = 1e-12  # of sums of the same numbers in another order
COLUMNS = {"exact": (0, -1), "f1": (1, -1), "loss": (2, 1), "kl": (3, 1)}
UNITS = {"f1": "points of F1", "exact": "points of exact match", "loss": "nats", "kl": "nats"}
ATTENTION_OUT = {"attn.c_proj", "self_attn.o_proj"}
MLP_OUT = {"mlp.c_proj", "mlp.down_proj"}
MLP_IN = {"mlp.c_fc", "mlp.gate_proj", "mlp.up_proj"}


class Sweep:
    """Costs of units against all-high, question by question."""

    def __init__(self, directory, cost, bits):
        folder = pathlib.Path(directory)
        self.result = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))
        low = self.result["low"] if isinstance(self.result["low"], list) else [self.result["low"]]
        self.bits = bits if bits is not None else min(low)
        if self.bits not in low:
            raise SystemExit(f"{directory}: swept {low} bits, found --bits {self.bits}")
        column, sign = COLUMNS[cost]
        rows = {}
        lines = (folder / "sensitivity_state.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[1:]:
            record = json.loads(line)
            rows[record["batch"], record["trial"]] = [score[column] for score in record["scores"]]
        batches = 1 + max(batch for batch, _ in rows)

        def of_trial(trial):
            return [value for batch in range(batches) for value in rows.get((batch, trial), [])]

        high = of_trial(0)
        self.units = []
        for index, unit in enumerate(self.result["units"]):
            values = of_trial(1 + index * len(low) + low.index(self.bits))
            if len(values) != len(high):
                raise SystemExit(
                    f"{directory}: {unit['name']} was stopped after {len(values)} of {len(high)} "
                    "samples; sweep without --early_stop"
                )
            # KL is a distance from all-high already.
            costs = [
                sign * (value - (0 if cost == "kl" else base))
                for value, base in zip(values, high, strict=True)
            ]
            self.units.append({**unit, "costs": costs})
        self.samples = len(high)

    def linears(self, test):
        return [
            unit["costs"]
            for unit in self.units
            if unit["block"] is not None and unit["part"] == "both" and test(unit)
        ]

    def kind(self, name):
        return [
            unit["costs"]
            for unit in self.units
            if unit["block"] is None and unit["part"] == "both" and unit["kind"] == name
        ]


def repeatability(sweep):
    """Spearman's rank correlation over units of costs on every other question with costs on the
    rest.
    """
    units = [unit["costs"] for unit in sweep.units]
    return rank_correlation(*([mean(costs[first::2]) for costs in units] for first in (0, 1)))


def verdict(found, expected):
    """expected: the sign that the claim gives the difference."""
    low, high = found["interval"]
    if low > ROUNDING or high < -ROUNDING:
        return "confirmed" if (low > 0) == (expected > 0) else "refuted"
    return "open"


def claims(sweep):
    """(claim, words for the groups, group, other, expected sign) of those that the sweep's units
    can decide.
    """
    if sweep.result["granularity"] == "sublayer":
        blocks = 1 + max(unit["block"] for unit in sweep.units if unit["block"] is not None)

        def is_linear(unit):
            return unit["modules"]

        def is_late(unit):
            return unit["block"] >= blocks - blocks // 3

        def is_mlp(unit):
            return unit["kind"].startswith("mlp")

        yield (
            "Late blocks are resilient",
            "last third of blocks less the others",
            sweep.linears(lambda u: is_linear(u) and is_late(u)),
            sweep.linears(lambda u: is_linear(u) and not is_late(u)),
            -1,
        )
        yield (
            "attn.c_proj is tolerant",
            "attention output less all other linears",
            sweep.linears(lambda u: u["kind"] in ATTENTION_OUT),
            sweep.linears(lambda u: is_linear(u) and u["kind"] not in ATTENTION_OUT),
            -1,
        )
        yield (
            "mlp.c_proj is more robust than mlp.c_fc",
            "MLP output less MLP input",
            sweep.linears(lambda u: u["kind"] in MLP_OUT),
            sweep.linears(lambda u: u["kind"] in MLP_IN),
            -1,
        )
        yield (
            "MLP is more sensitive than attention",
            "MLP linears less attention linears",
            sweep.linears(lambda u: is_linear(u) and is_mlp(u)),
            sweep.linears(lambda u: is_linear(u) and not is_mlp(u)),
            1,
        )
    if sweep.result["granularity"] == "kind" and sweep.kind("all"):
        yield (
            "MLP is more sensitive than attention",
            "all MLP less all attention",
            sweep.kind("mlp"),
            sweep.kind("attention"),
            1,
        )
        yield (
            "All MLP low is worse than everything low",
            "all MLP less everything",
            sweep.kind("mlp"),
            sweep.kind("all"),
            1,
        )
        yield (
            "All attention low is worse than everything low",
            "all attention less everything",
            sweep.kind("attention"),
            sweep.kind("all"),
            1,
        )


def findings(directories, cost, bits):
    found = []
    for directory in directories:
        sweep = Sweep(directory, cost, bits)
        agreement = repeatability(sweep)
        for claim, words, group, other, expected in claims(sweep):
            if not group or not other:
                continue
            result = group_difference(group, other)
            found.append(
                {
                    "model": sweep.result["model"],
                    "samples": sweep.samples,
                    "bits": sweep.bits,
                    "claim": claim,
                    "groups": words,
                    "units": len(group),
                    "other_units": len(other),
                    "granularity": sweep.result["granularity"],
                    "repeatability": agreement,
                    **result,
                    "verdict": verdict(result, expected),
                }
            )
    return found


def span(pair):
    return f"{pair[0]:+.4g} .. {pair[1]:+.4g}"


def markdown(found, cost):
    text = ""
    for model in dict.fromkeys(entry["model"] for entry in found):
        rows = [entry for entry in found if entry["model"] == model]
        text += (
            f"{pathlib.Path(model).name}: units at {rows[0]['bits']} bits, cost in {UNITS[cost]} "
            f"({cost}), {rows[0]['samples']} questions.\n\n"
        )
        for granularity, agreement in dict.fromkeys(
            (entry["granularity"], entry["repeatability"]) for entry in rows
        ):
            text += (
                f"By {granularity}, rank correlation of costs on every other question with costs "
                f"on the rest: {agreement:.2f}.\n"
            )
        text += (
            "\n| claim | compared | difference | 95 %, questions | 95 %, units | |\n| --- | --- | "
            "---: | ---: | ---: | --- |\n"
        )
        for entry in rows:
            units = span(entry["units_interval"]) if entry["units"] > 1 else ""
            text += (
                f"| {entry['claim']} | {entry['groups']} ({entry['mean']:.4g} and "
                f"{entry['other_mean']:.4g}) | {entry['difference']:+.4g} "
                f"| {span(entry['interval'])} | {units} | {entry['verdict']} |\n"
            )
        text += "\n"
    return text


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--cost", choices=sorted(COLUMNS), default="loss")
    parser.add_argument(
        "--bits", type=int, help="one of the widths that were swept; default: the lowest"
    )
    parser.add_argument("--output", help="Markdown file; default: standard output")
    parser.add_argument("--json", help="JSON file")
    options = parser.parse_args()
    found = findings(options.directories, options.cost, options.bits)
    if not found:
        raise SystemExit("no claim can be decided: expected --granularity sublayer or kind")
    text = markdown(found, options.cost)
    if options.output:
        pathlib.Path(options.output).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
