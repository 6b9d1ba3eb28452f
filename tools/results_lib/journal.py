"""The journal scores.jsonl: what was run and what every question scored (docs/experiments.md, "Journal")."""
import json
import os
import re
import threading

SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def encode_scores(scores):
    """Scores [[exact match, F1], ...] as {"values": [[exact match, F1], ...], "runs": "A1583BA12"}.

    A letter stands for the value at its place in the alphabet, a number behind it for how often it is repeated.
    """
    values = sorted({(em, round(f1, 4)) for em, f1 in scores}, reverse=True)
    if len(values) > len(SYMBOLS):
        raise ValueError(f"{len(values)} different scores, expected at most {len(SYMBOLS)}")
    symbol = dict(zip(values, SYMBOLS))
    text = "".join(symbol[em, round(f1, 4)] for em, f1 in scores)
    runs = re.sub(r"(.)\1+", lambda match: f"{match[1]}{len(match[0])}", text)
    return {"values": [list(value) for value in values], "runs": runs}


def decode_scores(coded):
    scores = []
    for symbol, count in re.findall(r"([A-Za-z])(\d*)", coded["runs"]):
        scores += [tuple(coded["values"][SYMBOLS.index(symbol)])] * int(count or 1)
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
        return [line for line in self.lines.values() if all(line.get(key) == value for key, value in wanted.items())]
