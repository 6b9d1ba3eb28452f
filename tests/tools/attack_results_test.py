#!/usr/bin/env python3
"""Tests of tools/experiments/attack_results.py: intervals and tests, data, suites, and a suite on a
stand-in for qalof.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / "tools"
sys.path[:0] = [str(TOOLS / "experiments"), str(TOOLS)]
sys.dont_write_bytecode = True
from attack_lib import data, matrix, models, report, suite  # noqa: E402
from results_lib.journal import Journal  # noqa: E402
from shared import statistics  # noqa: E402


class StatisticsTest(unittest.TestCase):
    def test_wilson_is_that_of_the_books(self):
        low, high = statistics.wilson(0.5, 10)  # Newcombe 1998: 5 of 10 is [0.2366, 0.7634]
        self.assertAlmostEqual(low, 0.2366, 4)
        self.assertAlmostEqual(high, 0.7634, 4)
        low, high = statistics.wilson(0.0, 100)
        self.assertAlmostEqual(low, 0.0)
        self.assertAlmostEqual(high, 0.0370, 4)
        self.assertEqual(statistics.wilson(0.0, 0), (0.0, 1.0))

    def test_mcnemar_counts_what_differs_alone(self):
        first = [True] * 50 + [True] * 9 + [False] + [False] * 40
        second = [True] * 50 + [False] * 9 + [True] + [False] * 40
        # 2 (C(10,0) + C(10,1)) / 2^10
        self.assertEqual(statistics.mcnemar(first, second), (9, 1, 22 / 1024))
        self.assertEqual(statistics.mcnemar(first, first), (0, 0, 1.0))
        with self.assertRaises(ValueError):
            statistics.mcnemar(first, second[1:])

    def test_two_proportions(self):
        # 3 against 6 of 100: z = 1.0235, p = 0.306; what a sample of 100 cannot tell apart.
        self.assertAlmostEqual(statistics.two_proportions(0.03, 100, 0.06, 100), 0.306, 3)
        self.assertEqual(statistics.two_proportions(0, 100, 0, 100), 1.0)


class DataTest(unittest.TestCase):
    def test_both_forms_are_read_and_texts_come_back(self):
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            (root / "a.tsv").write_text("sentence\tlabel\nit is good\t1\nbad\t0\n")
            self.assertEqual(
                data.read_examples(root / "a.tsv"), [("it is good", "1"), ("bad", "0")]
            )
            (root / "b.csv").write_text('"3","Title","say ""hi"", all"\n')
            self.assertEqual(data.read_examples(root / "b.csv"), [('Title say "hi", all', "3")])
            data.write_examples(root / "c.tsv", [("two\nlines\tand  more ", 2)])
            self.assertEqual(data.read_examples(root / "c.tsv"), [("two lines and  more ", "2")])


DRAWN = """
[[defence]]
id = "rpi"
name = "RPI"
model = "widths"
precision = "random:4,8"
"""

SUITE = (
    """
title = "T"
draws = 3
[vocabulary]
vocab_size = 300
[language_model]
max_seq_length = 16
[classifier]
max_seq_length = 16
[[adapters]]
id = "widths"
train = {method = "joint"}
[[defence]]
id = "fp"
name = "full"
model = "classifier"
precision = "32"
[[defence]]
id = "w4"
name = "fixed 4"
model = "widths"
precision = "4"
"""
    + DRAWN
    + """
[attack]
num_samples = 4
[[attack.target]]
id = "w4"
name = "4"
defence = "w4"
[[attack.target]]
id = "rpi"
name = "RPI, adaptive"
defence = "rpi"
flags = {adaptive = true}
"""
)

PRETRAINED = (
    """
title = "P"
model = "m"
max_seq_length = 8
[[adapters]]
id = "lora"
train = {method = "lora"}
[[adapters]]
id = "widths"
from = "lora"
train = {method = "random"}
[[defence]]
id = "fp"
name = "full"
model = "lora"
precision = "16"
"""
    + DRAWN
    + """
[attack]
num_samples = 3
[[attack.target]]
id = "rpi"
name = "RPI"
defence = "rpi"
"""
)


class SuiteTest(unittest.TestCase):
    def test_what_is_unknown_is_named(self):
        with tempfile.TemporaryDirectory() as name:
            path = pathlib.Path(name) / "s.toml"
            for bad, says in (
                (SUITE.replace('defence = "w4"', 'defence = "w5"'), "no defence w5"),
                (SUITE.replace('model = "widths"', 'model = "wide"', 1), "no model wide"),
                (SUITE.replace("draws = 3", "drawn = 3"), "unknown key drawn"),
                (
                    SUITE.replace("draws = 3", 'model = "m"'),
                    "found vocabulary language_model classifier beside model",
                ),
                (SUITE.replace("max_seq_length = 16", ""), "no max_seq_length"),
                (PRETRAINED.replace('model = "m"', ""), "found none"),
                (
                    PRETRAINED.replace('model = "lora"', 'model = "classifier"'),
                    "no model classifier",
                ),
                (PRETRAINED.replace('from = "lora"', 'from = "widths"'), "start from widths"),
            ):
                path.write_text(bad)
                with self.assertRaisesRegex(suite.SuiteError, says):
                    suite.load(path)

    def test_shipped_suites_are_whole(self):
        for path in sorted((HERE.parent.parent / "configs" / "attack_small").glob("*.toml")):
            found = suite.load(path)
            self.assertGreaterEqual(len(found.defences), 8, path)
            self.assertGreaterEqual(found.num_samples, 100, path)
        for path in sorted((HERE.parent.parent / "configs" / "attack_smollm2").glob("*.toml")):
            self.assertGreaterEqual(suite.load(path).num_samples, 50, path)


class RunTest(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.place.name)
        shutil.copy(HERE / "fake_attack_qalof.py", self.root / "qalof")
        (self.root / "qalof").chmod(0o755)
        (self.root / "s.toml").write_text(SUITE)
        rows = [("a g", 1), ("b g", 1), ("c h", 0), ("d h", 1), ("e g", 1), ("f h", 0)]
        for name in ("train.tsv", "test.tsv"):
            data.write_examples(self.root / name, rows)

    def tearDown(self):
        self.place.cleanup()

    def calls(self):
        path = self.root / "calls.txt"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def run_suite(self):
        arguments = argparse.Namespace(
            qalof=str(self.root / "qalof"),
            threads=1,
            jobs=2,
            output_dir=self.root / "out",
            num_samples=None,
            train_file=self.root / "train.tsv",
            test_file=self.root / "test.tsv",
        )
        arguments.output_dir.mkdir(exist_ok=True)
        found = suite.load(self.root / "s.toml")
        journal = Journal(arguments.output_dir / "journal.jsonl")

        class Made(models.Models):
            def start(self):  # without the tokenizers package
                return "key", self.work / "start"

        made = Made(found, arguments, journal, lambda text: None)
        failed = matrix.Matrix(found, made, arguments, journal, lambda text: None).run()
        return failed, report.Table(found, journal), arguments.output_dir

    def test_every_cell_is_scored_once_and_goes_on(self):
        failed, table, output = self.run_suite()
        self.assertEqual(failed, {})
        calls = self.calls()
        self.assertEqual(calls.count("train"), 3)
        self.assertEqual(calls.count("attack"), 2)
        # clean and two attacks, on two fixed defences and on one with three draws
        self.assertEqual(calls.count("eval"), 3 * (2 + 3))
        self.run_suite()
        self.assertEqual(self.calls(), [])
        texts = (output / "texts" / "w4.jsonl").read_text()
        (output / "texts" / "w4.jsonl").unlink()
        self.run_suite()
        self.assertEqual(self.calls(), ["attack"], "the same texts keep their scores")
        self.assertEqual((output / "texts" / "w4.jsonl").read_text(), texts)

    def test_cells_are_shares_with_their_draws(self):
        _, table, output = self.run_suite()
        cell = {
            (d.id, t): table.cell(d, t)
            for d in table.suite.defences
            for t in ("clean", "w4", "rpi")
        }
        self.assertAlmostEqual(cell["fp", "clean"]["share"], 5 / 6)
        self.assertEqual(cell["fp", "w4"]["share"], 3 / 4)
        self.assertEqual(cell["w4", "w4"]["share"], 1 / 4)  # all are class 0 there
        drawn = cell["rpi", "w4"]
        self.assertEqual((drawn["draws"], drawn["samples"]), (3, 4))
        # widths 4 and 8 by turns: texts 0 and 2 at one, 1 and 3 at the other
        self.assertAlmostEqual(drawn["share"], (1 / 2 + 1 / 2 + 1 / 2) / 3, delta=0.26)
        self.assertEqual(cell["fp", "clean"]["spread"], 0)
        report.write(table, output / "report.md", output)
        first = (output / "report.md").read_text()
        self.assertIn("| RPI | 83.3 [", first)
        self.assertIn("**25.0 [", first)
        report.write(table, output / "report.md", output)
        self.assertEqual((output / "report.md").read_text(), first, "replaced, not added")
        plot = json.loads((output / "attack_table.json").read_text())
        self.assertEqual(len(plot["cells"]), 9)
        names = [row["name"] for row in plot["comparisons"]]
        self.assertIn("RPI beside fixed 4, each under the attack on itself", names)

    def test_a_pretrained_model_by_the_command(self):
        (self.root / "p.toml").write_text(PRETRAINED)
        command = [
            sys.executable,
            str(TOOLS / "experiments" / "attack_results.py"),
            str(self.root / "p.toml"),
            "--train_file",
            str(self.root / "train.tsv"),
            "--test_file",
            str(self.root / "test.tsv"),
            "--output_dir",
            str(self.root / "out"),
            "--report",
            str(self.root / "report.md"),
            "--qalof",
            str(self.root / "qalof"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = self.calls()
        self.assertEqual(
            [calls.count(name) for name in ("train", "attack", "eval")], [2, 1, 2 * (1 + 5)]
        )
        lora, widths = (
            next((self.root / "out" / "work").glob(f"{name}-*")) for name in ("lora", "widths")
        )
        flags = json.loads((widths / "flags.json").read_text())
        self.assertEqual(flags[flags.index("--model_name_or_path") + 1], "m")
        self.assertEqual(flags[flags.index("--adapter") + 1], str(lora))
        self.assertNotIn("--adapter", json.loads((lora / "flags.json").read_text()))
        text = (self.root / "report.md").read_text()
        self.assertIn("<!-- p: begin", text)
        self.assertEqual(
            subprocess.run([*command, "--table_only"], capture_output=True).returncode, 0
        )
        self.assertEqual(self.calls(), [])
        self.assertEqual((self.root / "report.md").read_text(), text)
        (self.root / "p.toml").write_text(PRETRAINED + "[[defense]]\n")
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown key defense", done.stderr)

    def test_an_attack_that_fails_is_told_and_left_out(self):
        text = SUITE.replace("flags = {adaptive = true}", 'flags = {adversarial_steps = "fail"}')
        (self.root / "s.toml").write_text(text)
        failed, table, _ = self.run_suite()
        self.assertEqual(list(failed), ["attack rpi"])
        self.assertIn("no such thing", failed["attack rpi"])
        self.assertIsNotNone(table.cell(table.suite.defence("rpi"), "w4"))
        self.assertIsNone(table.cell(table.suite.defence("fp"), "rpi"))


if __name__ == "__main__":
    unittest.main()
