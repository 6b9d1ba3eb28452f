#!/usr/bin/env python3
"""Time of a step's exchange between machines, beside what bytes, rates and latencies explain of it.

Each process runs in a network namespace of its own, as on a machine of its own. The namespaces meet
in a bridge, and tc limits what each may send (tbf). bench/exchange_bench makes the exchanges of
training without its steps; latency is slept where messages are waited for, since not every kernel
can delay packets.

Everything is measured once in each round, and what counts is the median over rounds: on a shared
machine one sitting differs from the next. The model of docs/scaling.md,

    max(way, free / 2) + free / 2 + 3 latency        way = 2 (ranks - 1) / ranks * bytes / rate

has one number of this machine, measured in the same rounds: `free`, an exchange of as many
processes without a limit, which is the processor's time. That half of it passes while bytes are on
their way was read off the measurements; nothing else is fitted. A round also measures an exchange
without bytes (`empty`).

Measurements are JSON lines in FILE; the same command goes on where it was stopped, and prints the
tables of docs/scaling.md in the end. Needs root, iproute2, and a build with -DQALOF_BENCH=ON.

Usage: tools/bench/scaling.py [--numbers N] [--ranks 2 4 8] [--rates 100 1000 10000]
           [--latencies 0 0.1 1 10] [--repeats N] [--rounds N] [--at_most SECONDS]
           [--step SECONDS] FILE
  --numbers    trained floats whose gradients are summed
  --rates      megabits a second
  --latencies  milliseconds, at the highest rate; 0 at every rate
  --at_most    begin no measurement after so many seconds
  --step       computation of a step, in the table of efficiencies
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from shared.namespaces import address, machines  # noqa: E402

IDLE_MS = 200  # between exchanges, as a step's computation
LORA_R8_SMOLLM2 = 2_448_770
FRAME, PAYLOAD = 1514, 1448  # bytes of a full packet, and of ours in it


def exchange(options, ranks, numbers, rate, latency):
    """Median of the seconds of an exchange."""
    repeats = options.repeats if rate != min(options.rates) else max(3, options.repeats // 2)
    words = [str(options.build / "exchange_bench"), str(numbers), str(repeats)]
    words += [str(IDLE_MS), str(latency)]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    shared |= {"MASTER_ADDR": address(0), "MASTER_PORT": "29501"}
    with machines(ranks, rate) as names:
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *words],
                env={**os.environ, **shared, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        told = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"scaling: {ranks} ranks at {rate} Mbit/s: {[error for _, error in told]}")
    return statistics.median(json.loads(told[0][0])["seconds"])


def things(options):
    """What a round measures: names and arguments."""
    for ranks in options.ranks:
        yield {"ranks": ranks, "empty": 1}
        yield {"ranks": ranks, "free": options.numbers}
        for rate in options.rates:
            for latency in options.latencies if rate == max(options.rates) else [0]:
                yield {"ranks": ranks, "mbit": rate, "latency_ms": latency}


def measure(options, thing):
    numbers = thing.get("empty", options.numbers)
    rate, latency = thing.get("mbit"), thing.get("latency_ms", 0)
    return exchange(options, thing["ranks"], numbers, rate, latency)


def measure_rounds(options):
    """Every measurement as (thing, round): seconds. None where time ran out."""
    known = {}
    if options.file.exists():
        for line in options.file.read_text().splitlines():
            row = json.loads(line)
            seconds, number = row.pop("seconds"), row.pop("round")
            known[json.dumps(row), number] = seconds
    start = time.monotonic()
    for number in range(options.rounds):
        for thing in things(options):
            key = json.dumps(thing), number
            if key in known:
                continue
            if options.at_most is not None and time.monotonic() - start > options.at_most:
                return None
            known[key] = round(measure(options, thing), 6)
            line = json.dumps({**thing, "round": number, "seconds": known[key]})
            with options.file.open("a") as file:
                print(line, file=file)
            print(line, flush=True)
    return known


def predict(size, free, ranks, mbit, latency_ms):
    """Half of the processor's time passes while bytes are on their way."""
    way = 2 * (ranks - 1) / ranks * size * FRAME / PAYLOAD * 8 / (mbit * 1e6)
    return max(way, free / 2) + free / 2 + 3 * latency_ms / 1000


def print_table(titles, rows):
    for row in [titles, ["---"] * len(titles), *rows]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def report(options, known):
    size, over_rounds = options.numbers * 4, {}
    for thing in things(options):
        key = json.dumps(thing)
        over_rounds[key] = [known[key, number] for number in range(options.rounds)]
    median = {key: statistics.median(seconds) for key, seconds in over_rounds.items()}
    free = {n: median[json.dumps({"ranks": n, "free": options.numbers})] for n in options.ranks}
    empty = {n: median[json.dumps({"ranks": n, "empty": 1})] for n in options.ranks}
    print_table(
        ["processes", "exchange without a limit s", "without bytes ms"],
        [[n, f"{free[n]:.3f}", f"{1000 * empty[n]:.1f}"] for n in options.ranks],
    )
    rows, errors = [], []
    for thing in things(options):
        if "mbit" not in thing:
            continue
        seconds = over_rounds[json.dumps(thing)]
        found = median[json.dumps(thing)]
        ranks, mbit, latency = thing["ranks"], thing["mbit"], thing["latency_ms"]
        model = predict(size, free[ranks], ranks, mbit, latency)
        errors.append(100 * (model / found - 1))
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        rows.append([ranks, mbit, latency, f"{found:.3f}", spread, f"{model:.3f}"])
        rows[-1].append(f"{errors[-1]:+.1f} %")
    titles = ["processes", "Mbit/s", "latency ms", "measured s", "rounds", "model s", "error"]
    print_table(titles, rows)
    print(f"largest error {max(errors, key=abs):+.1f} %")
    rows = []
    for ranks in (8, 16, 64, 256, 512):
        # Two processes have a core each; more bytes pass through it with more of them.
        own = free[2] * 2 * (ranks - 1) / ranks
        slow, fast = (predict(size, own, ranks, mbit, 0.1) for mbit in (1000, 10000))
        efficiency = 100 * options.step / (options.step + fast)
        rows.append([ranks, f"{slow:.3f} s", f"{fast:.3f} s", f"{efficiency:.1f} %"])
    titles = ["processes, each on a machine", "1 Gbit/s", "10 Gbit/s", "efficiency at 10 Gbit/s"]
    print_table(titles, rows)


def main():
    parser = argparse.ArgumentParser(usage=__doc__[__doc__.index("tools/bench/scaling") :])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--numbers", type=int, default=LORA_R8_SMOLLM2)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--latencies", type=float, nargs="+", default=[0, 0.1, 1, 10])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at_most", type=float)
    parser.add_argument("--step", type=float, default=8.2)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    options = parser.parse_args()
    known = measure_rounds(options)
    if known is None:
        print("scaling: more is left to measure; the same command goes on")
        return 1
    report(options, known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
