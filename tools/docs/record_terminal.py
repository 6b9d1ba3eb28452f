#!/usr/bin/env python3
"""Runs commands in a pseudo-terminal and writes what they showed, as they showed it, as an SVG
that plays in a browser: a picture for documents that holds real output alone.

Usage: tools/docs/record_terminal.py COMMANDS --output FILE.svg [--cwd DIR] [--columns 92]
COMMANDS is a file with a command a line; a line that ends in a backslash goes on in the next one,
and one that begins with # is left out. Pauses are shortened to --max_pause seconds, and --speed
plays faster. Readers who ask for less motion, and programs without animation, see the end.
Needs Python's standard library and bash.
"""

import argparse
import codecs
import dataclasses
import errno
import fcntl
import html
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios
import time

ROWS = 50
CHARACTER = 8.4  # pixels of a column
LINE = 20
MARGIN = 16
HOLD = 6.0  # seconds that the end stays
AFTER_COMMAND = 0.7  # seconds from a command to its first output
COLOURS = {30: "k", 31: "r", 32: "g", 33: "y", 34: "b", 35: "m", 36: "c", 37: "w", 90: "d"}

STYLE = """
svg{--page:#fff;--ink:#1f2328;--line:#d1d9e0;--k:#1f2328;--r:#c62f3b;--g:#19793a;--y:#8a5a00;
--b:#0a5bd0;--m:#8250df;--c:#0b7285;--w:#59636e;--d:#b9c1ca;--prompt:#19793a}
@media(prefers-color-scheme:dark){svg{--page:#12161c;--ink:#e6ebf1;--line:#30363d;--k:#8b949e;
--r:#ff7b72;--g:#56d364;--y:#e3b341;--b:#79b8ff;--m:#d2a8ff;--c:#56d4dd;--w:#b1bac4;--d:#434b55;
--prompt:#56d364}}
rect{fill:var(--page);stroke:var(--line)}
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
fill:var(--ink);white-space:pre}
.prompt{fill:var(--prompt);font-weight:700}.bold{font-weight:700}
"""


@dataclasses.dataclass(frozen=True)
class Cell:
    character: str = " "
    css: str = ""


class Screen:
    """The lines of a terminal that never scrolls, for programs that write and rewrite lines."""

    CODE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")
    # Text with the beginning of a code at its end.
    CUT_CODE = re.compile(r"\x1b(\[[0-9;]*)?$")

    def __init__(self, columns):
        self.columns = columns
        self.rows = [[]]
        self.column = 0
        self.css = ""
        self.pending = ""

    def write(self, text):
        text = self.pending + text
        self.pending = ""
        cut = self.CUT_CODE.search(text)
        if cut:
            self.pending = cut.group()
            text = text[: cut.start()]
        at = 0
        while at < len(text):
            code = self.CODE.match(text, at)
            if code:
                self.command(code[1], code[2])
                at = code.end()
                continue
            self.put(text[at])
            at += 1

    def command(self, numbers, letter):
        if letter == "K" and numbers in ("", "0"):
            del self.rows[-1][self.column :]
        elif letter == "m":
            self.colour([int(n or 0) for n in numbers.split(";")])
        else:
            raise ValueError(f"terminal code {numbers}{letter} is not known to this recorder")

    def colour(self, numbers):
        for number in numbers:
            if number in (0, 39):
                self.css = ""
            elif number == 1:
                self.css = "bold"
            elif number in COLOURS:
                self.css = COLOURS[number]
            else:
                raise ValueError(f"colour {number} is not known to this recorder")

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.rows.append([])
            self.column = 0
        elif character < " ":
            raise ValueError(f"control character {character!r} is not known to this recorder")
        else:
            if self.column == self.columns:
                self.put("\n")
            row = self.rows[-1]
            row.extend([Cell()] * (self.column + 1 - len(row)))
            row[self.column] = Cell(character, self.css)
            self.column += 1


class Recording:
    """What each line showed, and from when on."""

    def __init__(self, columns, max_pause, speed):
        self.screen = Screen(columns)
        self.max_pause = max_pause
        self.speed = speed
        self.time = 0.0
        self.lines = []  # of each row: [(time, cells)]

    def wait(self, seconds):
        self.time += min(seconds, self.max_pause) / self.speed

    def show(self, text):
        self.screen.write(text)
        for number, row in enumerate(self.screen.rows):
            if number == len(self.lines):
                self.lines.append([])
            cells = tuple(row)
            versions = self.lines[number]
            if (versions[-1][1] if versions else ()) != cells:
                versions.append((self.time, cells))

    def command(self, command):
        if self.screen.rows != [[]]:
            self.show("\n")
        self.screen.css = "prompt"
        self.show("$ ")
        self.screen.css = "bold"
        self.show(command.replace("\n", "\r\n") + "\r\n")
        self.screen.css = ""
        self.time += AFTER_COMMAND


def commands_of(text):
    joined = []
    for line in text.splitlines():
        if joined and joined[-1].endswith("\\"):
            joined[-1] += "\n" + line
        elif line.strip() and not line.startswith("#"):
            joined.append(line)
    return joined


def chunks(command, columns, cwd):
    """What the command writes to a terminal: (seconds since the last, text). Fails as it does."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "LC_ALL", "LC_CTYPE")
    }
    environment.update(TERM="xterm-256color", LANG="C.UTF-8")
    process = subprocess.Popen(
        ["bash", "-c", command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    decoder = codecs.getincrementaldecoder("utf-8")()
    last = time.monotonic()
    while True:
        try:
            got = os.read(ours, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal's other end is closed
                raise
            break
        if not got:
            break
        now = time.monotonic()
        yield now - last, decoder.decode(got)
        last = now
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit(f"{command}: exit status {process.returncode}")


def shortened(versions, step):
    """Versions that last less than step, but for the last, are seen by nobody."""
    kept = []
    for i, (start, cells) in enumerate(versions):
        if i + 1 < len(versions) and kept and start - kept[-1][0] < step:
            continue
        kept.append((start, cells))
    return kept


def row_svg(cells, y):
    """A <text> a run of one style, which takes exactly its columns in whatever font there is."""
    parts = []
    begin = 0
    while begin < len(cells):
        end = begin
        while end < len(cells) and cells[end].css == cells[begin].css:
            end += 1
        text = "".join(cell.character for cell in cells[begin:end])
        # Spaces draw nothing: runs of them are left out.
        for word in re.finditer(r"\S+( \S+)*", text):
            x = MARGIN + (begin + word.start()) * CHARACTER
            css = f' class="{cells[begin].css}"' if cells[begin].css else ""
            width = len(word[0]) * CHARACTER
            parts.append(
                f'<text{css} x="{x:.1f}" y="{y}" textLength="{width:.1f}"'
                f' lengthAdjust="spacingAndGlyphs">{html.escape(word[0], quote=False)}'
                "</text>"
            )
        begin = end
    return "".join(parts)


def svg(recording, label, frame_step):
    lines = list(recording.lines)
    while lines and not any(cells for _, cells in lines[-1]):
        lines.pop()
    length = recording.time + HOLD
    width = round(2 * MARGIN + recording.screen.columns * CHARACTER)
    height = 2 * MARGIN + LINE * len(lines)
    body, keyframes = [], []
    for number, versions in enumerate(lines):
        versions = shortened(versions, frame_step)
        for i, (start, cells) in enumerate(versions):
            drawn = row_svg(cells, MARGIN + LINE * number + 15)
            if not drawn:
                continue
            name = f"f{len(keyframes)}"
            is_last = i + 1 == len(versions)
            end = length if is_last else versions[i + 1][0]
            ends = "" if is_last else f"{100 * end / length:.2f}%{{visibility:hidden}}"
            keyframes.append(
                f"@keyframes {name}{{0%{{visibility:hidden}}"
                f"{100 * start / length:.2f}%{{visibility:visible}}{ends}}}"
                f"#{name}{{animation-name:{name}}}"
            )
            hidden = "" if is_last else ' visibility="hidden"'
            body.append(f'<g id="{name}"{hidden}>{drawn}</g>')
    colours = "".join(f".{css}{{fill:var(--{css})}}" for css in COLOURS.values())
    motion = f"g{{animation:{length:.2f}s step-end infinite}}\n" + "\n".join(keyframes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{html.escape(label)}">\n'
        f"<style>{STYLE}{colours}\n@media(prefers-reduced-motion:no-preference){{\n{motion}\n}}"
        f"</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def machine_paths(text, cwd):
    """Places of this machine that a reader has no use for."""
    places = {str(pathlib.Path(cwd).resolve()), os.getcwd(), os.path.expanduser("~")}
    return sorted(place for place in places if len(place) > 1 and place in text)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--cwd", default=".")
    parser.add_argument("--columns", type=int, default=92)
    parser.add_argument("--max_pause", type=float, default=1.0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument(
        "--frame_step",
        type=float,
        default=0.5,
        help="seconds that a line shows before it is redrawn",
    )
    parser.add_argument("--label", default="A recording of commands in a terminal")
    options = parser.parse_args(arguments)
    recording = Recording(options.columns, options.max_pause, options.speed)
    for command in commands_of(options.commands.read_text()):
        recording.command(command)
        for seconds, text in chunks(command, options.columns, options.cwd):
            recording.wait(seconds)
            recording.show(text)
    picture = svg(recording, options.label, options.frame_step)
    for place in machine_paths(picture, options.cwd):
        sys.exit(f"the commands showed {place}, a path of this machine")
    options.output.write_text(picture)
    print(f"{options.output}: {len(picture.encode())} bytes, {recording.time:.1f} s")


if __name__ == "__main__":
    main()
