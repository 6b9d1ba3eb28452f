"""The table of a suite: who keeps which accuracy under whose attack, with intervals and tests."""

import json
import pathlib
import re
import statistics as basic

from attack_lib.matrix import decode
from shared.statistics import mcnemar, two_proportions, wilson


class Table:
    def __init__(self, suite, journal):
        self.suite, self.journal = suite, journal
        self.scores = {}  # (defence, texts) -> {seed: outcomes}
        for line in journal.find(kind="score"):
            self.scores.setdefault((line["defence"], line["texts"]), {})[line["seed"]] = decode(
                line["right"]
            )
        self.attacks = {line["target"]: line for line in journal.find(kind="attack")}

    def cell(self, defence, texts):
        """Share right, mean over draws, its interval, and the spread over draws; None where it has
        not run.
        """
        draws = self.scores.get((defence.id, texts))
        if not draws:
            return None
        shares = [sum(outcomes) / len(outcomes) for outcomes in draws.values()]
        share, count = basic.fmean(shares), len(next(iter(draws.values())))
        low, high = wilson(share, count)
        return {
            "share": share,
            "low": low,
            "high": high,
            "samples": count,
            "draws": len(shares),
            "spread": basic.stdev(shares) if len(shares) > 1 else 0.0,
        }

    def first(self, defence, texts):
        draws = self.scores.get((defence, texts))
        return draws[min(draws)] if draws else None

    def compare(self, name, first, second, is_shown):
        """McNemar's test of two (defence, texts) on the same samples, of the first draw where
        widths are drawn.
        """
        a, b = self.first(*first), self.first(*second)
        if a is None or b is None or len(a) != len(b):
            return None
        only_a, only_b, p = mcnemar(a, b)
        share_a, share_b = sum(a) / len(a), sum(b) / len(b)
        return {
            "name": name,
            "shown": is_shown,
            "first": share_a,
            "second": share_b,
            "only_first": only_a,
            "only_second": only_b,
            "mcnemar_p": p,
            "two_proportions_p": two_proportions(share_a, len(a), share_b, len(b)),
        }

    def comparisons(self):
        """Every random defence beside its fixed counterparts: under each attack that was made, the
        same texts on both; and each under the attack made for itself. Markdown shows those of one
        model and the latter."""
        found = []
        own = {target.defence: target.id for target in self.suite.targets}
        fixed = [d for d in self.suite.defences if not d.is_random]
        for defence in self.suite.defences:
            if not defence.is_random:
                continue
            for other in fixed:
                for target in self.suite.targets:
                    found.append(
                        self.compare(
                            f"{defence.name} beside {other.name}, texts of {target.name}",
                            (defence.id, target.id),
                            (other.id, target.id),
                            defence.model == other.model,
                        )
                    )
                if defence.id in own and other.id in own:
                    found.append(
                        self.compare(
                            f"{defence.name} beside {other.name}, each under the attack on itself",
                            (defence.id, own[defence.id]),
                            (other.id, own[other.id]),
                            True,
                        )
                    )
        return [row for row in found if row is not None]


def percent(cell):
    if cell is None:
        return ""
    spread = f" ± {100 * cell['spread']:.1f}" if cell["draws"] > 1 else ""
    return f"{100 * cell['share']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]{spread}"


def markdown_of(table):
    suite = table.suite
    targets = [
        t for t in suite.targets if any((d.id, t.id) in table.scores for d in suite.defences)
    ]
    lines = [
        f"### {suite.title}",
        "",
        "| defence | clean | " + " | ".join(f"attack on {t.name}" for t in targets) + " |",
        "| --- | --- |" + " --- |" * len(targets),
    ]
    for defence in suite.defences:
        cells = [percent(table.cell(defence, "clean"))]
        for target in targets:
            text = percent(table.cell(defence, target.id))
            cells.append(f"**{text}**" if target.defence == defence.id and text else text)
        lines.append(f"| {defence.name} | " + " | ".join(cells) + " |")
    lines += [""]
    if table.attacks:
        lines += [
            "| attack on | samples | its own count of what stays right, % | seconds a sample |",
            "| --- | --- | --- | --- |",
        ]
        for target in suite.targets:
            line = table.attacks.get(target.id)
            if line is None:
                continue
            result = line["result"]
            count = result["samples"]
            lines.append(
                f"| {target.name} | {count} | {result['adversarial_accuracy']:.1f} | "
                f"{line['seconds'] / count:.2f} |"
            )
        lines += [""]
    rows = [row for row in table.comparisons() if row["shown"]]
    if rows:
        lines += [
            "| compared on the same samples | first, % | second, % | right in one alone | McNemar "
            "p | two proportions p |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {r['name']} | {100 * r['first']:.1f} | {100 * r['second']:.1f} | "
            f"{r['only_first']} / {r['only_second']} "
            f"| {r['mcnemar_p']:.2g} | {r['two_proportions_p']:.2g} |"
            for r in rows
        ]
        lines += [""]
    return "\n".join(lines)


def json_of(table):
    """Cells and tests, for plots."""
    suite = table.suite
    cells = []
    for defence in suite.defences:
        for texts in ["clean", *(target.id for target in suite.targets)]:
            cell = table.cell(defence, texts)
            if cell is not None:
                cells.append(
                    {
                        "defence": defence.id,
                        "name": defence.name,
                        "precision": defence.precision,
                        "texts": texts,
                        **{
                            key: round(value, 6) if isinstance(value, float) else value
                            for key, value in cell.items()
                        },
                    }
                )
    return {
        "format_version": 1,
        "title": suite.title,
        "cells": cells,
        "comparisons": table.comparisons(),
        "targets": [{"id": t.id, "name": t.name, "defence": t.defence} for t in suite.targets],
    }


def write(table, markdown, output):
    """Replaces the suite's part of markdown, between marks, and writes attack_table.json."""
    (output / "attack_table.json").write_text(
        json.dumps(json_of(table), indent=1) + "\n", encoding="utf-8"
    )
    begin, end = (
        f"<!-- {table.suite.name}: {word} of what tools/experiments/attack_results.py writes -->"
        for word in ("begin", "end")
    )
    part = f"{begin}\n{markdown_of(table)}{end}"
    markdown = pathlib.Path(markdown)
    text = markdown.read_text(encoding="utf-8") if markdown.exists() else ""
    if begin in text:
        text = re.sub(
            re.escape(begin) + ".*?" + re.escape(end), lambda _: part, text, flags=re.DOTALL
        )
    else:
        text += f"\n{part}\n"
    markdown.write_text(text, encoding="utf-8")
