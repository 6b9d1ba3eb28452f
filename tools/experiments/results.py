#!/usr/bin/env python3
"""Trains and scores the rows of a suite, goes on where it stopped, and writes its table
(docs/experiments.md).

    tools/experiments/results.py configs/nano --output_dir results/nano --seeds 1 2 3 --jobs 2
        --threads 1

Exit status: 0 all ran and every check passed, 1 otherwise, 2 a suite that cannot be read, 130
stopped.
"""

import argparse
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from results_lib import report  # noqa: E402
from results_lib.journal import Journal  # noqa: E402
from results_lib.runner import Runner, describe_machine  # noqa: E402
from results_lib.suite import SuiteError, load  # noqa: E402


def shard_of(text):
    """ "2/8" as (2, 8)."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"found {text}, expected I/N with 1 <= I <= N, e.g. 2/8")
    return int(number), int(count)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="directory with suite.toml and a file per row, or one file")
    parser.add_argument(
        "--output_dir", type=pathlib.Path, help="default: results/NAME of the suite"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", help="only these, and what they start from")
    parser.add_argument(
        "--shard",
        type=shard_of,
        metavar="I/N",
        help="of N calls that share the work and a disk, this is number I, from 1; the same "
        "command without it then writes the table",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of training")
    parser.add_argument(
        "--steps",
        type=int,
        help="instead of the suite's, to try it out; the journal keeps both apart",
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument(
        "--report",
        type=pathlib.Path,
        help="instead of the suite's; the table in JSON is OUTPUT_DIR/table.json",
    )
    parser.add_argument(
        "--table_only", action="store_true", help="write the tables of what has run"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed, keys = {}, None
    try:
        suite = load(arguments.suite)
        if arguments.steps:
            suite.steps, suite.tokens = arguments.steps, None
        output = arguments.output_dir or pathlib.Path("results") / suite.name
        output.mkdir(parents=True, exist_ok=True)
        if not arguments.table_only:
            runner = Runner(
                suite,
                output,
                arguments.qalof,
                arguments.jobs,
                arguments.threads,
                lambda text: print(text, flush=True),
                arguments.device,
                arguments.shard,
            )
            rows = (
                suite.rows
                if arguments.rows is None
                else [suite.row(name) for name in arguments.rows]
            )
            failed = runner.run(rows, arguments.seeds)
            if arguments.shard is not None:
                print(f"{len(failed)} failed; {runner.journal.path}")
                return 1 if failed else 0
            runner.journal.header.update(
                describe_machine(
                    arguments.qalof, arguments.jobs, arguments.threads, arguments.device
                )
            )
            runner.journal.rewrite()
            keys = runner.used
        journal = Journal(output / "scores.jsonl")
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    results = report.Results(suite, journal, keys)
    markdown = arguments.report or pathlib.Path(suite.report)
    checks = report.write(
        results,
        markdown,
        output / "table.json",
        journal.header.get("machine", ""),
        journal.header.get("threads", ""),
    )
    for passed, text in checks:
        print(f"{'pass' if passed else 'FAIL'}: {text}")
    print(f"{len(failed)} failed; {markdown}, {output / 'table.json'}")
    return 1 if failed or not all(passed for passed, _ in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
