"""Writes tests/text/data: what `tokenizers`, `transformers` and Python itself say about seeded inputs.

    python3 tools/make_text_fixtures.py --gpt2 DIR_WITH_VOCAB_AND_MERGES

Needs Python 3.11, tokenizers, transformers and numpy. The rules of run_qa.py's windows and answers and of the SQuAD scores are
written anew here from their definitions, apart from the C++ code. GPT-2's own vocabulary is not shipped: of its encodings only
hashes are.
"""

import argparse
import collections
import json
import math
import pathlib
import random
import re
import string
import struct
import sys

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/text/data"
END = "<|endoftext|>"
NUM_STRINGS = 10_500

WORDS = """the a an of and to in is was that it for on as with by his he at from are this be or had not which have were one all
their has been her who its more other new first two time years after there city world people called between known over also used
state river north south war part century king early many most university music film water system government language number
Paris London Warsaw Beyonce Nikola Tesla Denver Panthers Broncos Norman Normandy Amazon rain forest oxygen engine steam island
it's don't we've they'll I'm you're she'd isn't o'clock 'tis""".split()
EMOJI = ["\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1f5\U0001f1f1", "\u2764\ufe0f", "\U0001f44d\U0001f3fd",
         "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\u260e", "\U0001faf6"]
PIECES = {
    "contraction": ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "\u2019s", " 's", "''s", "'", "n't", "'x"],
    "space": [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\x0b", "\x0c", "      "],
    "control": ["\x00", "\x01", "\x1b", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\x85", "\x9f", "\u180e", "\u200b", "\u200d", "\ufeff", "\u00ad",
                "\u202e", "\ufffe", "\ufffd"],
    "mark": ["e\u0301", "n\u0303", "\u0301", "a\u0300\u0316\u0327", "\u0130", "\u0131", "\u1e9e", "\u03a3\u0391\u03a3", "\u0e01\u0e33", "\u0915\u094d\u0937"],
    "cjk": ["\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\u3072\u3089\u304c\u306a", "\u30ab\u30bf\u30ab\u30ca", "\ud55c\uad6d\uc5b4", "\uff21\uff22", "\u3002", "\U00020000",
            "\U0002ebf0", "\U000323af"],
    "rtl": ["\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0660\u0661\u0662", "\u06f1", "\u061f", "\u200f"],
    "number": ["0", "7", "42", "1999", "3.14", "1,000", "\u00b2", "\u00bd", "\u2167", "\u0967", "\U0001d7d8", "1e-5", "\u3007"],
    "mark_up": ["<", ">", "<|", "|>", "<|end", END, "</s>", "...", "--", "!?", "\u2014", "\u201c", "$5", "#1", "@x", "a_b", "C++", "\\n", "%"],
    "astral": ["\U0001d49c", "\U00010330", "\U0010ffff", "\U000f0000", "\ue000", "\U000e0001", "\U0001f9e0", "\U00011f02", "\U00010d4a"],
}


def fnv(values):
    """FNV-1a (64 bits) over little-endian 32-bit words, folded to 32 bits."""
    h = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(values)}I", *values):
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h >> 32 ^ h & 0xFFFFFFFF:08x}"


def sentence(rng, length):
    return " ".join(rng.choice(WORDS) for _ in range(length)).capitalize() + rng.choice([".", "?", "!", ", ", ""])


def random_point(rng):
    while True:
        point = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x110000), rng.randrange(0x3000)])
        if not 0xD800 <= point < 0xE000:
            return chr(point)


def make_strings(rng):
    fixed = ["", " ", "  ", "a", " a", "a ", "\n", " \n ", "Hello, world!", "  Hello   world  ", "\u180e x", "x\u180e\u180e", "a\x1cb", "a\x85b", END, f"a{END}b{END}",
             f"{END}{END[:-1]}", "ab", "xab", "x <|end", "\U0001f600" * 3, "a" * 200, "'" * 60, "ab" * 60, " " * 60, "the" * 40, "\u4e2d" * 50, "x" + " " * 40 + "y"]
    strings = fixed + [chr(p) for p in range(0x100)] + [f"a{chr(p)}1 {chr(p)}" for p in range(0x100)]
    while len(strings) < NUM_STRINGS:
        kind = rng.randrange(10)
        if kind < 3:
            strings.append(sentence(rng, rng.randint(1, 9)))
        elif kind < 4:
            strings.append("".join(random_point(rng) for _ in range(rng.randint(1, 8))))
        else:
            parts = []
            for _ in range(rng.randint(1, 6)):
                group = rng.choice([*PIECES, "word", "word", "emoji", "point"])
                if group == "word":
                    parts.append(rng.choice(["", " "]) + rng.choice(WORDS))
                elif group == "emoji":
                    parts.append(rng.choice(EMOJI))
                elif group == "point":
                    parts.append(random_point(rng))
                else:
                    parts.append(rng.choice(PIECES[group]))
            strings.append("".join(parts))
    return strings


def train_tiny(rng, strings):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = strings + [sentence(rng, 20) for _ in range(3000)]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def busy_variant(tokenizer):
    """The same with trimmed offsets and added tokens of every kind; the test makes the same changes."""
    settings = json.loads(tokenizer.to_str())
    settings["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    size = tokenizer.get_vocab_size()
    for i, (content, special) in enumerate([("<|end", True), ("ab", False), ("\u00e9!", False), ("the", False), ("> <", False), ("  ", False)]):
        settings["added_tokens"].append({"id": size + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                         "normalized": not special, "special": special})
    return Tokenizer.from_str(json.dumps(settings))


def flat(encoding):
    return [x for i, (a, b) in zip(encoding.ids, encoding.offsets) for x in (i, a, b)]


def gpt2_tokenizer(directory):
    tokenizer = Tokenizer(models.BPE.from_file(f"{directory}/vocab.json", f"{directory}/merges.txt"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer


def write_lines(name, lines):
    (DATA / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def write_json(name, value):
    (DATA / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def make_encodings(rng, gpt2_directory):
    strings = make_strings(rng)
    tiny = train_tiny(rng, strings)
    (DATA / "tiny").mkdir(parents=True, exist_ok=True)
    (DATA / "tiny_pairs").mkdir(parents=True, exist_ok=True)
    settings = json.loads(tiny.to_str())
    settings["model"]["merges"] = [" ".join(pair) for pair in settings["model"]["merges"]]
    (DATA / "tiny/tokenizer.json").write_text(json.dumps(settings, ensure_ascii=False, separators=(",", ":")) + "\n")
    write_lines("tiny_pairs/merges.txt", ["#version: 0.2"] + settings["model"]["merges"])
    (DATA / "tiny_pairs/vocab.json").write_text(json.dumps(settings["model"]["vocab"], ensure_ascii=True, separators=(",", ":")) + "\n")
    busy, gpt2 = busy_variant(tiny), gpt2_tokenizer(gpt2_directory)
    lines = []
    for text in strings:
        columns = []
        for tokenizer in (tiny, busy, gpt2):
            for parse_special in (False, True):
                tokenizer.encode_special_tokens = not parse_special
                columns.append(fnv(flat(tokenizer.encode(text, add_special_tokens=True))))
        lines.append(" ".join(columns))
    write_lines("strings.jsonl", [json.dumps(text, ensure_ascii=False) for text in strings])
    write_lines("string_hashes.txt", lines)
    tiny.encode_special_tokens = True
    samples = [strings[i] for i in range(0, 28)] + rng.sample(strings, 60)
    write_lines("encodings.jsonl", [json.dumps({"text": t, "ids": e.ids, "offsets": e.offsets}, separators=(",", ":"))
                                    for t in samples for e in [tiny.encode(t)]])
    return tiny


def make_unicode():
    """A hash per property over all code points."""
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    flags = lambda f: fnv([1 if f(chr(p)) else 0 for p in points])
    texts = lambda f: fnv([ord(c) for p in points for c in f(chr(p)) + "\n"])
    word = re.compile(r"\w")
    write_json("unicode.json", {
        "python_space": flags(lambda c: c.split() == []), "python_word": flags(lambda c: word.match(c) is not None),
        "lower": texts(str.lower), "sigma_before": texts(lambda c: ("A\u03a3" + c).lower()),
        "sigma_between": texts(lambda c: ("A\u03a3" + c + "B").lower()), "sigma_after": texts(lambda c: ("A" + c + "\u03a3").lower())})


# --- SQuAD scores, from their definition -------------------------------------------------------------------------------------


def normalize(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(prediction, gold, v2):
    a, b = normalize(prediction).split(), normalize(gold).split()
    if v2 and (not a or not b):
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if common == 0:
        return 0.0
    p, r = common / len(a), common / len(b)
    return 2 * p * r / (p + r)


def score(prediction, golds, v2):
    if v2:
        golds = [g for g in golds if normalize(g)] or [""]
    return [max(float(normalize(prediction) == normalize(g)) for g in golds), max(f1(prediction, g, v2) for g in golds)]


def make_metric(rng):
    traps = ["The \u0130stanbul", "i\u0307stanbul", "\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2", "\u03bf\u03b4\u03bf\u03c3", "a\u0301 the", "\u00e4 an", "an\u0301", "caf\u00e9 the bar",
             "the\x1ccat", "a\x1dcat", "the\x85dog", "\u00a0the\u00a0", "\u180ethe", "\u200bthe", "the-end", "the_end", "a.b", "A.B.", "U.S.A.", "the the the", "an a the",
             "theatre", "\u00abthe\u00bb", "\u201cthe\u201d", "the\u2019s", "the's", "\uff41", "THE", "\uff34\uff28\uff25", "$1,000.50", "1 000", "", " ", ".", "the", "a", "\u00b2a", "a\u00b2",
             "stra\u00dfe", "STRASSE", "\u1e9e", "\u0661 a \u0662", "a\u200da", "\u4e2d a \u6587", "\u4e2da\u6587", "the\u3000end", "\x1f", "a\u0345\u03a3", "\u03a3", "A\u03a3", "A\u03a3.", "A\u03a3'B",
             "A\u03a3\u00adB", "\U0001d400", "\U00010400", "\U0001e900", "\u24b6", "\u01c5", "\u2160", "_a_", "a_", "the\n\nend", "\t"]
    pool = traps + WORDS
    cases = [(a, [b]) for a in traps for b in rng.sample(traps, 6)] + [(t, [t]) for t in traps] + [(t, [t.upper(), t.lower()]) for t in traps]
    while len(cases) < 900:
        prediction = " ".join(rng.choice(pool) for _ in range(rng.randint(0, 6)))
        golds = []
        for _ in range(rng.randint(1, 4)):
            words = prediction.split(" ")
            rng.shuffle(words)
            golds.append(" ".join(words[: rng.randint(0, len(words))] + [rng.choice(pool)][: rng.randint(0, 1)]))
        cases.append((prediction, golds))
    write_lines("metric.jsonl", [json.dumps({"p": p, "g": g, "n": normalize(p), "v1": score(p, g, False), "v2": score(p, g, True)}, separators=(",", ":"))
                                 for p, g in cases])


# --- run_qa.py's windows and answers, from their description ------------------------------------------------------------------


def context_text(rng, words):
    pool = WORDS + EMOJI + ["caf\u00e9", "\u4e2d\u6587", "e\u0301a", "1999", "\U0001d49c"]
    return " ".join(rng.choice(pool) for _ in range(words))


def make_windows(rng, tiny):
    tiny.encode_special_tokens = True
    fast = PreTrainedTokenizerFast(tokenizer_object=tiny)
    cases = []
    for n in range(24):
        length, stride = rng.choice([(32, 8), (48, 16), (64, 20), (96, 32), (64, 1)])
        context = context_text(rng, rng.choice([1, 5, 40, 120]))
        question = rng.choice(["", "  ", "\x1c", "\u3000"]) + sentence(rng, rng.randint(2, 3)) if n else " Who?"
        start = rng.randrange(len(context))
        end = min(len(context), start + rng.choice([1, 1, 3, 10, 25]))
        if n % 4 == 0:
            start, end = 0, min(3, len(context))
        if n % 4 == 1:
            start, end = max(0, len(context) - 4), len(context)
        features = fast([question.lstrip()], [context], truncation="only_second", max_length=length, stride=stride, return_overflowing_tokens=True,
                        return_offsets_mapping=True, padding=False)
        windows = []
        for i, ids in enumerate(features["input_ids"]):
            sequence = features.sequence_ids(i)
            offsets = features["offset_mapping"][i]
            first = sequence.index(1)
            # run_qa.py, but the searches stay in the context: without a token between the two texts its search for the end runs
            # into the question.
            if not (offsets[first][0] <= start and offsets[-1][1] >= end):
                label = [0, 0]
            else:
                a = first
                while a < len(offsets) and offsets[a][0] <= start:
                    a += 1
                b = len(offsets) - 1
                while b >= first and offsets[b][1] >= end:
                    b -= 1
                label = sorted([a - 1, b + 1])
            windows.append({"ids": ids, "context_start": first, "offsets": offsets[first:], "label": label})
        cases.append({"question": question, "context": context, "start": start, "length": end - start, "max_seq_length": length, "doc_stride": stride,
                      "windows": windows})
    write_lines("windows.jsonl", [json.dumps(case, separators=(",", ":")) for case in cases])


def stable_top(logits, n):
    """The n largest, ties to the lower index (numpy leaves their order open)."""
    return np.argsort(-logits, kind="stable")[:n].tolist()


def decode(case, v2, n_best, max_length, threshold):
    candidates, null = [], None
    for window in case["windows"]:
        starts, ends = (np.array(window[k], dtype=np.float32) for k in ("start_logits", "end_logits"))
        offsets = [None] * window["context_start"] + [tuple(o) for o in window["offsets"]]
        score = starts[0] + ends[0]
        if null is None or null["score"] > score:
            null = {"offsets": (0, 0), "score": score, "start_logit": starts[0], "end_logit": ends[0]}
        for s in stable_top(starts, n_best):
            for e in stable_top(ends, n_best):
                if offsets[s] is None or offsets[e] is None or e < s or e - s + 1 > max_length:
                    continue
                candidates.append({"offsets": (offsets[s][0], offsets[e][1]), "score": starts[s] + ends[e], "start_logit": starts[s], "end_logit": ends[e]})
    null_score = null["score"]
    if v2:
        candidates.append(null)
    best = sorted(candidates, key=lambda c: c["score"], reverse=True)[:n_best]
    if v2 and not any(c["offsets"] == (0, 0) for c in best):
        best.append(null)
    for c in best:
        a, b = c.pop("offsets")
        c["text"] = case["context"][a:b]
    if not best or (len(best) == 1 and best[0]["text"] == ""):
        best.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
    scores = [float(c.pop("score")) for c in best]
    powers = [math.exp(s - max(scores)) for s in scores]
    for c, p in zip(best, powers):
        c["probability"] = p / sum(powers)
        c["start_logit"], c["end_logit"] = float(c["start_logit"]), float(c["end_logit"])
    if not v2:
        return best[0]["text"], best, None
    chosen = next(c for c in best if c["text"] != "")
    odds = float(null_score - np.float32(chosen["start_logit"]) - np.float32(chosen["end_logit"]))
    return ("" if odds > threshold else chosen["text"]), best, odds


def make_postprocess(rng, tiny):
    cases = []
    for n in range(40):
        context = context_text(rng, rng.randint(2, 30))
        encoding = tiny.encode(context)
        question = tiny.encode("Who was the king?").ids
        room, step, windows, first = rng.choice([12, 20, 30]), 8, [], 0
        while True:
            offsets = encoding.offsets[first : first + room]
            size = len(question) + len(offsets)
            draw = (lambda: float(np.float32(rng.choice([-1.0, 0.0, 0.5, 2.0])))) if n % 3 == 0 else (lambda: float(np.float32(rng.gauss(0, 3))))
            windows.append({"context_start": len(question), "offsets": offsets, "start_logits": [draw() for _ in range(size)],
                            "end_logits": [draw() for _ in range(size)]})
            if first + room >= len(encoding.ids):
                break
            first += room - step
        if n == 1:  # nothing but the question scores: no candidate
            windows = [{"context_start": 25, "offsets": [[0, 1]], "start_logits": [5.0] * 25 + [-5.0], "end_logits": [5.0] * 25 + [-5.0]}]
        cases.append({"id": rng.choice(["q", "\u00e9", "\U0001f600", 'a"b']) + str(n), "context": context, "windows": windows})
    options = [(False, 20, 30, 0.0), (True, 20, 30, 0.0), (True, 3, 4, -2.5), (False, 5, 2, 0.0)]
    expected = []
    for v2, n_best, max_length, threshold in options:
        results = {case["id"]: decode(case, v2, n_best, max_length, threshold) for case in cases}
        expected.append({"v2": v2, "n_best_size": n_best, "max_answer_length": max_length, "threshold": threshold,
                         "predictions": json.dumps({k: r[0] for k, r in results.items()}, indent=4) + "\n",
                         "n_best": {k: r[1] for k, r in results.items()},
                         "null_odds": json.dumps({k: r[2] for k, r in results.items()}, indent=4) + "\n" if v2 else ""})
    write_json("postprocess.json", {"cases": cases, "expected": expected})


def make_floats(rng):
    values = [0.0, -0.0, 1.0, 0.1, 1e16, 1e15, 9999999999999998.0, 1e-4, 1e-5, 123456.789, 5e-324, 1.7976931348623157e308, 2.0**53, 1e22, 1e23, -1e-7, 0.5]
    values += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(150)] + [float(np.float32(rng.gauss(0, 5))) for _ in range(150)]
    texts = ["", '"\\/\b\f\n\r\t', "\x00\x1f\x7f\x80", "\u00e9\u2028\uffff", "\U0001f600\U0010ffff"]
    write_json("python_json.json", {"floats": [[struct.pack(">d", v).hex(), json.dumps(v)] for v in values if v == v], "strings": [[t, json.dumps(t)] for t in texts]})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpt2", required=True, help="directory with GPT-2's vocab.json and merges.txt")
    args = parser.parse_args()
    assert sys.version_info[:2] == (3, 11), __doc__
    DATA.mkdir(parents=True, exist_ok=True)
    tiny = make_encodings(random.Random(1), args.gpt2)
    make_unicode()
    make_metric(random.Random(2))
    make_windows(random.Random(3), tiny)
    make_postprocess(random.Random(4), tiny)
    make_floats(random.Random(5))
    for path in sorted(DATA.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:8} {path.relative_to(DATA)}")


if __name__ == "__main__":
    main()
