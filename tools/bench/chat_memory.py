#!/usr/bin/env python3
"""Measures that memory does not grow with a file of conversations.

    tools/bench/chat_memory.py --qalof build/release/qalof --model assets/nano/model --work out/mem
        [--megabytes 10 1000] [--train_flags ...]

Files of each size are made of assets/nano/data/chat_train.jsonl, in WORK, and kept. `qalof train`
makes a few steps and `qalof eval` scores a few conversations of each, once with a bad line at the
end that is skipped. Told are peak memory (VmHWM), seconds to the first line of standard error, and
seconds to the first step. Exit status 1 where the largest file needs more than 5 % beyond what the
smallest needs.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST = 1.05


def make(path, megabytes):
    """Lines that differ, so that nothing is learned of repetition, up to a size."""
    if path.exists():
        return
    lines = (ROOT / "assets/nano/data/chat_train.jsonl").read_text(encoding="utf-8").splitlines()
    temporary, written, number = path.with_suffix(".tmp"), 0, 0
    with temporary.open("w", encoding="utf-8") as file:
        while written < megabytes * 10**6:
            for line in lines:
                number += 1
                text = line.replace('"content":"', f'"content":"{number}. ', 1) + "\n"
                written += file.write(text)
        file.write("{broken\n")
    temporary.replace(path)


def run(command):
    """(peak kB, seconds to the first line, seconds to the first step or None, last lines)."""
    start = time.monotonic()
    first = step = None
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    tail = []
    for line in process.stderr:
        now = time.monotonic() - start
        first = now if first is None else first
        if step is None and "step 1 of" in line:
            step = now
        tail = [*tail[-5:], line.rstrip()]
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)}\n" + "\n".join(tail))
    return usage.ru_maxrss, first, step, tail, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", default="assets/nano/model")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--chat_template", default="plain")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--only", choices=["train", "eval"])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    common = ["--task", "chat", "--model_name_or_path", arguments.model, "--skip_bad_lines"]
    common += ["--max_seq_length", "256", "--threads", arguments.threads]
    if arguments.chat_template:
        common += ["--chat_template", arguments.chat_template]
    peaks = {}
    for megabytes in sorted(arguments.megabytes):
        data = arguments.work / f"chats_{megabytes}.jsonl"
        make(data, megabytes)
        train = [arguments.qalof, "train", "--method", "switch", "--max_steps", "3"]
        train += ["--per_device_train_batch_size", "8", "--logging_steps", "1", *common]
        train += ["--train_file", str(data), "--overwrite_output_dir"]
        train += ["--output_dir", str(arguments.work / "out")]
        score = [arguments.qalof, "eval", "--precision", "8", "--max_eval_samples", "64", *common]
        score += ["--validation_file", str(data)]
        for name, command in (("train", train), ("eval", score)):
            if arguments.only not in (None, name):
                continue
            peak, first, step, tail, whole = run(command)
            peaks.setdefault(name, []).append(peak)
            told = f", first step after {step:.1f} s" if step is not None else ""
            print(
                f"{name} {megabytes} MB: peak {peak / 1024:.1f} MiB, first line after "
                f"{first:.2f} s{told}, whole {whole:.1f} s",
                flush=True,
            )
    fits = True
    for name, found in peaks.items():
        ratio = found[-1] / found[0]
        fits = fits and ratio <= MOST
        print(f"{name}: the largest file needs {100 * (ratio - 1):+.1f} %")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
