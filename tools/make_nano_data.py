"""Writes the nano model's world: an extractive question-answering set in SQuAD format and text to pre-train on.

    python3 tools/make_nano_data.py --output_dir assets/nano/data
    python3 tools/make_nano_data.py --output_dir out/nano --lm_documents 40000     # also lm.txt, for pre-training

Every document is a short report about a few people. Each sentence is of another kind (lives in, was born in, works in, ...), and kinds share their values (towns,
animals, people, things), so that the answer is found by reading what is said, not by what it looks like. A document is a function of (seed, split, index).
Standard library only.
"""

import argparse
import json
import pathlib
import random

NAMES = """Ada Bruno Carla Dario Elena Felix Greta Hugo Irene Jonas Karin Lukas Marta Nils Olga Pavel Rosa Simon Tilda Viktor
Wanda Xaver Yara Zeno Alma Boris Clara Denis Edith Franz Gilda Henri Ilse Janko Klara Leon Mina Nora Oskar Petra""".split()
TOWNS = """Arden Birkfeld Corvo Dunmere Eastham Farrow Glenbay Harlow Iverness Jarrow Kelso Lorne Marwick Norden Oakley Perth Quarry
Redmond Selby Tarn Ulster Varna Wexford Yarrow""".split()
ANIMALS = ["grey cat", "brown dog", "white goat", "black hen", "small pony", "red fox", "loud parrot", "tame crow", "fat goose", "spotted pig", "green frog", "blind mule"]
THINGS = ["silver watch", "tin kettle", "wooden boat", "leather coat", "glass lamp", "copper bell", "brass key", "stone bowl", "wool scarf", "clay jug", "paper kite",
          "steel knife"]

# (forms of the sentence, forms of the question, values): {n} is who, {v} the value
KINDS = [
    (["{n} lives in {v}.", "{n} has a house in {v}."], ["Where does {n} live?", "Where is the house of {n}?"], TOWNS),
    (["{n} was born in {v}.", "{n} came to life in {v}."], ["Where was {n} born?", "Where did {n} come to life?"], TOWNS),
    (["{n} works in {v}.", "{n} has a job in {v}."], ["Where does {n} work?", "Where is the job of {n}?"], TOWNS),
    (["{n} learned to swim in {v}."], ["Where did {n} learn to swim?"], TOWNS),
    (["{n} buys bread in {v}."], ["Where does {n} buy bread?"], TOWNS),
    (["{n} got lost in {v}."], ["Where did {n} get lost?"], TOWNS),
    (["{n} will marry in {v}."], ["Where will {n} marry?"], TOWNS),
    (["{n} keeps a {v}.", "{n} feeds a {v}."], ["What animal does {n} keep?", "What animal does {n} feed?"], ANIMALS),
    (["{n} sold a {v}."], ["What animal did {n} sell?"], ANIMALS),
    (["{n} is afraid of a {v}.", "{n} fears a {v}."], ["What animal is {n} afraid of?", "What animal does {n} fear?"], ANIMALS),
    (["{n} has drawn a {v}."], ["What animal has {n} drawn?"], ANIMALS),
    (["{n} was bitten by a {v}."], ["What animal has bitten {n}?"], ANIMALS),
    (["{n} trusts {v}.", "{n} has faith in {v}."], ["Whom does {n} trust?", "Whom has {n} faith in?"], NAMES),
    (["{n} owes money to {v}."], ["Whom does {n} owe money to?"], NAMES),
    (["{n} writes letters to {v}."], ["Whom does {n} write letters to?"], NAMES),
    (["{n} once helped {v}."], ["Whom did {n} once help?"], NAMES),
    (["{n} is taller than {v}."], ["Whom is {n} taller than?"], NAMES),
    (["{n} has lost a {v}."], ["What thing has {n} lost?"], THINGS),
    (["{n} bought a {v}.", "{n} paid for a {v}."], ["What thing did {n} buy?", "What thing did {n} pay for?"], THINGS),
    (["{n} repaired a {v}."], ["What thing did {n} repair?"], THINGS),
    (["{n} would like to have a {v}.", "{n} dreams of a {v}."], ["What thing would {n} like to have?", "What thing does {n} dream of?"], THINGS),
    (["{n} found a {v}."], ["What thing did {n} find?"], THINGS),
]
FILLERS = ["The market opens early.", "Rain fell in the night.", "The bridge was mended.", "A band plays on the square.", "The harvest was good.",
           "The mill stood still.", "Snow lies on the hills.", "The ferry came late."]


def draw_facts(rng, people, facts):
    """(kind, name, value) with kinds and values that occur once in the document."""
    names = rng.sample(NAMES, people)
    drawn, used = [], set(names)
    for kind in rng.sample(range(len(KINDS)), facts):
        value = rng.choice([v for v in KINDS[kind][2] if v not in used])
        used.add(value)
        drawn.append((kind, rng.choice(names), value))
    return drawn


def sentence(rng, fact):
    """(text, where the value begins in it)."""
    kind, name, value = fact
    form = rng.choice(KINDS[kind][0])
    return form.format(n=name, v=value), len(form.split("{v}")[0].format(n=name))


def question(rng, fact):
    return rng.choice(KINDS[fact[0]][1]).format(n=fact[1])


def report(rng, facts):
    """The facts as a paragraph: (text, [(fact, start of its value)])."""
    text, places = "", []
    for fact in facts:
        if rng.random() < 0.05:
            text += rng.choice(FILLERS) + " "
        words, start = sentence(rng, fact)
        places.append((fact, len(text) + start))
        text += words + " "
    return text.strip(), places


def make_split(seed, split, paragraphs, questions_each, people, facts):
    data = []
    for index in range(paragraphs):
        rng = random.Random(f"{seed}/{split}/{index}")
        context, places = report(rng, draw_facts(rng, people, facts))
        qas = []
        for number, (fact, start) in enumerate(rng.sample(places, questions_each)):
            answer = fact[2]
            assert context[start : start + len(answer)] == answer
            qas.append({"id": f"{split}-{index}-{number}", "question": question(rng, fact), "answers": [{"text": answer, "answer_start": start}]})
        if index % 50 == 0:
            data.append({"title": f"{split} {index // 50}", "paragraphs": []})
        data[-1]["paragraphs"].append({"context": context, "qas": qas})
    return {"version": "1.1", "data": data}


def lm_document(rng, people, facts):
    """Text to pre-train on: questions, a report of 2 to `facts` sentences, in which those that answer a question end in "!", and questions with their
    answers, so that looking things up pays at every sentence."""
    size = rng.randint(2, facts)
    drawn = draw_facts(rng, min(people, size), size)
    asked = rng.sample(drawn, rng.randint(1, max(1, size // 2)))
    context = ""
    for fact in drawn:
        words = sentence(rng, fact)[0]
        context += (words[:-1] + "!" if fact in asked else words) + " "
    recap = [f"{question(rng, fact)} {fact[2]}." for fact in rng.sample(drawn, min(size, 4))]
    return f"{' '.join(question(rng, fact) for fact in asked)} {context}{' '.join(recap)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--facts", type=int, default=8, help="facts of a document")
    parser.add_argument("--train", type=int, default=3000, help="paragraphs of the training set")
    parser.add_argument("--validation", type=int, default=800)
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--questions_each", type=int, default=2)
    parser.add_argument("--lm_documents", type=int, default=0, help="documents of lm.txt; 0 = none")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    contexts = []
    for split, size in (("train", args.train), ("validation", args.validation), ("test", args.test)):
        data = make_split(args.seed, split, size, args.questions_each, args.people, args.facts)
        (args.output_dir / f"{split}.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")
        print(f"{split}: {size} paragraphs, {size * args.questions_each} questions")
        if split == "train":
            contexts = [p["context"] for article in data["data"] for p in article["paragraphs"]]
    held_out = [lm_document(random.Random(f"{args.seed}/text/{i}"), args.people, args.facts) for i in range(300)]
    (args.output_dir / "text.txt").write_text("\n".join(held_out) + "\n")
    if args.lm_documents:
        with (args.output_dir / "lm.txt").open("w") as file:
            for i in range(args.lm_documents):
                file.write(lm_document(random.Random(f"{args.seed}/lm/{i}"), args.people, args.facts) + "\n")
            for context in contexts:
                file.write(context + "\n")


if __name__ == "__main__":
    main()
