#!/usr/bin/env python3
"""Draws F1 against weight bits from a front.json that `qalof sensitivity --compare` wrote: the picture of the README.

Usage: tools/experiments/score_against_bits.py [--front results/sensitivity_smollm2/front.json] [--picture docs/images/score_against_bits.svg]
"""

import argparse
import json
import pathlib

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 548, 16, 312
BITS, SCORES = (4, 8), (0, 80)
# kind: (colour, radius, text of the legend)
KINDS = {
    "random": ("#1b8a5a", 3, "ten random plans per budget"),
    "uniform": ("#d2700a", 5, "one width everywhere"),
    "original": ("#8446cc", 5, "original's hybrid pattern"),
    "plan": ("#2a63d4", 6, "plan that qalof finds"),
}


def x_of(bits):
    return LEFT + (bits - BITS[0]) / (BITS[1] - BITS[0]) * (RIGHT - LEFT)


def y_of(score):
    return BOTTOM - (score - SCORES[0]) / (SCORES[1] - SCORES[0]) * (BOTTOM - TOP)


def picture(points):
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">',
             "<title>F1 of SmolLM2-135M on SQuAD against mean weight bits</title>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for score in range(SCORES[0], SCORES[1] + 1, 20):
        parts.append(f'<path d="M{LEFT} {y_of(score):.1f}H{RIGHT}" stroke="#e2e4e8"/>'
                     f'<text x="{LEFT - 8}" y="{y_of(score) + 4:.1f}" text-anchor="end">{score}</text>')
    for bits in range(BITS[0], BITS[1] + 1):
        parts.append(f'<text x="{x_of(bits):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{bits}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 38}" text-anchor="middle">mean bits per weight</text>'
                 f'<text x="14" y="{(TOP + BOTTOM) / 2}" transform="rotate(-90 14 {(TOP + BOTTOM) / 2})" text-anchor="middle">F1</text>')
    for kind in ("uniform", "plan"):
        line = " ".join(f"{x_of(point['bits']):.1f},{y_of(point['f1']):.1f}" for point in sorted(
            (point for point in points if point["kind"] == kind), key=lambda point: point["bits"]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{KINDS[kind][0]}" stroke-opacity="0.5"/>')
    for kind, (colour, radius, _) in KINDS.items():
        for point in points:
            if point["kind"] == kind:
                parts.append(f'<circle cx="{x_of(point["bits"]):.1f}" cy="{y_of(point["f1"]):.1f}" r="{radius}" fill="{colour}">'
                             f'<title>{point["name"]}: {point["bits"]:.2f} bits, F1 {point["f1"]:.2f}</title></circle>')
    for row, (colour, radius, text) in enumerate(reversed(KINDS.values())):
        y = TOP + 16 + 24 * row
        words, lines = text.split(), [""]
        for word in words:
            lines = lines[:-1] + [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 28 else lines + [word]
        parts.append(f'<circle cx="{RIGHT + 24}" cy="{y - 4}" r="{radius}" fill="{colour}"/>' + "".join(
            f'<text x="{RIGHT + 38}" y="{y + 14 * index}">{line}</text>' for index, line in enumerate(lines)))
    return "\n".join(parts) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front", type=pathlib.Path, default=pathlib.Path("results/sensitivity_smollm2/front.json"))
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("docs/images/score_against_bits.svg"))
    flags = parser.parse_args()
    flags.picture.write_text(picture(json.loads(flags.front.read_text())["points"]), encoding="utf-8")


main()
