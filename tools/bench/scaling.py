#!/usr/bin/env python3
"""Time of a training step on several machines, beside what bytes and rates explain of it.

Each process runs in a network namespace of its own, as on a machine of its own. The namespaces meet
in a bridge, and tc limits what each may send. Measures steps at every rate and number of processes,
and compares the time of the exchange with

    2 (ranks - 1) / ranks * bytes / rate + fixed

where bytes are those of the trained gradients, and fixed is the time at the highest rate less what
the rate explains. Needs root, iproute2, and a build. Writes a JSON line a measurement.

Usage: tools/bench/scaling.py --model DIR [--ranks 2 4] [--rates 100 1000 10000] [--repeats N] FILE
  --rates  megabits a second
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BRIDGE = "qalof0"
WINDOWS, TOKENS = 8, 64  # of a step: little to compute, so that the exchange shows


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def machines(count, rate):
    """Namespaces 10.77.0.1 ... that send at most rate megabits a second."""
    names = [f"qalof-rank{rank}" for rank in range(count)]
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("link", "set", BRIDGE, "up")
        for rank, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"qalof-v{rank}", "type", "veth", "peer", "eth0", "netns", name)
            ip("link", "set", f"qalof-v{rank}", "master", BRIDGE, "up")
            inside = ["netns", "exec", name]
            ip(*inside, "ip", "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
            ip(*inside, "ip", "link", "set", "eth0", "up")
            ip(*inside, "ip", "link", "set", "lo", "up")
            limit = ["rate", f"{rate}mbit", "burst", f"{max(512, rate // 4)}kb", "latency", "200ms"]
            ip(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        ip("link", "del", BRIDGE)


def measure(options, ranks, rate):
    """Seconds of a step and of its exchange: medians over steps."""
    words = [str(options.build / "qalof-train"), "bench", "train", "--json", "--threads", "1"]
    words += ["--model_name_or_path", options.model, "--precision", "8", "--batch", str(WINDOWS)]
    words += ["--seq", str(TOKENS), "--repeats", str(options.repeats)]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    shared |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29501"}
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
    steps = json.loads(told[0][0])["steps"]
    exchange = sorted(step["exchange"] for step in steps)[len(steps) // 2]
    total = sorted(
        sum(step[part] for part in ("forward", "backward", "optimizer", "exchange"))
        for step in steps
    )
    return total[len(steps) // 2], exchange


def wire_seconds(ranks, rate, size):
    return 2 * (ranks - 1) / ranks * size * 8 / (rate * 1e6)


def main():
    parser = argparse.ArgumentParser(usage=__doc__[__doc__.index("tools/bench/scaling") :])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--bytes", type=int, required=True, help="of the trained gradients")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    options = parser.parse_args()
    rows = []
    for ranks in options.ranks:
        times = {rate: measure(options, ranks, rate) for rate in sorted(options.rates)}
        top = max(times)
        fixed = times[top][1] - wire_seconds(ranks, top, options.bytes)
        for rate, (step, exchange) in times.items():
            predicted = wire_seconds(ranks, rate, options.bytes) + fixed
            rows.append(
                {
                    "ranks": ranks,
                    "mbit": rate,
                    "step_seconds": round(step, 4),
                    "exchange_seconds": round(exchange, 4),
                    "predicted_exchange": round(predicted, 4),
                    "error_percent": round(100 * (predicted / exchange - 1), 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    options.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
