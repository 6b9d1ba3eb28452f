"""The journal scores.jsonl: what was run and what every question scored (docs/experiments.md,
"Journal").
"""

import contextlib
import json
import os
import re
import tempfile
import threading

UMASK = os.umask(0)  # mkstemp makes files for their owner alone; these are as others
os.umask(UMASK)


def write_whole(path, text):
    """Replaces a file in one step; several threads, processes and machines may do so at once."""
    fd, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(fd, 0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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


def shard_path(path, shard):
    """Of the journal of one shard (I, N) beside the journal of all."""
    return path.with_name(f"{path.stem}-{shard[0]}-of-{shard[1]}{path.suffix}")


def read_lines(path):
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill
                lines.append(json.loads(text))
    return lines


class Journal:
    """Lines by key. A line that a killed run cut off is dropped. The journal of all also knows what
    shards have written, and holds it from its next rewrite on.
    """

    def __init__(self, path, shard=None):
        self.all = path
        self.path = path if shard is None else shard_path(path, shard)
        self.header = {}
        self.lines = {}
        self.lock = threading.Lock()
        for line in read_lines(self.path):
            if "key" in line:
                self.lines[line["key"]] = line
            else:
                self.header = line
        if shard is None:
            self._merge()

    def _merge(self):
        for path in [self.all, *sorted(self.all.parent.glob(f"{self.all.stem}-*-of-*.jsonl"))]:
            if path != self.path:
                for line in read_lines(path):
                    if "key" in line:
                        self.lines.setdefault(line["key"], line)

    def knows(self, *keys):
        """Looks into the journals of other shards too, which may have written since."""
        with self.lock:
            if not all(key in self.lines for key in keys):
                self._merge()
            return all(key in self.lines for key in keys)

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
            lines = [self.header, *self.lines.values()]
            write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def find(self, **wanted):
        return [
            line
            for line in self.lines.values()
            if all(line.get(key) == value for key, value in wanted.items())
        ]
