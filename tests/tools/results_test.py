#!/usr/bin/env python3
"""Tests of tools/experiments/results.py: statistics, split, suites, journal, table, and a suite on
a stand-in for qalof.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import statistics as basic
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / "tools"
sys.path[:0] = [str(TOOLS / "experiments"), str(TOOLS)]
sys.dont_write_bytecode = True
from results_lib import ablation, journal, report, suite  # noqa: E402
from results_lib.runner import Runner, arguments_of  # noqa: E402
from shared import statistics  # noqa: E402


def squad(paragraphs, questions=2, prefix="q"):
    return {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "x",
                        "qas": [
                            {"id": f"{prefix}-{p}-{q}", "question": "?", "answers": []}
                            for q in range(questions)
                        ],
                    }
                    for p in range(paragraphs)
                ],
            }
        ],
    }


def ids(data):
    return [qa["id"] for a in data["data"] for p in a["paragraphs"] for qa in p["qas"]]


class BootstrapTest(unittest.TestCase):
    def test_standard_error_is_that_of_a_mean(self):
        stream = random.Random(1)
        gaps = [stream.gauss(1, 10) for _ in range(400)]
        found = statistics.Bootstrap(400, 1).difference([gaps], [[0] * 400])
        self.assertAlmostEqual(found["mean"], basic.fmean(gaps))
        error = basic.pstdev(gaps) / 20
        # 2000 draws know a standard deviation to 1 / sqrt(2 * 2000) = 1.6 %; four times that.
        self.assertAlmostEqual(found["standard_error"], error, delta=0.065 * error)
        self.assertAlmostEqual(found["high"] - found["low"], 3.92 * error, delta=0.4 * error)

    def test_pairs_cancel_what_both_have_in_common(self):
        stream = random.Random(2)
        hard = [[100 * stream.random() for _ in range(50)] for _ in range(3)]
        better = [[value + 1 for value in row] for row in hard]
        found = statistics.Bootstrap(50, 3).difference(better, hard)
        self.assertAlmostEqual(found["mean"], 1)
        self.assertLess(found["standard_error"], 1e-9)

    def test_seeds_are_drawn_too(self):
        # Every question agrees; only the seeds differ: the spread of a mean of three, sqrt(2 / 3 /
        # 3).
        found = statistics.Bootstrap(40, 3).difference(
            [[v] * 40 for v in (0, 1, 2)], [[0] * 40] * 3
        )
        self.assertAlmostEqual(found["standard_error"], (2 / 9) ** 0.5, delta=0.03)

    def test_is_the_same_every_time(self):
        rows = [[float(i % 3) for i in range(30)], [float(i % 2) for i in range(30)]]
        first, second = (statistics.Bootstrap(30, 2).difference(rows, rows[::-1]) for _ in range(2))
        self.assertEqual(first, second)

    def test_unpaired_scores_are_refused(self):
        with self.assertRaises(ValueError):
            statistics.Bootstrap(3, 1).difference([[1, 2, 3]], [[1, 2]])


class ChoiceTest(unittest.TestCase):
    def test_highest_mean_wins_and_the_first_of_equals(self):
        self.assertEqual(suite.choose_rate({0.1: [1, 2], 0.2: [2, 2], 0.3: [4, 0]}), 0.2)

    def test_deviation_is_relative_both_ways(self):
        self.assertAlmostEqual(suite.deviation(98, 100), suite.deviation(102, 100))


class SplitTest(unittest.TestCase):
    def test_parts_are_disjoint_whole_and_about_the_share(self):
        data = squad(1000)
        rest, held = suite.split_squad(data, 0.1)
        self.assertEqual(sorted(ids(rest) + ids(held)), sorted(ids(data)))
        self.assertFalse(
            {i.rsplit("-", 1)[0] for i in ids(rest)} & {i.rsplit("-", 1)[0] for i in ids(held)}
        )
        self.assertTrue(
            140 < len(ids(held)) < 260, len(ids(held))
        )  # 200 and four standard deviations of 13

    def test_other_paragraphs_do_not_move_one(self):
        part = set(ids(suite.split_squad(squad(50), 0.3)[1]))
        self.assertEqual(
            part,
            {i for i in ids(suite.split_squad(squad(80), 0.3)[1]) if int(i.split("-")[1]) < 50},
        )


class JournalTest(unittest.TestCase):
    def test_many_different_scores_come_back(self):
        scores = [(float(n % 2), n / 7) for n in range(60) for _ in range(1 + n % 3)]
        coded = journal.encode_scores(scores)
        self.assertEqual(len(coded["values"]), 60)
        self.assertEqual(journal.decode_scores(coded), [(em, round(f1, 4)) for em, f1 in scores])
        with self.assertRaisesRegex(ValueError, "2705 different"):
            journal.encode_scores([(0.0, float(n)) for n in range(2705)])

    def test_scores_come_back(self):
        scores = [(100.0, 100.0)] * 1500 + [
            (0.0, 66.6667),
            (0.0, 0.0),
            (0.0, 0.0),
            (100.0, 100.0),
            (0.0, 100.0),
        ]
        coded = journal.encode_scores(scores)
        self.assertEqual(journal.decode_scores(coded), scores)
        self.assertLess(len(coded["runs"]), 20)

    def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_is_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "scores.jsonl"
            path.write_text('{"key": "a", "row": "x"}\n{"key": "b", "ro')
            journal.Journal(path).add({"key": "c", "row": "y"})
            self.assertEqual(list(journal.Journal(path).lines), ["a", "c"])


class SuiteTest(unittest.TestCase):
    def test_arguments(self):
        self.assertEqual(
            arguments_of({"method": "joint", "bit_widths": [8, 4], "bf16": True, "x": False}),
            ["--method", "joint", "--bit_widths", "8", "4", "--bf16"],
        )

    def test_shipped_suites_load(self):
        configs = HERE.parent.parent / "configs"
        for path in sorted([*configs.glob("*nano*"), *configs.glob("chat_*")]):
            with self.subTest(path=path.name):
                loaded = suite.load(path)
                for check in loaded.checks:
                    for name in report.names_of(check):
                        row, evaluation = report.split_name(name)
                        self.assertIn(evaluation, [e.id for e in loaded.row(row).evaluations])

    def test_widths_share_the_budget(self):
        loaded = suite.load(HERE / "data" / "suite")
        self.assertEqual(
            [loaded.max_steps(loaded.row(name)) for name in ("lora", "joint")], [40, 20]
        )

    def test_a_row_stands_behind_those_it_needs(self):
        with tempfile.TemporaryDirectory() as folder:
            for source in (HERE / "data" / "suite").iterdir():
                name = source.name.replace("10-lora", "40-lora")
                (pathlib.Path(folder) / name).write_text(source.read_text())
            with self.assertRaisesRegex(suite.SuiteError, "row packed needs lora"):
                suite.load(folder)

    def test_unknown_keys_are_errors(self):
        with self.assertRaisesRegex(suite.SuiteError, "unknown key trian"):
            suite.make_row({"id": "x", "trian": {}}, [1], "x.toml")

    def test_ablation_makes_each_option_alone_and_in_the_best(self):
        option = {"kind": "k", "text": "t", "why": "w"}
        rows = {
            row["id"]: row["train"]
            for row in ablation.rows(
                {
                    "base": {"method": "joint"},
                    "option": [
                        {**option, "id": "mse", "scheme": "mse", "kept": True},
                        {
                            **option,
                            "id": "g64",
                            "scheme": "g64+ag64",
                            "kept": True,
                            "without": "g128",
                        },
                        {
                            **option,
                            "id": "g32",
                            "scheme": "g32+ag32",
                            "train": {"lora_r": 4},
                            "kept": False,
                        },
                    ],
                },
                "x",
            )
        }
        self.assertEqual(rows["best"]["scheme"], "mse+g64+ag64")
        self.assertNotIn("scheme", rows["base"])
        self.assertEqual(rows["alone-g32"], {"method": "joint", "lora_r": 4, "scheme": "g32+ag32"})
        self.assertEqual(rows["without-mse"]["scheme"], "g64+ag64")
        self.assertEqual(rows["without-g64"]["scheme"], "g128")
        self.assertEqual(rows["with-g32"]["scheme"], "mse+g32+ag32")

    def test_ablation_of_what_is_not_trained(self):
        option = {"kind": "k", "text": "t", "why": "w", "id": "mse", "scheme": "mse", "kept": True}
        rows = {row["id"]: row for row in ablation.rows({"from": "lora", "option": [option]}, "x")}
        self.assertEqual(
            rows["alone-mse"],
            {
                "id": "alone-mse",
                "name": "t",
                "from": "lora",
                "eval": [{"id": "4", "precision": "4", "scheme": "mse"}],
            },
        )
        self.assertEqual(rows["base"]["eval"], [{"id": "4", "precision": "4"}])
        for bad, says in (
            ({"option": [option]}, "either base or from"),
            (
                {"from": "lora", "option": [{**option, "train": {"lora_r": 4}}]},
                "nothing is trained",
            ),
        ):
            with self.assertRaisesRegex(suite.SuiteError, says):
                ablation.rows(bad, "x")


class RunnerTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        root = pathlib.Path(self.folder.name)
        self.output, self.calls = root / "out", root / "calls"
        os.environ["CALLS"] = str(self.calls)
        os.environ.pop("FAIL", None)
        (root / "model").mkdir()
        (root / "model" / "config.json").write_text("{}")
        for name, data in (("train", squad(40)), ("validation", squad(10, prefix="v"))):
            (root / f"{name}.json").write_text(json.dumps(data))
        self.suite = suite.load(HERE / "data" / "suite")
        self.suite.model = str(root / "model")
        self.suite.train_file, self.suite.validation_file = (
            str(root / "train.json"),
            str(root / "validation.json"),
        )

    def run_suite(self, seeds=(1, 2)):
        self.calls.write_text("")
        runner = Runner(
            self.suite, self.output, str(HERE / "fake_qalof.py"), 4, 1, lambda text: None
        )
        failed = runner.run(self.suite.rows, list(seeds))
        results = report.Results(
            self.suite, journal.Journal(self.output / "scores.jsonl"), runner.used
        )
        return failed, self.calls.read_text().splitlines(), results

    def test_a_suite_runs_once_and_a_lost_line_alone_is_run_again(self):
        failed, calls, results = self.run_suite()
        self.assertEqual(failed, {})
        # lora and joint: two rates and two seeds; the packed row and its calibration cost no
        # training.
        self.assertEqual(sum(call.startswith("train ") for call in calls), 8)
        self.assertEqual(sum(call.startswith("quantize ") for call in calls), 2)
        self.assertEqual({line["rate"] for line in results.cells["lora", "32"].values()}, {0.02})
        self.assertTrue(
            all(passed for passed, _ in report.run_checks(results)), report.run_checks(results)
        )
        teacher = [call for call in calls if "--teacher" in call and "final" in call]
        self.assertEqual(len(teacher), 2)
        for call in teacher:
            seed = call.split("--seed ")[1].split()[0]
            self.assertIn(f"work/lora-final-{seed}-", call.split("--teacher ")[1].split()[0])
        self.assertEqual(self.run_suite()[1], [])
        path = self.output / "scores.jsonl"
        lines = path.read_text().splitlines()
        path.write_text(
            "\n".join(
                line for line in lines if '"eval": "8"' not in line or '"seed": 2' not in line
            )
            + "\n"
        )
        self.assertEqual([call.split()[0] for call in self.run_suite()[1]], ["eval"])

    def run_shard(self, number, count):
        runner = Runner(
            self.suite,
            self.output,
            str(HERE / "fake_qalof.py"),
            4,
            1,
            lambda text: None,
            shard=(number, count),
        )
        return runner.run(self.suite.rows, [1, 2])

    def test_shards_share_the_work_and_the_table_needs_no_more(self):
        self.run_suite()
        whole = report.Results(self.suite, journal.Journal(self.output / "scores.jsonl"), None)
        shutil.rmtree(self.output)
        self.calls.write_text("")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            failed = list(pool.map(lambda number: self.run_shard(number, 3), [1, 2, 3]))
        self.assertEqual(failed, [{}, {}, {}])
        calls = self.calls.read_text().splitlines()
        self.assertEqual(sum(call.startswith("train ") for call in calls), 8)
        self.assertEqual(sum(call.startswith("quantize ") for call in calls), 2)
        self.assertFalse((self.output / "scores.jsonl").exists())
        self.assertTrue((self.output / "scores-2-of-3.jsonl").exists())
        failed, calls, merged = self.run_suite()
        self.assertEqual((failed, calls), ({}, []))
        self.assertEqual(merged.cells, whole.cells)
        self.assertGreater(len(merged.cells), 3)

    def test_files_are_whole_whoever_else_writes_them(self):
        path = pathlib.Path(self.folder.name) / "whole" / "rest.json"
        path.parent.mkdir()
        texts = [str(number) * 10_000 for number in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(20):
                list(pool.map(lambda text: journal.write_whole(path, text), texts))
        self.assertIn(path.read_text(), texts)
        self.assertEqual([entry.name for entry in path.parent.iterdir()], [path.name])

    def test_held_out_questions_are_not_trained_on_and_validation_is_not_chosen_by(self):
        calls = self.run_suite()[1]
        for call in calls:
            if "-choice-" in call and not call.startswith("quantize"):
                self.assertNotIn("validation.json", call)
                self.assertIn("rest.json" if call.startswith("train ") else "held_out.json", call)

    def test_questions_of_their_own_choose_and_the_chosen_run_is_the_final_one(self):
        choice = self.output.parent / "choice.json"
        choice.write_text(json.dumps(squad(12, prefix="c")))
        self.suite.choice_file = str(choice)
        failed, calls, results = self.run_suite()
        self.assertEqual(failed, {})
        # lora and joint: two rates with seed 1, of which one is the table's, and the other seed.
        self.assertEqual(sum(call.startswith("train ") for call in calls), 6)
        self.assertTrue(all("train.json" in call for call in calls if call.startswith("train ")))
        self.assertEqual({line["rate"] for line in results.trains["lora"].values()}, {0.02})
        self.assertTrue(
            all(passed for passed, _ in report.run_checks(results)), report.run_checks(results)
        )
        for call in calls:
            if "-choice-" in call and call.startswith("eval"):
                self.assertIn("choice.json", call)
        self.assertIn(
            str(choice), report.suite_text(results, report.summarize(results), [], "", "")
        )
        self.assertEqual(self.run_suite()[1], [])

    def test_conversations_are_counted_by_line(self):
        root = self.output.parent
        for name, count in (("train", 40), ("validation", 10), ("choice", 5)):
            (root / f"{name}.jsonl").write_text('{"text": "x"}\n' * count)
        self.suite.task, self.suite.choice_file = "chat", str(root / "choice.jsonl")
        self.suite.train_file = str(root / "train.jsonl")
        self.suite.validation_file = str(root / "validation.jsonl")
        failed, calls, results = self.run_suite()
        self.assertEqual(failed, {})
        self.assertEqual(results.questions, 10)
        self.assertEqual(results.scores("lora@32", 1)[:2], [(100.0, 100.0)] * 2)
        trained = [call for call in calls if call.startswith(("train ", "eval "))]
        self.assertTrue(all("--task chat" in call for call in trained))
        self.assertEqual(self.run_suite()[1], [])

    def test_the_table_may_have_a_budget_in_tokens_and_the_choice_one_in_steps(self):
        choice = self.output.parent / "choice.json"
        choice.write_text(json.dumps(squad(12, prefix="c")))
        self.suite.choice_file, self.suite.tokens = str(choice), 60000
        failed, calls, results = self.run_suite()
        self.assertEqual(failed, {})
        trainings = [call for call in calls if call.startswith("train ")]
        for stage, budgets in (
            ("choice", {"--max_steps 40", "--max_steps 20"}),
            ("final", {"--max_tokens 60000"}),
        ):
            mine = [call for call in trainings if f"-{stage}-" in call.split("--output_dir ")[1]]
            self.assertEqual({re.search(r"--max_\w+s \d+", call)[0] for call in mine}, budgets)
            self.assertEqual(len(mine), 4)  # two rates, and two seeds
        for row in ("lora", "joint"):
            self.assertEqual({line["tokens"] for line in results.trains[row].values()}, {60000})
        self.assertTrue(
            all(passed for passed, _ in report.run_checks(results)), report.run_checks(results)
        )
        self.assertIn(
            "60,000 tokens", report.suite_text(results, report.summarize(results), [], "", "")
        )
        # What others start from keeps its steps, and the run of the best rate is the table's.
        self.suite.row("lora").steps = 80
        calls = [
            call
            for call in self.run_suite()[1]
            if call.startswith("train ") and "--method lora" in call
        ]
        self.assertEqual(len(calls), 3)
        self.assertTrue(all("--max_steps 80" in call and "-final-" in call for call in calls))

    def test_phases_share_a_budget_in_tokens(self):
        loaded = suite.load(HERE / "data" / "suite")
        loaded.tokens = 60000
        row = loaded.row("joint")
        self.assertEqual(loaded.budget(row, "final"), {"max_tokens": 60000})
        row.train["method"] = "switch"
        self.assertEqual(loaded.budget(row, "final"), {"max_tokens": 30000})

    def test_a_run_that_fails_leaves_the_others(self):
        os.environ["FAIL"] = "joint"
        failed, _, results = self.run_suite()
        self.assertEqual(len(failed), 4)
        self.assertIn("told to fail", next(iter(failed.values())))
        self.assertTrue(results.complete("lora@32"))
        self.assertFalse(all(passed for passed, _ in report.run_checks(results)))
        del os.environ["FAIL"]
        failed, calls, _ = self.run_suite()
        self.assertEqual((failed, sum("--method lora" in call for call in calls)), ({}, 0))

    def test_other_steps_are_other_runs(self):
        self.run_suite()
        self.suite.steps = 20
        self.assertEqual(sum(call.startswith("train ") for call in self.run_suite()[1]), 8)

    def test_unequal_student_tokens_fail(self):
        self.suite.row("joint").passes = 1
        checks = report.run_checks(self.run_suite()[2])
        self.assertFalse(checks[0][0])
        self.assertIn("100.00 %", checks[0][1])


class TableTest(unittest.TestCase):
    def results(self):
        return report.Results(
            suite.load(HERE / "data" / "suite"), journal.Journal(HERE / "data" / "scores.jsonl")
        )

    def test_rows_of_fewer_seeds_count_where_the_suite_says_so(self):
        results = self.results()
        whole = results.difference("joint@4", "lora@32")
        del results.cells["joint", "4"][results.seeds[0]]
        self.assertFalse(results.complete("joint@4"))
        results.suite.every_seed = False
        self.assertTrue(results.complete("joint@4"))
        self.assertNotEqual(results.difference("joint@4", "lora@32"), whole)
        self.assertIn(
            f"({len(results.seeds) - 1} seed", report.table_text(report.summarize(results))
        )

    def test_recovery_is_over_the_seeds_that_all_three_have(self):
        results = self.results()
        check = next(check for check in results.suite.checks if check["kind"] == "recovery")
        names = [check[key] for key in ("row", "lost", "reference")]
        first = results.seeds[0]
        for seed in results.seeds[1:]:
            del results.cells[report.split_name(check["row"])][seed]
        best, lost, whole = (results.cells[report.split_name(name)][first]["f1"] for name in names)
        results.cells[report.split_name(check["reference"])][results.seeds[1]]["f1"] += 50
        self.assertIn(
            f"{100 * (best - lost) / (whole - lost):.1f} %",
            report.check_recovery(results, check)[1],
        )
        del results.cells[report.split_name(check["lost"])][first]
        self.assertFalse(report.check_recovery(results, check)[0])

    def test_no_rate_is_chosen_before_all_are_scored(self):
        results = self.results()
        row = next(
            row
            for row in results.suite.rows
            if row.train is not None and len(results.choices.get(row.id, {})) > 1
        )
        whole = next(line for line in report.choices_text(results).splitlines() if row.name in line)
        results.choices[row.id][row.learning_rates[-1]].pop()
        cut = next(line for line in report.choices_text(results).splitlines() if row.name in line)
        self.assertNotEqual(whole.split("|")[-2].strip(), "")
        self.assertEqual(cut.split("|")[-2].strip(), "")

    def test_an_interval_suffices_only_where_the_suite_says_so(self):
        results = self.results()
        gap = results.difference("joint@4", "lora@32")
        check = {"row": "joint@4", "than": "lora@32", "at_least": gap["high"]}
        self.assertGreater(gap["high"], gap["mean"])
        self.assertFalse(report.check_difference(results, check)[0])
        self.assertTrue(report.check_difference(results, {**check, "or_interval": True})[0])
        self.assertFalse(
            report.check_difference(
                results, {**check, "at_least": gap["high"] + 1, "or_interval": True}
            )[0]
        )

    def test_tokens_of_a_row_that_others_start_from_are_not_compared(self):
        results = self.results()
        for line in results.trains["lora"].values():
            line["tokens"] *= 2
        self.assertFalse(report.check_tokens(results)[0])
        results.suite.row("lora").steps = 2 * results.suite.steps
        self.assertTrue(report.check_tokens(results)[0])

    def test_table_of_the_fixture(self):
        """QALOF_WRITE_EXPECTED=1 writes the file anew; read what changed before committing it."""
        results = report.Results(
            suite.load(HERE / "data" / "suite"), journal.Journal(HERE / "data" / "scores.jsonl")
        )
        with tempfile.TemporaryDirectory() as folder:
            written = pathlib.Path(folder) / "table.md"
            report.write(
                results, written, pathlib.Path(folder) / "table.json", "A machine.", "1 thread"
            )
            expected = HERE / "data" / "table.md"
            if os.environ.get("QALOF_WRITE_EXPECTED"):
                expected.write_text(written.read_text(encoding="utf-8"), encoding="utf-8")
            self.assertEqual(
                written.read_text(encoding="utf-8"), expected.read_text(encoding="utf-8")
            )
            table = json.loads((pathlib.Path(folder) / "table.json").read_text())
        by_name = {row["row"]: row for row in table["rows"]}
        self.assertEqual(by_name["joint@4"]["f1"], 85.0)
        self.assertAlmostEqual(by_name["joint@4"]["gap"]["mean"], -15.0)
        self.assertEqual([check["passed"] for check in table["checks"]], [True, True, False, True])

    def test_a_missing_seed_fails_its_checks(self):
        loaded = journal.Journal(HERE / "data" / "scores.jsonl")
        loaded.lines = {
            key: line
            for key, line in loaded.lines.items()
            if (line["row"], line["seed"], line.get("eval")) != ("joint", 2, "8")
        }
        checks = report.run_checks(report.Results(suite.load(HERE / "data" / "suite"), loaded))
        self.assertIn("not run: joint@8", checks[1][1])


if __name__ == "__main__":
    unittest.main()
