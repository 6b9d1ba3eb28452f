#!/usr/bin/env python3
"""Loads a running `qalof serve` (or any server with OpenAI's /v1/completions) and measures it.

  tools/bench/serve_load.py --url http://127.0.0.1:8080 --clients 16 --seconds 30
  tools/bench/serve_load.py --url ... --rate 3 --steps 1,3,1 --seconds 60 --precisions 8,4

Closed loop: each of --clients sends its next request when the last one is answered. Open loop:
requests come at random times (Poisson) at --rate per second, times the factors of --steps, each for
an equal part of the time, whatever the server does; this is what users do, and what shows queues.
Requests stream; prompts are random token ids of the model's vocabulary, so that no prefix is shared
(--shared_prefix N: their first N tokens are). Adapters and precisions are taken in turn.

Prints one JSON object: requests by status, output tokens per second, p50 and p95 of the time to the
first token and between tokens, the same by second of the run (--timeline), and how many requests
ran at each precision, as the responses say. With --pid also the memory of the server at the start
and the end. Needs Python's standard library.
"""

import argparse
import asyncio
import collections
import itertools
import json
import math
import pathlib
import random
import time
import urllib.parse
import urllib.request


def percentile(values, part):
    """The smallest value that at least that part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


def memory(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


class Load:
    def __init__(self, options):
        self.options = options
        self.address = urllib.parse.urlsplit(options.url)
        self.random = random.Random(options.seed)
        self.headers = {"Content-Type": "application/json"}
        if options.api_key:
            self.headers["Authorization"] = f"Bearer {options.api_key}"
        self.vocabulary = (options.vocab_size or self.get("/info")["vocab_size"]) - 1
        self.prefix = [self.token() for _ in range(options.shared_prefix)]
        self.number = 0
        self.start = time.monotonic()
        self.done = []
        self.statuses = collections.Counter()
        self.ran = collections.Counter()

    def get(self, path):
        request = urllib.request.Request(self.options.url + path, headers=self.headers)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def token(self):
        return self.random.randint(1, self.vocabulary - 1)

    def body(self):
        options = self.options
        new = max(0, options.prompt_tokens - len(self.prefix))
        body = {
            "prompt": self.prefix + [self.token() for _ in range(new)],
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "seed": self.number,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        if options.models:
            body["model"] = options.models[self.number % len(options.models)]
        if options.precisions:
            turn = self.number // max(1, len(options.models))
            body["precision"] = options.precisions[turn % len(options.precisions)]
        self.number += 1
        return body

    async def request(self):
        body = self.body()
        text = json.dumps(body)
        lines = ["POST /v1/completions HTTP/1.1", f"Host: {self.address.netloc}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.options.route_headers:
            lines += [f"X-Qalof-Model: {body.get('model', '')}"]
            lines += [f"X-Qalof-Precision: {body.get('precision', '')}"]
        lines += [f"Content-Length: {len(text)}", "Connection: close", "", text]
        begin = time.monotonic()
        found = {"begin": begin - self.start, "times": [], "tokens": 0, "precision": None}
        status = "connection"
        try:
            reader, writer = await asyncio.open_connection(
                self.address.hostname, self.address.port or 80
            )
            writer.write("\r\n".join(lines).encode())
            await writer.drain()
            status = (await reader.readline()).split()[1].decode()
            over = False
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]\n":
                    over = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    status = "error in the stream"
                    break
                found["precision"] = event.get("precision")
                if event["choices"] and event["choices"][0]["finish_reason"] is None:
                    found["times"].append(time.monotonic() - begin)
                if event.get("usage"):
                    found["tokens"] = event["usage"]["completion_tokens"]
            if status == "200" and not over:
                status = "cut"
            writer.close()
        except (ConnectionError, OSError, IndexError) as error:
            status = f"{type(error).__name__} after {len(found['times'])} pieces"
        self.statuses[status] += 1
        if status == "200":
            found["end"] = time.monotonic() - self.start
            self.done.append(found)
            self.ran[found["precision"]] += 1

    async def closed(self):
        async def client():
            while time.monotonic() - self.start < self.options.seconds:
                await self.request()

        await asyncio.gather(*(client() for _ in range(self.options.clients)))

    async def open(self):
        tasks = set()
        factors = self.options.steps
        while (now := time.monotonic() - self.start) < self.options.seconds:
            factor = factors[min(len(factors) - 1, int(now / self.options.seconds * len(factors)))]
            tasks.add(task := asyncio.create_task(self.request()))
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(self.random.expovariate(self.options.rate * factor))
        await asyncio.gather(*tasks)

    def summary(self, done):
        between = [b - a for one in done for a, b in itertools.pairwise(one["times"])]
        first = [one["times"][0] for one in done if one["times"]]
        return {
            "requests": len(done),
            "ttft_p50": percentile(first, 0.5),
            "ttft_p95": percentile(first, 0.95),
            "between_p50": percentile(between, 0.5),
            "between_p95": percentile(between, 0.95),
        }

    def run(self):
        options = self.options
        before = memory(options.pid) if options.pid else None
        asyncio.run(self.open() if options.rate else self.closed())
        seconds = time.monotonic() - self.start
        tokens = sum(one["tokens"] for one in self.done)
        result = {
            "url": options.url,
            "load": {"rate": options.rate, "steps": options.steps}
            if options.rate
            else {"clients": options.clients},
            "prompt_tokens": options.prompt_tokens,
            "max_tokens": options.max_tokens,
            "seconds": seconds,
            "statuses": dict(self.statuses),
            "precisions": dict(self.ran),
            "output_tokens_per_second": tokens / seconds,
            **self.summary(self.done),
        }
        if options.timeline:
            parts = collections.defaultdict(list)
            for one in self.done:
                parts[int(one["begin"] // options.timeline) * options.timeline].append(one)
            result["timeline"] = [
                {
                    "second": at,
                    "precisions": dict(collections.Counter(one["precision"] for one in part)),
                    **self.summary(part),
                }
                for at, part in sorted(parts.items())
            ]
        if options.pid:
            result |= {"rss_before": before, "rss_after": memory(options.pid)}
        return result


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    split = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument("--url", required=True)
    parser.add_argument("--api_key", default="")
    parser.add_argument("--clients", type=int, default=1, help="closed loop")
    parser.add_argument("--rate", type=float, default=0, help="open loop: requests per second")
    parser.add_argument(
        "--steps",
        type=lambda text: [float(f) for f in split(text)],
        default=[1.0],
        help="open loop: factors of the rate, one after the other",
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--prompt_tokens", type=int, default=128)
    parser.add_argument("--shared_prefix", type=int, default=0)
    parser.add_argument("--vocab_size", type=int, default=0, help="of a server without /info")
    parser.add_argument("--max_tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--models", type=split, default=[], help="names, taken in turn")
    parser.add_argument("--precisions", type=split, default=[], help="taken in turn")
    parser.add_argument("--route_headers", action="store_true", help="for deploy/haproxy.cfg")
    parser.add_argument("--timeline", type=float, default=0, help="seconds of a part")
    parser.add_argument("--pid", type=int, default=0, help="the server's, for its memory")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main():
    print(json.dumps(Load(parse()).run(), indent=1))


if __name__ == "__main__":
    main()
