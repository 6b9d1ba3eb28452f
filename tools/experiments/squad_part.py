#!/usr/bin/env python3
"""Writes some questions of a SQuAD file: those a measurement chooses by, and others that it is
judged by.

    tools/experiments/squad_part.py dev.json judge.json --skip 200 --questions 500 --seed 1
    tools/experiments/squad_part.py dev.json choose.json --without judge.json --questions 400 --seed
        2

--skip leaves out the first questions, which `--max_eval_samples` of qalof takes, --without those of
other files. Without --seed the next ones are written, with it
questions drawn at random, in the order of the file.
"""

import argparse
import json
import pathlib
import random


def ids_of(squad):
    return [
        question["id"]
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--questions", type=int, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--without", type=pathlib.Path, nargs="*", default=[])
    arguments = parser.parse_args()

    squad = json.loads(arguments.source.read_text(encoding="utf-8"))
    taken = {
        name
        for path in arguments.without
        for name in ids_of(json.loads(path.read_text(encoding="utf-8")))
    }
    rest = [name for name in ids_of(squad)[arguments.skip :] if name not in taken]
    if len(rest) < arguments.questions:
        raise SystemExit(
            f"{arguments.source}: {len(rest)} questions are left, expected {arguments.questions}"
        )
    chosen = set(
        rest[: arguments.questions]
        if arguments.seed is None
        else random.Random(arguments.seed).sample(rest, arguments.questions)
    )
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [
                question for question in paragraph["qas"] if question["id"] in chosen
            ]
        article["paragraphs"] = [
            paragraph for paragraph in article["paragraphs"] if paragraph["qas"]
        ]
    squad["data"] = [article for article in squad["data"] if article["paragraphs"]]
    arguments.target.write_text(json.dumps(squad, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
