"""The journal scores.jsonl: what was run and what every question scored (docs/experiments.md,
"Journal").
"""

import json
import os
import re
import threading

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def symbols_for(count):
    """As many symbols: letters, or pairs of letters where those are too few."""
    if count <= len(SYMBOLS):
        return list(SYMBOLS)
    if count > len(SYMBOLS) ** 2:
        raise ValueError(f"{count} different scores, expected at most {len(SYMBOLS) ** 2}")
    return [a + b for a in SYMBOLS for b in SYMBOLS]


def encode_scores(scores):
    """Scores [[exact match, F1], ...] as {"values": [[exact match, F1], ...], "runs": "A1583BA12"}.

    A letter (a pair of letters where there are more than 52 values) stands for the value at its
    place in the alphabet, a number behind it for how often it is repeated.
    """
    values = sorted({(em, round(f1, 4)) for em, f1 in scores}, reverse=True)
    symbol = dict(zip(values, symbols_for(len(values)), strict=False))
    runs, last, count = "", None, 0
    for em, f1 in [*scores, (None, 0)]:
        current = symbol.get((em, round(f1, 4)))
        if current != last and last is not None:
            runs += last + (str(count) if count > 1 else "")
            count = 0
        last, count = current, count + 1
    return {"values": [list(value) for value in values], "runs": runs}


def decode_scores(coded):
    symbols = symbols_for(len(coded["values"]))
    place = {symbol: index for index, symbol in enumerate(symbols)}
    scores = []
    for symbol, count in re.findall(rf"([A-Za-z]{{{len(symbols[0])}}})(\d*)", coded["runs"]):
        scores += [tuple(coded["values"][place[symbol]])] * int(count or 1)
    return scores


class Journal:
    """Lines by key. A line that a killed run cut off is dropped."""

    def __init__(self, path):
        self.path = path
        self.header = {}
        self.lines = {}
        self.lock = threading.Lock()
        if path.exists():
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    continue
                if "key" in line:
                    self.lines[line["key"]] = line
                else:
                    self.header = line

    def add(self, line):
        with self.lock:
            self.lines[line["key"]] = line
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * (not self._ends_whole()) + json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def _ends_whole(self):
        if self.path.stat().st_size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def rewrite(self, keys=None):
        """The header and the lines of keys (None: all), in that order."""
        with self.lock:
            if keys is not None:
                self.lines = {key: self.lines[key] for key in keys if key in self.lines}
            temporary = self.path.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as file:
                for line in [self.header, *self.lines.values()]:
                    file.write(json.dumps(line) + "\n")
            temporary.replace(self.path)

    def find(self, **wanted):
        return [
            line
            for line in self.lines.values()
            if all(line.get(key) == value for key, value in wanted.items())
        ]
