#!/usr/bin/env python3
"""Three replicas behind HAProxy, one of them killed with SIGKILL under load.

  tools/interop/check_fleet.py [--qalof build/release/qalof] [--model assets/nano/model]
      [--seconds 12]

Uses deploy/haproxy.cfg as it is (ports 8000 and 8081 to 8083 of the loopback address must be free).
No request may fail but those that were already streaming from the replica that died; the others
must go on, and their prefix caches must be used. Exit status 1 otherwise. Needs haproxy.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORTS = (8081, 8082, 8083)


def cached_tokens(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    found = re.findall(r"^qalof_prefix_cached_tokens_total\{.*\} (\d+)$", text, flags=re.M)
    return sum(map(int, found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--model", default=str(ROOT / "assets/nano/model"))
    parser.add_argument("--seconds", type=float, default=12)
    options = parser.parse_args()
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    serve = [options.qalof, "serve", "--model_name_or_path", options.model, "--precision", "8"]
    serve += ["--threads", "1", "--quiet", "--json", "--port"]
    running = []
    try:
        for port in PORTS:
            running.append(subprocess.Popen([*serve, str(port)], stdout=subprocess.PIPE))
        for replica in running:
            replica.stdout.readline()
        proxy = subprocess.Popen(
            [haproxy, "-f", str(ROOT / "deploy/haproxy.cfg")], stdout=subprocess.DEVNULL
        )
        running.append(proxy)
        time.sleep(3)
        load = [sys.executable, str(ROOT / "tools/bench/serve_load.py"), "--url"]
        load += ["http://127.0.0.1:8000", "--clients", "9", "--seconds", str(options.seconds)]
        load += ["--prompt_tokens", "80", "--shared_prefix", "64", "--max_tokens", "24"]
        load += ["--precisions", "8,6,4", "--route_headers"]
        with subprocess.Popen(load, stdout=subprocess.PIPE, text=True) as client:
            time.sleep(options.seconds / 2)
            running[0].kill()
            result = json.loads(client.communicate()[0])
        cached = [cached_tokens(port) for port in PORTS[1:]]
    finally:
        for process in running:
            process.terminate()
            process.wait()
    statuses = result["statuses"]
    print(f"requests by end: {statuses}; tokens from the prefix caches that lived: {cached}")
    # What was streaming from the replica is cut; nothing else may end otherwise.
    allowed = {"200", "cut"}
    bad = {
        status: count
        for status, count in statuses.items()
        if status not in allowed and not re.search(r"after [1-9]\d* pieces", status)
    }
    if bad or statuses.get("200", 0) < 20 or sum(cached) == 0:
        sys.exit(f"failed: {bad}")


if __name__ == "__main__":
    main()
