#!/usr/bin/env python3
"""A thousand interleaved requests of four adapters at three precisions, over HTTP.

  tools/interop/check_serve_mixing.py [--qalof build/release/qalof] [--model assets/nano/model]
      [--model_directory DIR] [--precisions 8 w4a8kv4 6] [--requests 1000] [--clients 8]

Each text must be that of `qalof generate` with this adapter and precision alone: with the prefix
cache and without. Meanwhile the first adapter is loaded again under its name, a further name
changes between two adapters, and another comes and goes: a request gets the adapter that had the
name when it came, or 404. Exit status 1 where any text is another one. --model_directory is the
directory of a packed --model, for the shapes of its linears. Needs Python's standard library.
"""

import argparse
import collections
import concurrent.futures
import http.client
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from shared.adapters import service, write_adapter  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADAPTERS = ("a1", "a2", "a3", "a4")
LONG_START = (
    "Once upon a time there was a mill by the river, and the miller had a daughter who sang all "
    "day and "
)
PROMPTS = ("7 + 5 =", LONG_START + "wove cloth from the reeds.", LONG_START + "went home.")
TOKENS = 12


def alone(options, directory, precision, prompt, number):
    command = [options.qalof, "generate", "--model_name_or_path", options.model, "--json"]
    command += ["--adapter", directory, "--precision", precision, "--prompt", prompt]
    command += ["--max_new_tokens", str(TOKENS), "--seed", str(number)]
    command += ["--temperature", str(temperature(number)), "--quiet"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)["text"]


def temperature(number):
    return 0 if number % 2 == 0 else 0.8


class Client:
    """A connection that stays open."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)

    def post(self, path, body):
        self.connection.request(
            "POST", path, json.dumps(body), {"Content-Type": "application/json"}
        )
        response = self.connection.getresponse()
        return response.status, json.load(response)

    def text(self, model, precision, number):
        body = {"model": model, "precision": precision, "prompt": PROMPTS[number]}
        body |= {"max_tokens": TOKENS, "temperature": temperature(number), "seed": number}
        status, answer = self.post("/v1/completions", body)
        return status, answer["choices"][0]["text"] if status == 200 else None


class Names:
    """Loads and unloads while others ask."""

    def __init__(self, url):
        self.client = Client(url)
        self.version = 0  # of the name that changes; odd: it is about to be another's
        self.count = 0

    def holder(self, version):
        return ADAPTERS[version // 2 % 2]

    def load(self, name, path):
        status, answer = self.client.post(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}
        )
        assert status == 200, answer
        self.count += 1

    def run(self, is_over):
        while not is_over.wait(0.02):
            self.load("a1", "a1")
            self.version += 1
            self.load("changing", self.holder(self.version + 1))
            self.version += 1
            self.load("guest", "a3")
            is_over.wait(0.02)
            status, answer = self.client.post("/v1/unload_lora_adapter", {"lora_name": "guest"})
            assert status == 200, answer


def check(options, expected, url):
    names = Names(url)
    names.load("changing", ADAPTERS[0])
    found = collections.Counter()
    is_over = threading.Event()
    mover = threading.Thread(target=names.run, args=(is_over,))
    mover.start()

    def client(index):
        connection = Client(url)
        numbers = random.Random(index)
        for _ in range(options.requests // options.clients):
            model = numbers.choice((*ADAPTERS * 3, "changing", "guest"))
            precision = numbers.choice(options.precisions)
            number = numbers.randrange(len(PROMPTS))
            before = names.version
            status, text = connection.text(model, precision, number)
            holders = {"guest": ["a3"], "changing": list(ADAPTERS[:2])}.get(model, [model])
            if model == "changing" and before % 2 == 0 and before == names.version:
                holders = [names.holder(before)]
            right = status == 200 and text in [expected[h, precision, number] for h in holders]
            right = right or (model == "guest" and status == 404)
            found[(model, status, "right" if right else "WRONG")] += 1

    with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(client, range(options.clients)))
    is_over.set()
    mover.join()
    return found, names.count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--model", default=str(ROOT / "assets/nano/model"))
    parser.add_argument("--model_directory")
    parser.add_argument("--precisions", nargs="+", default=["8", "w4a8kv4", "6"])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()
    is_right = True
    with tempfile.TemporaryDirectory() as directory:
        expected = {}
        for seed, name in enumerate(ADAPTERS):
            write_adapter(options.model_directory or options.model, f"{directory}/{name}", seed)
            for precision in options.precisions:
                for number, prompt in enumerate(PROMPTS):
                    expected[name, precision, number] = alone(
                        options, f"{directory}/{name}", precision, prompt, number
                    )
        different = len(set(expected.values()))
        print(f"{different} different texts of {len(expected)} runs alone")
        is_right &= different > len(expected) / 2
        for cache in ([], ["--no_prefix_cache"]):
            flags = ["--threads", options.threads, "--allow_adapter_loading", directory, *cache]
            flags += ["--precision", options.precisions[0], "--max_sequences", "8"]
            flags += ["--prefill_chunk", "16", "--adapter"]
            flags += [f"{name}={directory}/{name}" for name in ADAPTERS]
            with service(options.qalof, options.model, *flags) as (info, _):
                found, loads = check(options, expected, info["url"])
            wrong = sum(count for key, count in found.items() if key[2] == "WRONG")
            print(f"prefix cache {'off' if cache else 'on'}: {sum(found.values())} requests,")
            print(f"  {wrong} wrong, {loads} adapters loaded meanwhile")
            for key, count in sorted(found.items()):
                print(f"  {key[0]:9} {key[1]} {key[2]}: {count}")
            is_right &= wrong == 0
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
