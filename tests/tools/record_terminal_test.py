#!/usr/bin/env python3
"""Recordings of terminals hold what commands showed: rewritten lines, colours, and nothing else.
Usage: tests/tools/record_terminal_test.py"""

import contextlib
import os
import pathlib
import pty
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "docs"))
import record_terminal  # noqa: E402


def texts_of(picture):
    """What each group draws, of those that stay to the end, as text without gaps."""
    root = xml.etree.ElementTree.fromstring(picture)
    groups = root.findall("{http://www.w3.org/2000/svg}g")
    return [
        " ".join(text.text for text in group)
        for group in groups
        if group.get("visibility") != "hidden"
    ]


class ScreenTest(unittest.TestCase):
    def lines(self, *parts, columns=20):
        screen = record_terminal.Screen(columns)
        for part in parts:
            screen.write(part)
        return ["".join(cell.character for cell in row) for row in screen.rows]

    def test_lines_are_rewritten(self):
        self.assertEqual(self.lines("old text\r\x1b[Knew\r\n", "end"), ["new", "end"])
        self.assertEqual(self.lines("12345\rab"), ["ab345"])

    def test_codes_may_be_cut_anywhere(self):
        whole = "a\x1b[36mb\x1b[0m\r\x1b[Kc"
        for at in range(len(whole)):
            self.assertEqual(self.lines(whole[:at], whole[at:]), ["c"])

    def test_long_lines_wrap(self):
        self.assertEqual(self.lines("abcdefg", columns=3), ["abc", "def", "g"])

    def test_what_is_not_known_is_refused(self):
        for code in ("\x1b[2J", "\x1b[31;99m", "\x07"):
            with self.assertRaises(ValueError):
                self.lines(code)


def has_terminals():
    """Whether this machine has pseudo terminals: a bare chroot has none."""
    try:
        ours, theirs = pty.openpty()
    except OSError:
        return False
    os.close(ours)
    os.close(theirs)
    return True


@unittest.skipUnless(has_terminals(), "this machine has no pseudo terminals")
class RecordingTest(unittest.TestCase):
    def record(self, commands, *flags):
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder) / "script"
            script.write_text(commands)
            picture = pathlib.Path(folder) / "picture.svg"
            with contextlib.redirect_stdout(None):
                record_terminal.main(
                    [str(script), "--output", str(picture), "--cwd", folder, *flags]
                )
            return picture.read_text()

    def test_holds_commands_and_their_output(self):
        picture = self.record(
            "# a remark\nprintf 'one\\n'; printf '<two>\\n' >&2\necho \\\n  three\n"
        )
        self.assertEqual(
            texts_of(picture),
            [
                "$ printf 'one\\n'; printf '<two>\\n' >&2",
                "one",
                "<two>",
                "$ echo \\",
                "three",
                "three",
            ],
        )

    def test_shows_progress_and_ends_with_its_end(self):
        picture = self.record(
            'for i in 1 2 3; do printf "\\r\\033[K\\033[36m${i}0%%\\033[0m"; sleep 0.1; done\n',
            "--frame_step",
            "0",
        )
        self.assertEqual(texts_of(picture)[-1], "30%")
        for share in ("10%", "20%", "30%"):
            self.assertIn(f">{share}</text>", picture)
        self.assertIn('class="c"', picture)

    def test_commands_see_a_terminal(self):
        picture = self.record(
            "test -t 1 && tput cols 2>/dev/null || stty size\n", "--columns", "77"
        )
        self.assertRegex(texts_of(picture)[-1], r"\b77$")

    def test_pauses_are_shortened(self):
        picture = self.record("sleep 0.6; echo a; sleep 0.6; echo b\n", "--max_pause", "0.1")
        seconds = float(re.search(r"g\{animation:([0-9.]+)s", picture)[1])
        self.assertLess(seconds - record_terminal.HOLD - record_terminal.AFTER_COMMAND, 0.4)

    def test_failing_commands_and_paths_of_the_machine_are_refused(self):
        with self.assertRaises(SystemExit):
            self.record("false\n")
        with self.assertRaisesRegex(SystemExit, "a path of this machine"):
            self.record("pwd\n")


if __name__ == "__main__":
    unittest.main()
