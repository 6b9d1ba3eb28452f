#!/usr/bin/env python3
"""Load against the time to the first token, with elastic precision and without it.

  tools/bench/serve_elastic.py --qalof build/release/qalof --model smollm2 --elastic 8,w4a8kv4
      [--flags '--kv_cache_mb 6'] [--seconds 8] [--result results/serve_elastic.json]
      [--write docs/serving.md --picture docs/images/serve_elastic.svg]

Capacity is what clients that never pause get at the first of the precisions, in requests per
second. Then requests come at random times at multiples of it (--loads) for --seconds each, the same
ones with --elastic and without; at the last multiple, the load is 0.4 of the capacity for as long
before, and twice as long after. A line of the table is the p95 of the time to the first token of
the requests that came in that time, and the precisions that they ran at. Needs Python's standard
library.
"""

import argparse
import collections
import json
import math
import pathlib
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from serve_load import Load, parse, percentile  # noqa: E402

from shared.adapters import service  # noqa: E402
from shared.documents import write_section  # noqa: E402

BEGIN, END = (
    "<!-- elastic: written by tools/bench/serve_elastic.py -->",
    "<!-- elastic: end -->",
)
CALM = 0.4
COLOURS = {"fixed": "#cc3311", "elastic": "#228833"}


def level(url):
    with urllib.request.urlopen(url + "/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith("qalof_elastic_level "):
                return int(line.split()[1])
    return 0


def wait_for_level_0(url):
    begin = time.monotonic()
    while level(url) > 0:
        time.sleep(0.05)
    return time.monotonic() - begin


class Bench:
    def __init__(self, options, url):
        self.options, self.url = options, url

    def load(self, *flags):
        size = ["--prompt_tokens", str(self.options.prompt_tokens)]
        size += ["--max_tokens", str(self.options.max_tokens)]
        load = Load(parse(["--url", self.url, *size, *flags]))
        load.run()
        return load

    def capacity(self):
        # Every width is ready before anything is measured.
        for precision in self.options.elastic:
            self.load("--seconds", "0.1", "--precisions", precision)
        seconds = ["--seconds", str(self.options.seconds)]
        load = self.load("--clients", "16", *seconds, "--precisions", self.options.elastic[0])
        return len(load.done) / max(one["end"] for one in load.done)

    def step(self, rate, factor, is_last):
        """Requests at factor times the rate; what came in that time, and when level 0 was back."""
        length = self.options.seconds
        steps = [CALM, factor, CALM, CALM] if is_last else [factor]
        begin = length if is_last else 0
        back = []
        is_over = threading.Event()

        def watch():
            start = time.monotonic()
            while not is_over.wait(0.1):
                at = time.monotonic() - start - begin - length
                if at > 0 and not back and level(self.url) == 0:
                    back.append(at)

        watcher = threading.Thread(target=watch)
        watcher.start()
        load = self.load(
            *("--rate", str(rate), "--steps", ",".join(map(str, steps))),
            *("--seconds", str(length * len(steps)), "--seed", "7"),
        )
        is_over.set()
        watcher.join()
        came = [one for one in load.done if begin <= one["begin"] < begin + length]
        first = [one["times"][0] for one in came if one["times"]]
        result = {
            "load": factor,
            "requests": len(came),
            "statuses": dict(load.statuses),
            "ttft_p50": percentile(first, 0.5),
            "ttft_p95": percentile(first, 0.95),
            "precisions": dict(collections.Counter(one["precision"] for one in came)),
        }
        if is_last:
            result["seconds_to_level_0"] = back[0] if back else None
        return result


def measure(options, result):
    """{"capacity", "fixed": [a result per load], "elastic": [...]}, less what is there."""
    result |= {"flags": options.flags, "levels": options.elastic}
    for kind in ("fixed", "elastic"):
        if kind in result:
            continue
        flags = ["--max_queue", "4096", "--no_prefix_cache", "--threads", str(options.threads)]
        flags += options.flags.split()
        if kind == "elastic":
            flags += ["--elastic", ",".join(options.elastic)]
            flags += ["--target_ttft_ms", str(options.target_ttft_ms)]
        else:
            flags += ["--precision", options.elastic[0]]
        with service(options.qalof, options.model, *flags) as (info, _):
            bench = Bench(options, info["url"])
            found = bench.capacity()
            rate = result.setdefault("capacity", found)
            result[kind] = []
            for factor in options.loads:
                wait_for_level_0(info["url"])
                result[kind].append(bench.step(rate, factor, factor == options.loads[-1]))
                print(json.dumps(result[kind][-1]), file=sys.stderr, flush=True)
    return result


def table(result):
    lines = [
        "| load, of the capacity | p95 of the first token, fixed | elastic | ran at |",
        "| --- | --- | --- | --- |",
    ]
    for fixed, elastic in zip(result["fixed"], result["elastic"], strict=True):
        ran = ", ".join(f"{count} at {name}" for name, count in elastic["precisions"].items())
        lines.append(
            f"| {fixed['load']:g} | {fixed['ttft_p95']:.2f} s | {elastic['ttft_p95']:.2f} s "
            f"| {ran} |"
        )
    fixed, elastic = result["fixed"][-1], result["elastic"][-1]
    back = elastic["seconds_to_level_0"]
    ratio = elastic["ttft_p95"] / fixed["ttft_p95"]
    back = "no more" if back is None else f"{back:.1f} s"
    lines += [
        "",
        f"Capacity: {result['capacity']:.2f} requests per second. At {fixed['load']:g} times of it "
        f"the p95 with elastic\nprecision is {ratio:.2f} of that without; the most bits were back "
        f"{back} after the load had\ngone.",
        "",
    ]
    return "\n".join(lines)


def picture(result):
    width, height, left, bottom, right = 640, 320, 64, 44, 90
    values = [one["ttft_p95"] for kind in COLOURS for one in result[kind]]
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    most = result["fixed"][-1]["load"]

    def x(load):
        return left + load / most * (width - left - right)

    def y(value):
        return 24 + (high - math.log10(value)) / (high - low) * (height - bottom - 24)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="14" fill="#333333">p95 of the time to the first token, seconds</text>',
    ]
    for power in range(low, high + 1):
        at = y(10**power)
        parts.append(f'<path d="M{left} {at:.1f}H{width - right}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end" '
            f'fill="#333333">{10.0**power:g}</text>'
        )
    for one in result["fixed"]:
        parts.append(
            f'<text x="{x(one["load"]):.1f}" y="{height - bottom + 18}" text-anchor="middle" '
            f'fill="#333333">{one["load"]:g}</text>'
        )
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle" '
        'fill="#333333">load, of the capacity at the most bits</text>'
    )
    for kind, colour in COLOURS.items():
        places = [(x(one["load"]), y(one["ttft_p95"])) for one in result[kind]]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        a, b = places[-1]
        parts.append(f'<text x="{a + 8:.1f}" y="{b + 4:.1f}" fill="{colour}">{kind}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", default="assets/nano/model")
    parser.add_argument("--elastic", type=lambda text: text.split(","), default=["8", "w4a8kv4"])
    parser.add_argument("--flags", default="", help="further flags of the service")
    parser.add_argument("--target_ttft_ms", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--loads",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[0.5, 1, 1.5, 2, 3],
    )
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument(
        "--result", type=pathlib.Path, help="figures; those that it has are not measured again"
    )
    parser.add_argument("--write", type=pathlib.Path, help="a document with a marked section")
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    result = {}
    if options.result and options.result.exists():
        result = json.loads(options.result.read_text())
    measure(options, result)
    if options.result:
        options.result.write_text(json.dumps(result, indent=1) + "\n")
    if options.picture:
        options.picture.write_text(picture(result))
    if options.write:
        write_section(options.write, BEGIN, END, f"{BEGIN}\n{table(result)}{END}")
    else:
        print(table(result))


if __name__ == "__main__":
    main()
