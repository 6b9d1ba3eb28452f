#!/usr/bin/env python3
"""Writes some questions of a SQuAD file: those a measurement chooses by, and others that it is judged by.

    tools/squad_part.py dev.json rest.json --skip 200 --questions 500 --seed 1

--skip leaves out the first questions, which `--max_eval_samples` of qalof takes. Without --seed the next ones are written, with it questions drawn at random, in the
order of the file.
"""
import argparse
import json
import pathlib
import random


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--questions", type=int, required=True)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()

    squad = json.loads(arguments.source.read_text(encoding="utf-8"))
    ids = [question["id"] for article in squad["data"] for paragraph in article["paragraphs"] for question in paragraph["qas"]]
    rest = ids[arguments.skip:]
    if len(rest) < arguments.questions:
        raise SystemExit(f"{arguments.source}: {len(rest)} questions behind the first {arguments.skip}, expected {arguments.questions}")
    chosen = set(rest[:arguments.questions] if arguments.seed is None else random.Random(arguments.seed).sample(rest, arguments.questions))
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [question for question in paragraph["qas"] if question["id"] in chosen]
        article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]]
    squad["data"] = [article for article in squad["data"] if article["paragraphs"]]
    arguments.target.write_text(json.dumps(squad, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
