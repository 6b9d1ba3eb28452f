#!/usr/bin/env python3
"""Opens a report in headless Chromium at the widths of phones, tablets and desktops, fails on
faults of its layout, console output or network requests, and writes screenshots.

Usage: tools/interop/report_screenshots.py REPORT.html --output_dir DIR [--name report] [--dark]
Needs chromium (Debian package "chromium") and Python's standard library.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

HEIGHT = 1500
PICTURED = (1280, 400)
WIDTHS = (1920, 1280, 1024, 900, 768, 600, 400, 320)
DESKTOP = 1280  # from here on tables have room: none may need scrolling
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]

# Faults of the page as it is laid out now, as a list of texts.
LAYOUT_FAULTS = r"""
(() => {
  const faults = [];
  const named = (element) => {
    const text = (element.textContent || '').trim().replace(/\s+/g, ' ').slice(0, 40);
    const css = element.getAttribute('class');
    return `<${element.tagName.toLowerCase()}${css ? '.' + css : ''}> "${text}"`;
  };
  const visible = (element) => element.getClientRects().length > 0;
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth)
    faults.push(`the page scrolls sideways: ${page.scrollWidth} px`);
  for (const element of document.body.querySelectorAll('*')) {
    if (element.closest('svg') || !visible(element)) continue;
    const style = getComputedStyle(element);
    if (style.display === 'inline' || element.scrollWidth <= element.clientWidth + 1) continue;
    const scrolls = ['auto', 'scroll'].includes(style.overflowX);
    const extent = `${element.scrollWidth} px in ${element.clientWidth} px`;
    if (!scrolls) faults.push(`${named(element)} does not hold its content: ${extent}`);
    else if (innerWidth >= DESKTOP) faults.push(`${named(element)} scrolls sideways: ${extent}`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    if (!visible(svg)) continue;
    const card = svg.closest('.card').getBoundingClientRect();
    if (svg.getBoundingClientRect().width < 0.5 * card.width)
      faults.push(`${svg.getAttribute('aria-label')}: the chart leaves its card empty`);
    const texts = [...svg.querySelectorAll('text')].map((t) => [t, t.getBoundingClientRect()]);
    for (const [text, box] of texts) {
      if (box.left < card.left || box.right > card.right || box.bottom > card.bottom)
        faults.push(`${named(text)} of "${svg.getAttribute('aria-label')}" leaves its card`);
    }
    // Boxes of rotated texts meet where the texts do not.
    const flat = texts.filter(([text]) => !text.closest('[transform]'));
    for (let i = 0; i < flat.length; ++i) {
      for (let j = i + 1; j < flat.length; ++j) {
        const [a, b] = [flat[i][1], flat[j][1]];
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 2 && high > 5)
          faults.push(`${named(flat[i][0])} and ${named(flat[j][0])} collide`);
      }
    }
  }
  for (const grid of document.querySelectorAll('.grid')) {
    const right = grid.getBoundingClientRect().right;
    for (const card of grid.children) {
      const box = card.getBoundingClientRect();
      const next = card.nextElementSibling;
      const ends_row = !next || next.getBoundingClientRect().top >= box.bottom - 1;
      if (ends_row && box.right < right - 2) faults.push(`${named(card)} leaves its row empty`);
    }
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.nodeValue;
    if (!walker.currentNode.parentElement.closest('pre') &&
        /(^|[\s\[(])[-\u2212]0(\.0+)?(?![.\d]|e)/.test(text))
      faults.push(`a zero has a sign: "${text.trim()}"`);
  }
  return faults;
})()
""".replace("DESKTOP", str(DESKTOP))


def find_chromium():
    """The program's path, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """Headless Chromium with one page, driven over a pair of pipes."""

    def __init__(self, chromium):
        self.folder = tempfile.TemporaryDirectory()
        to_browser, self.writing = os.pipe()
        self.reading, from_browser = os.pipe()

        def take_places():
            # Chromium reads commands from descriptor 3 and writes answers to 4. Copies above both
            # first: one of the pipes' own numbers may be 3 or 4.
            copies = [os.dup2(fd, high) for fd, high in ((to_browser, 63), (from_browser, 64))]
            for copy, place in zip(copies, (3, 4), strict=False):
                os.dup2(copy, place)

        self.process = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={self.folder.name}/profile", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=take_places,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.pending = b""
        self.number = 0
        self.events = []
        self.session = None
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self.session = self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.writing)  # the browser ends with its pipe
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.reading)
        self.folder.cleanup()

    def message(self):
        while b"\0" not in self.pending:
            got = os.read(self.reading, 1 << 20)
            if not got:
                raise RuntimeError("chromium ended")
            self.pending += got
        text, self.pending = self.pending.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.writing, json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def open(self, path, dark=False):
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def resize(self, width):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )

    def layout_faults(self):
        result = self.call("Runtime.evaluate", expression=LAYOUT_FAULTS, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"layout check: {result['exceptionDetails']}")
        return result["result"]["value"]

    def screenshot(self, image):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        image.write_bytes(base64.b64decode(data))

    def noises(self):
        """Console output, errors and requests to anything but files."""
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                yield f"console: {json.dumps(what)[:300]}"
            if method == "Network.requestWillBeSent":
                url = what["request"]["url"]
                if not url.startswith(("file:", "data:", "about:")):
                    yield f"request to {url}"


def check_text(path):
    """No script and nothing from elsewhere: what the browser run below cannot show where a request
    would be blocked."""
    text = path.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(text.replace("<!DOCTYPE html>\n", "", 1))
    found = re.findall(
        r"https?:|<script|<link|<iframe|@import|url\(|\bsrc=|\bon[a-z]+=",
        re.sub(r"<pre>.*?</pre>", "", text, flags=re.S),
    )
    return [f"{path}: holds {word!r}" for word in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("--name", default="report")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("chromium: not found; apt-get install chromium")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    problems = check_text(arguments.report)
    with Browser(chromium) as browser:
        browser.resize(WIDTHS[0])
        browser.open(arguments.report, arguments.dark)
        for width in WIDTHS:
            browser.resize(width)
            problems += [f"{width} px: {fault}" for fault in browser.layout_faults()]
            if width in PICTURED:
                image = arguments.output_dir / f"{arguments.name}_{width}.png"
                browser.screenshot(image)
                print(image)
        problems += browser.noises()
    print("\n".join(problems) or "no fault of layout, no console output, no request")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
