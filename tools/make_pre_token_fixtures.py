#!/usr/bin/env python3
"""Writes tests/text/data/pre_tokens.txt: where Hugging Face tokenizers cuts strings into words.

Per line the number of a line of strings.jsonl and, for each digit apart and for Llama 3's pattern, the FNV-1a hash (64 bits,
folded to 32) of the words' ends in code points. Needs tokenizers.

  tools/make_pre_token_fixtures.py
"""
import json
import pathlib

from tokenizers import Regex, pre_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
STEP = 4
EXTRA = ["I'LL we'Re it'ſ O'S", "12345 6", "a\r\n\r\n  b", " \n x", "  \n\n  ", "\t\tx", "!!\n\n?", "x  12  y", " 'S", "½¾ 3¼4"]


def fnv(ends: list[int]) -> int:
    value = 0xCBF29CE484222325
    for end in ends:
        for byte in end.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return (value >> 32 ^ value) & 0xFFFFFFFF


def main() -> None:
    data = pathlib.Path(__file__).resolve().parent.parent / "tests/text/data"
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                      pre_tokenizers.ByteLevel(add_prefix_space=False)])
    llama3 = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
                                      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    strings = [json.loads(line) for line in (data / "strings.jsonl").read_text().rstrip("\n").split("\n")]
    lines = []
    for number, text in [(str(n), strings[n]) for n in range(0, len(strings), STEP)] + [(json.dumps(text), text) for text in EXTRA]:
        hashes = [fnv([end for _, (_, end) in pre.pre_tokenize_str(text)]) for pre in (digits, llama3)]
        lines.append(f"{hashes[0]:08x} {hashes[1]:08x} {number}")
    (data / "pre_tokens.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
