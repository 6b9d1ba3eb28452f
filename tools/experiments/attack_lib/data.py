"""Labelled texts in the two forms that `qalof train --task classification` reads
(docs/file_formats.md).
"""

import csv
import pathlib


def read_examples(path):
    """[(text, label as written)] of an SST-2 TSV or an AG News CSV."""
    path = pathlib.Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            return [(f"{row[1]} {row[2]}", row[0]) for row in csv.reader(file)]
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(row[0], row[1]) for row in rows if row[1] != "label"]


def one_line(text):
    return " ".join(text.split())


def one_field(text):
    """Nothing but what would end the field is changed: spaces are tokens. No text at all has no
    token.
    """
    return text.translate({9: " ", 10: " ", 13: " "}) or " "


def write_texts(path, examples):
    """A text per line, as the vocabulary and the language model learn from."""
    pathlib.Path(path).write_text(
        "".join(one_line(text) + "\n" for text, _ in examples), encoding="utf-8"
    )


def write_examples(path, examples):
    """In the form that path's name says."""
    path = pathlib.Path(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            # The reader puts a space between title and description.
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
                [label, *(text.split(" ", 1) + [""])[:2]] for text, label in examples
            )
        else:
            file.writelines(f"{one_field(text)}\t{label}\n" for text, label in examples)
