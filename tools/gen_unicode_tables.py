"""Writes src/text/unicode_tables.cpp: the Unicode properties the tokenizer and the metric need.

The pre-tokenizer's sets are those of Unicode 16, which `tokenizers` 0.23 classifies by at every code point; the metric's are
those of Python 3.11 (Unicode 14), which the reference scores run on. Hence run with Python 3.11 and unicodedata2 16.0.0:

    python3 -m pip install unicodedata2==16.0.0 && python3 tools/gen_unicode_tables.py
"""

import pathlib
import sys
import unicodedata

import unicodedata2

LIMIT = 0x110000
# PropList.txt's White_Space; Python's unicodedata has no accessor for it.
WHITE_SPACE = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def ranges(predicate):
    found, start = [], None
    for point in range(LIMIT + 1):
        inside = point < LIMIT and predicate(point)
        if inside and start is None:
            start = point
        elif not inside and start is not None:
            found.append((start, point - 1))
            start = None
    return found


def category(prefix):
    return ranges(lambda p: unicodedata2.category(chr(p)).startswith(prefix))


def lower_runs():
    """(first, last, step, delta): points first, first + step, ... map to themselves plus delta."""
    pairs = [(p, ord(chr(p).lower())) for p in range(LIMIT) if len(chr(p).lower()) == 1 and chr(p).lower() != chr(p)]
    runs = []
    for point, low in pairs:
        delta = low - point
        if runs and runs[-1][3] == delta:
            first, last, step, _ = runs[-1]
            gap = point - last
            if gap in (1, 2) and (first == last or gap == step):
                runs[-1] = (first, point, gap, delta)
                continue
        runs.append((point, point, 1, delta))
    return runs


def cased(point):
    return chr(point).isupper() or chr(point).islower() or chr(point).istitle()


def is_case_ignorable(point):
    """Whether str.lower() looks through a point when it decides about a final sigma."""
    if cased(point):  # looked through: the sigma is final; not looked through: a cased letter follows it
        return ("A\u03a3" + chr(point)).lower()[1] == "\u03c2"
    return ("A\u03a3" + chr(point) + "B").lower()[1] == "\u03c3"


def table(name, items):
    lines = [f"std::span<const CodeRange> {name}() {{", "  static constexpr CodeRange kRanges[] = {"]
    text = "      "
    for start, end in items:
        piece = f"{{0x{start:x}, 0x{end:x}}}, "
        if len(text) + len(piece) > 98:
            lines.append(text.rstrip())
            text = "      "
        text += piece
    lines += [text.rstrip(), "  };", "  return kRanges;", "}", ""]
    return lines


def main():
    assert sys.version_info[:2] == (3, 11) and unicodedata2.unidata_version == "16.0.0", __doc__
    out = [
        "// Written by tools/gen_unicode_tables.py. Do not edit.",
        f"// Unicode {unicodedata2.unidata_version} for the pre-tokenizer, {unicodedata.unidata_version} for the metric.",
        '#include "text/unicode_tables.h"', "", "namespace qalof::text {", "", "// clang-format off",
    ]
    out += table("letter_ranges", category("L"))
    out += table("number_ranges", category("N"))
    out += table("white_space_ranges", ranges(set(WHITE_SPACE).__contains__))
    out += table("python_space_ranges", ranges(lambda p: chr(p).isspace()))
    out += table("python_word_ranges", ranges(lambda p: chr(p).isalnum() or p == 0x5F))
    out += table("cased_ranges", ranges(cased))
    out += table("case_ignorable_ranges", ranges(is_case_ignorable))
    out += ["std::span<const LowerRun> lower_runs() {", "  static constexpr LowerRun kRuns[] = {"]
    out += [f"      {{0x{a:x}, 0x{b:x}, {s}, {d}}}," for a, b, s, d in lower_runs()]
    out += ["  };", "  return kRuns;", "}", "", "// clang-format on", "", "}  // namespace qalof::text", ""]
    path = pathlib.Path(__file__).resolve().parent.parent / "src/text/unicode_tables.cpp"
    path.write_text("\n".join(out))


if __name__ == "__main__":
    main()
