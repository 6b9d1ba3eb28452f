#!/usr/bin/env python3
"""Makes the models of a suite, attacks them, scores every attack's texts on every defence, writes
the table (docs/attack_results.md), and goes on where it stopped.

    tools/experiments/attack_results.py configs/attack_small/sst2.toml --train_file train.tsv
        --test_file dev.tsv

Needs the `tokenizers` package for the vocabulary. Exit status: 0 all ran, 1 otherwise, 2 a suite
that cannot be read.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from attack_lib import report  # noqa: E402
from attack_lib.matrix import Matrix  # noqa: E402
from attack_lib.models import Models  # noqa: E402
from attack_lib.suite import SuiteError, load  # noqa: E402
from results_lib.journal import Journal  # noqa: E402
from results_lib.runner import describe_machine  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=pathlib.Path)
    parser.add_argument(
        "--train_file", type=pathlib.Path, required=True, help="SST-2 TSV or AG News CSV"
    )
    parser.add_argument(
        "--test_file",
        type=pathlib.Path,
        required=True,
        help="what is classified and attacked, in its order",
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        help="default: results/ and the suite's directory and name",
    )
    parser.add_argument(
        "--report", type=pathlib.Path, default=pathlib.Path("docs/attack_results.md")
    )
    parser.add_argument("--stage", choices=["models", "clean", "all"], default="all")
    parser.add_argument("--targets", nargs="+", help="only these attacks")
    parser.add_argument("--num_samples", type=int, help="instead of the suite's")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--table_only", action="store_true", help="write the table of what has run")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    try:
        suite = load(arguments.suite)
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output_dir = (
        arguments.output_dir
        or pathlib.Path("results") / arguments.suite.resolve().parent.name / suite.name
    )
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    journal = Journal(arguments.output_dir / "journal.jsonl")
    failed = {}

    def say(text):
        print(text, flush=True)

    if not arguments.table_only:
        models = Models(suite, arguments, journal, say)
        try:
            for defence in suite.defences:
                models.of_defence(defence)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        if arguments.stage == "models":
            return 0
        failed = Matrix(suite, models, arguments, journal, say).run(
            arguments.targets, attacks=arguments.stage == "all"
        )
        journal.header = {
            "format_version": 1,
            "suite": suite.name,
            **describe_machine(arguments.qalof, arguments.jobs, arguments.threads, "cpu"),
        }
        journal.rewrite()
    report.write(report.Table(suite, journal), arguments.report, arguments.output_dir)
    print(f"{len(failed)} failed; {arguments.report}, {arguments.output_dir / 'attack_table.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
