"""Writes the nano model's world: an extractive question-answering set in SQuAD format and text to pre-train on.

    python3 tools/make_nano_data.py --output_dir assets/nano/data
    python3 tools/make_nano_data.py --output_dir /tmp/nano --lm_documents 60000     # also lm.txt, for pre-training

Every document is a short report about a few people in a town: each has a trade, a home, a pet, a meal, a tool and so on. Sentences put the person
first, so that whoever reads from left to right knows what is asked for when the answer comes. Documents are a function of (seed, split, index);
the people of one document are drawn anew, so answering needs reading. Standard library only.
"""

import argparse
import json
import pathlib
import random

NAMES = """Ada Bruno Carla Dario Elena Felix Greta Hugo Irene Jonas Karin Lukas Marta Nils Olga Pavel Rosa Simon Tilda Viktor
Wanda Xaver Yara Zeno Alma Boris Clara Denis Edith Franz Gilda Henri Ilse Janko Klara Leon Mina Nora Oskar Petra""".split()
TOWNS = """Arden Birkfeld Corvo Dunmere Eastham Farrow Glenbay Harlow Iverness Jarrow Kelso Lorne Marwick Norden Oakley Perth Quarry
Redmond Selby Tarn Ulster Varna Wexford Yarrow""".split()

# relation: (sentences with {n} = name, {v} = value, questions with {n}, values)
RELATIONS = {
    "trade": (["{n} works as a {v}.", "{n} earns a living as a {v}."], ["What does {n} work as?", "What is the trade of {n}?"],
              "baker miller tailor carpenter teacher doctor painter sailor farmer potter weaver gardener printer smith mason barber".split()),
    "home": (["{n} lives in {v}.", "{n} has a house in {v}."], ["Where does {n} live?", "In which town does {n} live?"], TOWNS),
    "pet": (["{n} keeps a {v}.", "{n} feeds a {v} every day."], ["Which animal does {n} keep?", "What does {n} keep?"],
            ["grey cat", "brown dog", "white goat", "black hen", "small pony", "red fox", "loud parrot", "tame crow", "fat goose", "spotted pig",
             "green frog", "blind mule"]),
    "meal": (["{n} likes to eat {v}.", "{n} often cooks {v}."], ["What does {n} like to eat?", "What food does {n} cook?"],
             ["bean soup", "fried fish", "rye bread", "apple cake", "roast duck", "plum jam", "corn porridge", "goat cheese", "onion pie", "lentil stew",
              "boiled eggs", "honey nuts"]),
    "tool": (["{n} bought a {v}.", "{n} paid for a {v}."], ["What did {n} buy?", "Which thing was bought by {n}?"],
             ["silver watch", "tin kettle", "wooden boat", "leather coat", "glass lamp", "copper bell", "brass key", "stone bowl", "wool scarf",
              "clay jug", "paper kite", "steel knife"]),
    "year": (["{n} was born in {v}.", "{n} came into the world in {v}."], ["When was {n} born?", "In which year was {n} born?"],
             [str(y) for y in range(1900, 1960)]),
    "count": (["{n} owns {v} fields.", "{n} has got {v} fields."], ["How many fields does {n} own?", "How many fields has {n} got?"],
              "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()),
    "friend": (["{n} trusts {v}.", "{n} is a friend of {v}."], ["Whom does {n} trust?", "Who is a friend of {n}?"], None),
}
FILLERS = ["The market opens early.", "Rain fell in the night.", "The bridge was mended.", "A band plays on the square.", "The harvest was good.",
           "The mill stood still.", "Snow lies on the hills.", "The ferry came late."]
KINDS = list(RELATIONS)


def draw_facts(rng, people, kinds):
    """Everybody has a fact of every kind of the document, so that neither the name nor the kind alone tells the answer."""
    names = rng.sample(NAMES, people)
    facts = []
    for kind in rng.sample(KINDS, kinds):
        values = RELATIONS[kind][2] or [n for n in NAMES if n not in names]
        facts += [(kind, name, value) for name, value in zip(names, rng.sample(values, people))]
    rng.shuffle(facts)
    return facts


def sentence(rng, fact):
    """(text, where the value begins in it)."""
    kind, name, value = fact
    form = rng.choice(RELATIONS[kind][0])
    return form.format(n=name, v=value), len(form.split("{v}")[0].format(n=name))


def question(rng, fact):
    return rng.choice(RELATIONS[fact[0]][1]).format(n=fact[1])


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


def make_split(seed, split, paragraphs, questions_each, people, kinds):
    data = []
    for index in range(paragraphs):
        rng = random.Random(f"{seed}/{split}/{index}")
        context, places = report(rng, draw_facts(rng, people, kinds))
        qas = []
        for number, (fact, start) in enumerate(rng.sample(places, questions_each)):
            answer = fact[2]
            assert context[start : start + len(answer)] == answer
            qas.append({"id": f"{split}-{index}-{number}", "question": question(rng, fact), "answers": [{"text": answer, "answer_start": start}]})
        if index % 50 == 0:
            data.append({"title": f"{split} {index // 50}", "paragraphs": []})
        data[-1]["paragraphs"].append({"context": context, "qas": qas})
    return {"version": "1.1", "data": data}


def lm_document(rng, people, kinds):
    """Text to pre-train on: open questions, a report, and a recap that says everything once more in other words and another order, so that
    looking things up pays."""
    facts = draw_facts(rng, people, kinds)
    opening = " ".join(question(rng, fact) for fact in rng.sample(facts, rng.randrange(3)))
    context, _ = report(rng, facts)
    recap = []
    for fact in rng.sample(facts, len(facts)):
        recap.append(sentence(rng, fact)[0] if rng.random() < 0.6 else f"{question(rng, fact)} {fact[2]}.")
    return f"{opening} {context} {' '.join(recap)}".strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--kinds", type=int, default=2, help="kinds of facts in a document")
    parser.add_argument("--train", type=int, default=3000, help="paragraphs of the training set")
    parser.add_argument("--validation", type=int, default=800)
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--questions_each", type=int, default=2)
    parser.add_argument("--lm_documents", type=int, default=0, help="documents of lm.txt; 0 = none")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    contexts = []
    for split, size in (("train", args.train), ("validation", args.validation), ("test", args.test)):
        data = make_split(args.seed, split, size, args.questions_each, args.people, args.kinds)
        (args.output_dir / f"{split}.json").write_text(json.dumps(data, separators=(",", ":")) + "\n")
        print(f"{split}: {size} paragraphs, {size * args.questions_each} questions")
        if split == "train":
            contexts = [p["context"] for article in data["data"] for p in article["paragraphs"]]
    held_out = [lm_document(random.Random(f"{args.seed}/text/{i}"), args.people, args.kinds) for i in range(300)]
    (args.output_dir / "text.txt").write_text("\n".join(held_out) + "\n")
    if args.lm_documents:
        with (args.output_dir / "lm.txt").open("w") as file:
            for i in range(args.lm_documents):
                file.write(lm_document(random.Random(f"{args.seed}/lm/{i}"), args.people, args.kinds) + "\n")
            for context in contexts:
                file.write(context + "\n")


if __name__ == "__main__":
    main()
