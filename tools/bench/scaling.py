#!/usr/bin/env python3
"""Time of a step's exchange between machines, beside what bytes, rates and latencies explain of it.

Each process runs in a network namespace of its own, as on a machine of its own. The namespaces meet
in a bridge, and tc limits what each may send (tbf). bench/exchange_bench makes the exchanges of
training without its steps; latency is slept where messages are waited for, since not every kernel
can delay packets. The model of docs/scaling.md,

    (way^1.5 + network^1.5)^(2/3) + copies
    way = 2 (ranks - 1) / ranks * bytes / rate + 3 latency

has two numbers of this machine, fitted to all measurements: the processor's time to pass the bytes
of a process through the network's code, and to copy and add them. Both grow with the processes that
share a core. Needs root, iproute2, and a build with -DQALOF_BENCH=ON. Writes a JSON line for the
machine and for each measurement.

Usage: tools/bench/scaling.py [--numbers N] [--ranks 2 4 8] [--rates 100 1000 10000]
           [--latencies 0 0.1 1 10] [--repeats N] FILE
  --numbers    trained floats whose gradients are summed
  --rates      megabits a second
  --latencies  milliseconds, at the highest rate; 0 at every rate
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from shared.namespaces import address, machines  # noqa: E402

IDLE_MS = 200  # between exchanges, as a step's computation
LORA_R8_SMOLLM2 = 2_448_770
FRAME, PAYLOAD = 1514, 1448  # bytes of a full packet, and of ours in it


def measure(options, ranks, rate, latency):
    """Median of the seconds of an exchange."""
    words = [str(options.build / "exchange_bench"), str(options.numbers), str(options.repeats)]
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


def wire_seconds(row, size):
    ranks = row["ranks"]
    return 2 * (ranks - 1) / ranks * size * FRAME / PAYLOAD * 8 / (row["mbit"] * 1e6)


def predict(row, size, network, copies, cores):
    """Processes that share a core take turns on it. Bytes are on their way while others pass
    through the processor, but not all of the time: between the longer of both and their sum.
    """
    turns = max(1, row["ranks"] / cores)
    moved = 2 * (row["ranks"] - 1) / row["ranks"]
    way = wire_seconds(row, size) + 3 * row["latency_ms"] / 1000
    through = network * turns * moved
    return (way**1.5 + through**1.5) ** (2 / 3) + copies * turns


def fit(rows, size, cores):
    """The two times (network, copies) with the smallest greatest relative error."""

    def error(network, copies):
        return max(
            abs(predict(row, size, network, copies, cores) / row["seconds"] - 1) for row in rows
        )

    candidates = ((a / 2000, b / 2000) for a in range(1, 200) for b in range(100))
    return min(candidates, key=lambda found: error(*found))


def main():
    parser = argparse.ArgumentParser(usage=__doc__[__doc__.index("tools/bench/scaling") :])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--numbers", type=int, default=LORA_R8_SMOLLM2)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--latencies", type=float, nargs="+", default=[0, 0.1, 1, 10])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    options = parser.parse_args()
    size, cores = options.numbers * 4, len(os.sched_getaffinity(0))
    rows = []
    for ranks in options.ranks:
        for rate in options.rates:
            for latency in options.latencies if rate == max(options.rates) else [0]:
                row = {"ranks": ranks, "mbit": rate, "latency_ms": latency}
                row["seconds"] = round(measure(options, ranks, rate, latency), 5)
                rows.append(row)
                print(json.dumps(row), flush=True)
    network, copies = fit(rows, size, cores)
    for row in rows:
        row["predicted"] = round(predict(row, size, network, copies, cores), 5)
        row["error_percent"] = round(100 * (row["predicted"] / row["seconds"] - 1), 1)
    machine = {"bytes": size, "cores": cores, "network": network, "copies": copies}
    options.file.write_text("".join(json.dumps(row) + "\n" for row in [machine, *rows]))
    worst = max(abs(row["error_percent"]) for row in rows)
    print(f"network {network:.4f} s, copies {copies:.4f} s, largest error {worst:.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
