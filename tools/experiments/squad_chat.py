#!/usr/bin/env python3
"""Writes SQuAD as conversations: a passage and a question come in, a short answer goes out.

    tools/experiments/squad_chat.py SQUAD_DIR OUTPUT_DIR --train 6000 --validation 400 --choice 100

SQUAD_DIR holds train.json and validation.json (or train-v1.1.json and dev-v1.1.json). Written are
train.jsonl, validation.jsonl and choice.jsonl: questions drawn at random with --seed, one a line.
Those of choice.jsonl, by which learning rates are chosen, come from other passages of the
validation file than those that are scored. The reference is the first of a question's answers.
The same files give the same bytes.
"""

import argparse
import json
import pathlib
import random

NAMES = {"train": ("train.json", "train-v1.1.json"), "dev": ("validation.json", "dev-v1.1.json")}


def find(directory, names):
    for name in names:
        if (directory / name).exists():
            return directory / name
    raise SystemExit(f"{directory}: holds neither {' nor '.join(names)}")


def passages(path):
    """[(passage, [(question, answer), ...]), ...]; questions without an answer are left out."""
    found = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            asked = [
                (one["question"].strip(), one["answers"][0]["text"])
                for one in paragraph["qas"]
                if one["answers"]
            ]
            if asked:
                found.append((paragraph["context"], asked))
    return found


def conversation(passage, question, answer):
    prompt = f"{passage}\n\nAnswer with a few words of the passage: {question}"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def write(path, found, count, generator):
    """count questions of these passages, in a random order."""
    every = [(passage, *pair) for passage, asked in found for pair in asked]
    if len(every) < count:
        raise SystemExit(f"{path.name}: {len(every)} questions, expected at least {count}")
    chosen = generator.sample(every, count)
    path.write_text(
        "".join(conversation(*one) + "\n" for one in chosen), encoding="utf-8", newline="\n"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("squad", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=6000, help="questions")
    parser.add_argument("--validation", type=int, default=400)
    parser.add_argument("--choice", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    generator = random.Random(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    train = passages(find(arguments.squad, NAMES["train"]))
    write(arguments.output / "train.jsonl", train, arguments.train, generator)
    dev = passages(find(arguments.squad, NAMES["dev"]))
    generator.shuffle(dev)
    fifth = len(dev) // 5
    write(arguments.output / "choice.jsonl", dev[:fifth], arguments.choice, generator)
    write(arguments.output / "validation.jsonl", dev[fifth:], arguments.validation, generator)


if __name__ == "__main__":
    main()
