#!/usr/bin/env python3
"""Keeps `qalof serve` under a mixed load for long, and watches its memory and its answers.

  tools/bench/serve_soak.py --qalof build/release/qalof --model smollm2.qalof
      --model_directory smollm2 --minutes 60 --rate 2

Requests come at random times (Poisson) at --rate per second: completions and chats at several
precisions and adapters, streams, several choices, log probabilities, echoes, tokens, metrics;
clients that leave in the middle, headers that trickle, bodies that never come; adapters that are
loaded, replaced and unloaded; requests that must be refused. It fails where a status is not the one
that such a request must get, where any is 5xx, or where the memory of the last tenth of the time is
5 % above that of the second tenth (the first fills the prefix cache). Prints one JSON object; a
line per minute goes to standard error. Needs Python's standard library.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from shared.adapters import service, write_adapter  # noqa: E402

ADAPTERS = ("one", "two")
WORDS = ("the", "mill", "river", "miller", "had", "a", "daughter", "who", "sang", "wove", "cloth")
# Body, and the status it must get.
REFUSED = [
    ("/v1/completions", b"{", 400),
    ("/v1/completions", b'{"prompt": "a", "max_tokens": 1000000000}', 400),
    ("/v1/completions", b'{"prompt": "a", "precision": "9"}', 400),
    ("/v1/completions", b'{"prompt": "a", "model": "nobody"}', 404),
    ("/v1/completions", b'{"prompt": "a", "temprature": 1}', 400),
    ("/v1/completions", b"[" * 100, 400),
    ("/v1/chat/completions", b'{"messages": []}', 400),
    ("/v1/none", b"{}", 404),
    ("/tokenize", b'{"prompt": "' + b"a" * (1 << 20) + b'"}', 413),
    ("/v1/load_lora_adapter", b'{"lora_name": "x", "lora_path": "../../etc"}', 400),
]


def memory(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


class Soak:
    def __init__(self, options, info, pid):
        self.options, self.pid = options, pid
        self.address = urllib.parse.urlsplit(info["url"])
        self.random = random.Random(options.seed)
        self.statuses = collections.Counter()
        self.kinds = collections.Counter()
        self.wrong = []
        self.memory = []
        self.start = time.monotonic()

    def words(self, least, most):
        count = self.random.randint(least, most)
        return " ".join(self.random.choice(WORDS) for _ in range(count))

    def body(self):
        body = {
            "prompt": self.words(1, 60),
            "max_tokens": self.random.randint(1, 24),
            "temperature": self.random.choice((0, 0.8)),
            "precision": self.random.choice(self.options.precisions),
        }
        if self.random.random() < 0.7:
            body["model"] = self.random.choice(ADAPTERS)
        return body

    async def open(self):
        return await asyncio.open_connection(self.address.hostname, self.address.port)

    def head(self, method, path, size):
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.address.netloc}\r\nContent-Length: {size}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n\r\n"
        ).encode()

    async def exchange(self, method, path, body, expected):
        """A whole exchange, whose status must be one of those expected."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        reader, writer = await self.open()
        status = "none"
        try:
            writer.write(self.head(method, path, len(text)) + text)
            response = await reader.read()
            status = response.split(b" ", 2)[1].decode() if response else "none"
            is_stream = b"Content-Type: text/event-stream" in response
            if is_stream and b'"error"' in response:
                status = "error in a stream"
        except OSError as error:
            # A body that is too large may be cut off while it is sent.
            status = "413" if expected == ("413",) else type(error).__name__
        finally:
            writer.close()
        self.statuses[status] += 1
        if status not in expected:
            self.wrong.append(f"{path}: {status}, expected {expected}: {text[:120]!r}")

    async def completion(self):
        body = self.body()
        kind = self.random.choice(("plain", "stream", "choices", "logprobs", "echo", "bias"))
        body |= {
            "plain": {},
            "stream": {"stream": True, "stream_options": {"include_usage": True}},
            "choices": {"n": 3},
            "logprobs": {"logprobs": 3},
            "echo": {"echo": True, "logprobs": 1},
            "bias": {"logit_bias": {"5": 2}, "frequency_penalty": 0.5, "stop": [" the"]},
        }[kind]
        await self.exchange("POST", "/v1/completions", body, ("200", "429"))

    async def chat(self):
        body = self.body()
        prompt = body.pop("prompt")
        body["messages"] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": prompt},
        ]
        body["stream"] = self.random.random() < 0.5
        await self.exchange("POST", "/v1/chat/completions", body, ("200", "429"))

    async def read_only(self):
        path = self.random.choice(("/health", "/v1/models", "/metrics", "/info", "/"))
        await self.exchange("GET", path, None, ("200",))
        await self.exchange("POST", "/tokenize", {"prompt": self.words(1, 50)}, ("200",))

    async def refused(self):
        path, body, status = self.random.choice(REFUSED)
        await self.exchange("POST", path, body, (str(status),))

    async def leaves(self):
        """Goes away before the response, or in the middle of its stream."""
        body = self.body() | {"max_tokens": 60, "ignore_eos": True}
        body["stream"] = self.random.random() < 0.5
        text = json.dumps(body).encode()
        reader, writer = await self.open()
        writer.write(self.head("POST", "/v1/completions", len(text)) + text)
        if body["stream"]:
            await reader.readline()
        await asyncio.sleep(self.random.random() * 0.3)
        writer.transport.abort()

    async def trickles(self):
        """A header that comes slowly, or a body that does not come; the service ends both."""
        reader, writer = await self.open()
        if self.random.random() < 0.5:
            writer.write(self.head("POST", "/tokenize", 50))
        try:
            for _ in range(self.random.randint(1, 60)):
                writer.write(b"X")
                await asyncio.sleep(0.5)
                if reader.at_eof():
                    break
        except OSError:
            pass
        writer.close()

    async def adapters(self):
        """Replaces one that is in use, and brings one that comes and goes."""
        name = self.random.choice((ADAPTERS[0], "guest"))
        load = {"lora_name": name, "lora_path": name}
        await self.exchange("POST", "/v1/load_lora_adapter", load, ("200",))
        if name == "guest":
            body = self.body() | {"model": name}
            # Another guest may have gone in between.
            await self.exchange("POST", "/v1/completions", body, ("200", "404", "429"))
            gone = {"lora_name": name}
            await self.exchange("POST", "/v1/unload_lora_adapter", gone, ("200", "404"))

    async def one(self):
        kinds = {
            self.completion: 50,
            self.chat: 15 if self.options.has_chat else 0,
            self.read_only: 10,
            self.refused: 10,
            self.leaves: 8,
            self.trickles: 3,
            self.adapters: 4,
        }
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        self.kinds[kind.__name__] += 1
        try:
            await kind()
        except OSError as error:
            self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")

    async def watch(self):
        while True:
            self.memory.append((time.monotonic() - self.start, memory(self.pid)))
            if len(self.memory) % 12 == 0:
                at, size = self.memory[-1]
                print(
                    f"{at / 60:.1f} min: {size / 1e6:.1f} MB, {sum(self.kinds.values())} requests,"
                    f" {dict(self.statuses)}, wrong: {len(self.wrong)}",
                    file=sys.stderr,
                    flush=True,
                )
            await asyncio.sleep(5)

    async def run(self):
        watch = asyncio.create_task(self.watch())
        tasks = set()
        while time.monotonic() - self.start < self.options.minutes * 60:
            tasks.add(task := asyncio.create_task(self.one()))
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(self.random.expovariate(self.options.rate))
        await asyncio.gather(*tasks)
        watch.cancel()

    def result(self):
        sizes = [size for _, size in self.memory]
        tenth = max(1, len(sizes) // 10)
        begin = statistics.median(sizes[tenth : 2 * tenth])
        end = statistics.median(sizes[-tenth:])
        return {
            "minutes": (time.monotonic() - self.start) / 60,
            "kinds": dict(self.kinds),
            "statuses": dict(self.statuses),
            "wrong": self.wrong[:20],
            "rss_begin": begin,
            "rss_end": end,
            "rss_drift": end / begin - 1,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", default="assets/nano/model", help="what is served")
    parser.add_argument("--model_directory", help="its directory, where --model is a packed file")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=2, help="requests per second")
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["8", "4"])
    parser.add_argument("--threads", default="1")
    parser.add_argument("--kv_cache_mb", default="16", help="little, so that it is full early")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for seed, name in enumerate((*ADAPTERS, "guest")):
            write_adapter(options.model_directory or options.model, f"{directory}/{name}", seed)
        flags = ["--threads", options.threads, "--kv_cache_mb", options.kv_cache_mb]
        flags += ["--precision", options.precisions[0], "--allow_adapter_loading", directory]
        flags += ["--adapter", *(f"{name}={directory}/{name}" for name in ADAPTERS)]
        with service(options.qalof, options.model, *flags) as (info, process):
            soak = Soak(options, info, process.pid)
            with urllib.request.urlopen(info["url"] + "/info") as response:
                options.has_chat = json.load(response)["has_chat_template"]
            asyncio.run(soak.run())
            result = soak.result()
    print(json.dumps(result, indent=1))
    server_errors = [status for status in result["statuses"] if status.startswith("5")]
    if result["wrong"] or server_errors or result["rss_drift"] > 0.05:
        sys.exit("failed")


if __name__ == "__main__":
    main()
