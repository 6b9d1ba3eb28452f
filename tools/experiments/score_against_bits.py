#!/usr/bin/env python3
"""Draws the picture of the README: F1 against weight bits, from a front.json that
`qalof sensitivity --compare` wrote.

Usage: tools/experiments/score_against_bits.py [--front FILE] [--picture FILE]
"""

import argparse
import json
import pathlib

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 548, 16, 312
MIDDLE = (TOP + BOTTOM) / 2
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


def text_at(x, y, text, rest=""):
    return f'<text x="{x:.1f}" y="{y:.1f}"{rest}>{text}</text>'


def circle(x, y, kind, title=""):
    colour, radius, _ = KINDS[kind]
    inside = f"<title>{title}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">{inside}</circle>'


def axes():
    centred = ' text-anchor="middle"'
    for score in range(SCORES[0], SCORES[1] + 1, 20):
        yield f'<path d="M{LEFT} {y_of(score):.1f}H{RIGHT}" stroke="#e2e4e8"/>'
        yield text_at(LEFT - 8, y_of(score) + 4, score, ' text-anchor="end"')
    for bits in range(BITS[0], BITS[1] + 1):
        yield text_at(x_of(bits), BOTTOM + 18, bits, centred)
    yield text_at((LEFT + RIGHT) / 2, BOTTOM + 38, "mean bits per weight", centred)
    yield text_at(14, MIDDLE, "F1", f'{centred} transform="rotate(-90 14 {MIDDLE})"')


def marks(points):
    for kind in ("uniform", "plan"):
        places = sorted((point["bits"], point["f1"]) for point in points if point["kind"] == kind)
        line = " ".join(f"{x_of(bits):.1f},{y_of(score):.1f}" for bits, score in places)
        stroke = f'stroke="{KINDS[kind][0]}" stroke-opacity="0.5"'
        yield f'<polyline points="{line}" fill="none" {stroke}/>'
    for kind in KINDS:
        for point in points:
            if point["kind"] == kind:
                title = f"{point['name']}: {point['bits']:.2f} bits, F1 {point['f1']:.2f}"
                yield circle(x_of(point["bits"]), y_of(point["f1"]), kind, title)


def legend():
    for row, kind in enumerate(reversed(KINDS)):
        y = TOP + 16 + 24 * row
        yield circle(RIGHT + 24, y - 4, kind)
        yield text_at(RIGHT + 38, y, KINDS[kind][2])


def picture(points):
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#222">',
            "<title>F1 of SmolLM2-135M on SQuAD against mean weight bits</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            *axes(),
            *marks(points),
            *legend(),
            "</svg>\n",
        ]
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--front", default="results/sensitivity_smollm2/front.json")
    parser.add_argument("--picture", default="docs/images/score_against_bits.svg")
    flags = parser.parse_args()
    points = json.loads(pathlib.Path(flags.front).read_text(encoding="utf-8"))["points"]
    pathlib.Path(flags.picture).write_text(picture(points), encoding="utf-8")


main()
