#!/usr/bin/env python3
"""Writes multiple-choice questions in the nano model's world (tools/make_nano_data.py).

    python3 tools/make_nano_multiple_choice.py --output assets/nano/data/multiple_choice.jsonl

A line is {"context": TEXT, "choices": [TEXT, ...], "answer": INDEX}. Contexts are short reports
about people that end in one of three ways: with a question, with the first words of a sentence
that the report has said already, or as they are, where the choices are whole sentences. A choice is
preceded by a space when it is scored, which is not part of it. Some values are foreign words, so
that a character may be several bytes; choices of a question differ in length. A line is a function
of (seed, its number). Standard library only.
"""

import argparse
import json
import pathlib
import random

from make_nano_data import (
    ANIMALS,
    KINDS,
    NAMES,
    THINGS,
    TOWNS,
    draw_facts,
    question,
    report,
    sentence,
)

# What stands in for values of a kind in some questions: words with characters beyond ASCII, first
# those with hardly another one.
FAR = 3
FOREIGN = {
    id(TOWNS): ["Łódź", "Αθήνα", "京都", "Évora", "Ærøskøbing", "Ñuñoa"],
    id(NAMES): ["Владимир", "Άννα", "李", "Zoë", "Jürgen", "Žofie"],
    id(ANIMALS): ["灰色の猫", "жук", "🐈", "žluťoučký kůň", "señor's mule"],
    id(THINGS): ["ключ", "傘", "🎈🎈", "crème brûlée", "naïve sketch — torn", "½ clay jug"],
}
ENDS = ["question", "question", "sentence", "whole"]  # question twice: half of the lines


def other_values(rng, fact, facts, count, foreign):
    """Wrong values: those of other facts of the report, which are tempting, before any other; or
    foreign words alone."""
    kind, _, value = fact
    if foreign:
        far = [v for words in FOREIGN.values() for v in words[:FAR] if v != value]
        return rng.sample(far, count)
    own = KINDS[kind][2]
    said = [v for _, _, v in facts if v != value]
    rng.shuffle(said)
    drawn = said[: rng.randint(0, count)]
    pool = own + FOREIGN[id(own)] + rng.choice([ANIMALS, THINGS, TOWNS, NAMES])
    while len(drawn) < count:
        choice = rng.choice(pool)
        if choice != value and choice not in drawn:
            drawn.append(choice)
    return drawn


def line(rng):
    facts = draw_facts(rng, 2, rng.randint(2, 5))
    draw = rng.random()
    foreign = draw < 0.15  # all choices
    if draw < 0.35:
        kind, name, _ = facts[0]
        words = FOREIGN[id(KINDS[kind][2])]
        facts[0] = (kind, name, rng.choice(words[:FAR] if foreign else words))
    fact = facts[0] if foreign or rng.random() < 0.5 else rng.choice(facts)
    rng.shuffle(facts)
    context = report(rng, facts)[0]
    wrong = other_values(rng, fact, facts, rng.randint(1, 4), foreign)
    kind, name, value = fact
    end = rng.choice(ENDS)
    if end == "question":
        context += " " + question(rng, fact)
        right = value + "."
        choices = [w + "." for w in wrong]
    elif end == "sentence":
        form = rng.choice(KINDS[kind][0])
        context += " " + form.split(" {v}")[0].format(n=name)
        right, choices = value, wrong
    else:
        right = sentence(rng, fact)[0]
        choices = [rng.choice(KINDS[kind][0]).format(n=name, v=w) for w in wrong]
    # A few contexts end in space, which belongs to what is scored.
    if rng.random() < 0.04:
        context += rng.choice([" ", "\n"])
    answer = rng.randint(0, len(choices))
    choices.insert(answer, right)
    return {"context": context, "choices": choices, "answer": answer}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--questions", type=int, default=100)
    args = parser.parse_args()
    with args.output.open("w", encoding="utf-8", newline="\n") as file:
        for index in range(args.questions):
            made = line(random.Random(f"{args.seed}/choice/{index}"))
            assert len(set(made["choices"])) == len(made["choices"])
            file.write(json.dumps(made, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
