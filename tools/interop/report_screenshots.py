#!/usr/bin/env python3
"""Opens a report in headless Chromium as a phone and as a desktop, fails on console output, network
requests or sideways scrolling, and writes screenshots.

Usage: tools/interop/report_screenshots.py REPORT.html --output_dir DIR [--name report] [--dark]
Needs chromium (Debian package "chromium") and Python's standard library.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

SIZES = {1280: 1500, 400: 1500}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
]


def check_text(path):
    """No script and nothing from elsewhere: what the browser run below cannot show where a request
    would be blocked.
    """
    text = path.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(text.replace("<!DOCTYPE html>\n", "", 1))
    found = re.findall(
        r"https?:|<script|<link|<iframe|@import|url\(|\bsrc=|\bon[a-z]+=",
        re.sub(r"<pre>.*?</pre>", "", text, flags=re.S),
    )
    return [f"{path}: holds {word!r}" for word in found]


def browse(chromium, path, width, height, dark, image):
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "net.json"
        command = [
            chromium,
            *FLAGS,
            f"--user-data-dir={folder}/profile",
            f"--log-net-log={log}",
            "--enable-logging=stderr",
            "--v=0",
            f"--window-size={width},{height}",
            f"--screenshot={image}",
        ]
        if dark:
            command.append("--blink-settings=preferredColorScheme=0")
        run = subprocess.run(
            [*command, path.resolve().as_uri()], capture_output=True, text=True, timeout=300
        )
        problems = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
        if run.returncode != 0 or not image.exists():
            problems.append(f"chromium ended with {run.returncode}: {run.stderr[-500:]}")
            return problems
        text = log.read_text() if log.exists() else "{}"
        text = text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}"
        for event in json.loads(text).get("events", []):
            url = event.get("params", {}).get("url", "")
            # The browser itself looks for updates; a page's requests have it as their initiator.
            if url.startswith(("http:", "https:", "ws")) and "file" in str(
                event.get("params", {}).get("initiator", "")
            ):
                problems.append(f"request to {url}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("--name", default="report")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        sys.exit("chromium: not found; apt-get install chromium")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    problems = check_text(arguments.report)
    for width, height in SIZES.items():
        image = arguments.output_dir / f"{arguments.name}_{width}.png"
        problems += browse(chromium, arguments.report, width, height, arguments.dark, image)
        print(image)
    print("\n".join(problems) or "no console output, no request")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
