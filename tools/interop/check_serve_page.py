#!/usr/bin/env python3
"""Uses every control of the page of `qalof serve` in headless Chromium, and writes screenshots.

  tools/interop/check_serve_page.py --output_dir DIR [--qalof build/release/qalof]
      [--model assets/nano/model]

Texts on the page must be those that the API gives; there may be no console output, no request
elsewhere, and no control that the page's width does not hold. The model gets a chat template in a
temporary copy, and an adapter with a question-answering head of made-up numbers. Exit status 1
where something is wrong. Needs chromium (Debian package "chromium") and Python's standard library.
"""

import argparse
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from report_screenshots import Browser, find_chromium

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
TIMEOUT = 60


class Page(Browser):
    """A page of a server, and what tests do with it."""

    def open_url(self, url, dark=False):
        self.events.clear()
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && info !== null")

    def run(self, expression):
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition):
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            if self.run(f"Boolean(typeof info !== 'undefined' && ({condition}))"):
                return
            time.sleep(0.02)
        raise RuntimeError(f"never: {condition}")

    def set(self, name, value):
        self.run(
            f"{{const e = $({json.dumps(name)}); e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('change'))}"
        )

    def click(self, name):
        self.run(f"$({json.dumps(name)}).click()")

    def text(self, name):
        return self.run(f"$({json.dumps(name)}).textContent")

    def idle(self):
        self.wait("running === null")

    def key(self, key, modifiers=0):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=modifiers)

    def elsewhere(self, url):
        for event in self.events:
            if event.get("method") == "Network.requestWillBeSent":
                found = event["params"]["request"]["url"]
                if not found.startswith((url, "data:", "blob:")):
                    yield f"request to {found}"
            if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                yield f"console: {json.dumps(event['params'])[:300]}"
            if event.get("method") == "Log.entryAdded":
                yield f"log: {json.dumps(event['params'])[:300]}"


def write_adapter(folder, width):
    """A PEFT directory: one pair and a span head of made-up numbers."""
    folder.mkdir()
    shapes = {
        "base_model.model.qa_outputs.weight": [2, width],
        "base_model.model.qa_outputs.bias": [2],
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": [1, width],
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight": [3 * width, 1],
    }
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, shape in shapes.items():
        values = [0.3 * math.sin(1.7 * i + len(name)) for i in range(math.prod(shape))]
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "task_type": "QUESTION_ANS", "r": 1, "lora_alpha": 1}
    config |= {"target_modules": ["c_attn"], "layers_to_transform": [0], "fan_in_fan_out": True}
    config |= {"modules_to_save": ["qa_outputs"], "base_model_name_or_path": "nano"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def ask(url, path, body):
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


class Checks:
    def __init__(self):
        self.problems = []

    def expect(self, is_true, what):
        print("ok  " if is_true else "FAIL", what)
        if not is_true:
            self.problems.append(what)


def check_playground(page, url, checks):
    for name, value in (
        ("play-precision", "4"),
        ("play-temperature", "0.7"),
        ("play-top-p", "0.9"),
        ("play-max", "20"),
        ("play-seed", "3"),
        ("play-model", "qa"),
    ):
        page.set(name, value)
    checks.expect(page.run("$('play-form').value") == "chat", "a model with a template chats")
    page.set("play-form", "completion")
    page.set("play-prompt", "The mill")
    page.run("$('play-prompt').focus()")
    page.key("Enter", modifiers=2)
    page.idle()
    body = {"model": "qa", "precision": "4", "temperature": 0.7, "top_p": 0.9, "max_tokens": 20}
    body |= {"seed": 3, "prompt": "The mill"}
    expected = ask(url, "/v1/completions", body)["choices"][0]["text"]
    checks.expect(page.text("play-text") == expected, "the playground's text is the API's")
    checks.expect("w4a4kv4" in page.text("play-figures"), "its figures say the precision")
    page.set("play-stop", expected[5:8])
    page.click("play-run")
    page.idle()
    cut = expected[: expected.index(expected[5:8])]
    checks.expect(page.text("play-text") == cut, "a stop text ends it")
    page.set("play-stop", "")
    page.set("play-form", "chat")
    page.click("play-run")
    page.idle()
    del body["prompt"]
    body["messages"] = [{"role": "user", "content": "The mill"}]
    expected = ask(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    checks.expect(page.text("play-text") == expected, "a chat's text too")
    page.set("play-prompt", "And then?")
    page.click("play-run")
    page.idle()
    body["messages"] += [
        {"role": "assistant", "content": expected},
        {"role": "user", "content": "And then?"},
    ]
    expected = ask(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    checks.expect(page.text("play-text") == expected, "the next turn knows the one before")
    checks.expect(page.run("$('play-turns').children.length") == 3, "the turns before are shown")
    page.click("play-new")
    checks.expect(page.run("$('play-turns').children.length") == 0, "and can be left")
    page.set("play-form", "completion")
    page.set("play-prompt", "The mill")
    for halt in ("button", "Escape"):
        page.set("play-max", "240")
        page.set("play-precision", "32")
        page.click("play-run")
        page.wait("$('play-text').textContent.length > 0")
        checks.expect(page.run("!$('play-halt').disabled"), f"{halt}: it can be stopped")
        if halt == "button":
            page.click("play-halt")
        else:
            page.key("Escape")
        page.idle()
        checks.expect(page.run("$('error').hidden"), f"{halt}: stopping is no error")
    page.set("play-temperature", "9")
    page.click("play-run")
    page.idle()
    checks.expect("0 to 2" in page.text("error"), "a refusal is shown")
    page.set("play-temperature", "0")


def check_compare(page, url, checks):
    page.set("compare-prompt", "Once")
    page.set("compare-max", "16")
    page.set("compare-seed", "4")
    page.set("compare-temperature", "0.5")
    page.click("compare-run")
    page.idle()
    for side, bits in (("left", "8"), ("right", "4")):
        body = {"prompt": "Once", "max_tokens": 16, "seed": 4, "temperature": 0.5}
        expected = ask(url, "/v1/completions", body | {"precision": bits})["choices"][0]["text"]
        checks.expect(page.text(f"compare-{side}-text") == expected, f"{side}: {bits} bits")
        figures = page.text(f"compare-{side}-figures")
        for name in ("tokens/s", "first token", "K/V", f"w{bits}a{bits}kv{bits}"):
            checks.expect(name in figures, f"{side}: figures have {name}")


def check_answers(page, url, checks):
    context = page.run("$('answers-context').value")
    page.set("answers-model", "qa")
    page.set("answers-precision", "8")
    page.set("answers-count", "2")
    page.click("answers-run")
    page.idle()
    body = {"model": "qa", "precision": "8", "context": context, "n_best": 2}
    found = ask(url, "/v1/answers", body | {"question": page.run("$('answers-question').value")})
    marks = page.run("[...document.querySelectorAll('mark')].map(m => m.textContent)")
    checks.expect(found["spans"][0]["text"] in marks, "the best answer is marked")
    checks.expect(page.text("answers-marked") == context, "in the whole context")
    checks.expect(page.run("$('answers-list').children.length") == 2, "and listed")
    page.run("$('answers-missing').checked = true")
    page.click("answers-run")
    page.idle()
    checks.expect(page.run("$('error').hidden"), "also where there may be none")


def check_layers(page, url, checks):
    page.set("layers-max", "12")
    page.set("layers-prompt", "Once")
    page.set("layers-all", "8")
    page.idle()
    first = "document.querySelector('#layers-map button')"
    page.run(f"{first}.focus()")
    page.key("-")
    checks.expect(page.run(f"{first}.textContent") == "7", "the key - takes a bit off")
    page.key("ArrowRight")
    checks.expect(
        page.run("document.activeElement === document.querySelectorAll('#layers-map button')[1]"),
        "arrow keys move",
    )
    page.run("document.querySelectorAll('#layers-map button')[1].click()")
    page.wait("$('layers-figures').textContent.includes('mixed')")
    page.idle()
    plan = page.run("plan()")
    body = {"prompt": "Once", "max_tokens": 12, "temperature": 0, "precision": plan}
    expected = ask(url, "/v1/completions", body)["choices"][0]["text"]
    checks.expect(page.text("layers-text") == expected, "the text follows the map")
    checks.expect("weight bits" in page.text("layers-figures"), "and so do the figures")
    saved = page.run(
        "new Promise(done => { const old = URL.createObjectURL; URL.createObjectURL = blob => {"
        "blob.text().then(done); URL.createObjectURL = old; return old.call(URL, blob); };"
        "$('layers-save').click(); })"
    )
    checks.expect(json.loads(saved) == plan, "the saved plan is what ran")
    page.set("layers-kv", "4")
    page.wait("$('layers-figures').textContent.includes('kv4')")
    page.idle()
    label = page.run(f"{first}.getAttribute('aria-label')")
    checks.expect(label.endswith(": 7 bits"), f"a cell says what it is: {label}")


def check_tabs(page, checks):
    page.run("$('tab-play').click(); $('tab-play').focus()")
    for name in ("compare", "answers", "layers", "play"):
        page.key("ArrowRight")
        checks.expect(page.run(f"!$('{name}').hidden"), f"arrow keys open {name}")
    unnamed = page.run(
        "[...document.querySelectorAll('input,select,textarea,button')].filter(e => "
        "!(e.labels && e.labels.length) && !e.textContent.trim() && !e.ariaLabel).length"
    )
    checks.expect(unnamed == 0, "every control has a name")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--model", default=str(ROOT / "assets/nano/model"))
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("chromium: not found; apt-get install chromium")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        shutil.copytree(options.model, folder / "chatty")
        (folder / "chatty/chat_template.jinja").write_text(TEMPLATE)
        width = json.loads((folder / "chatty/config.json").read_text())["n_embd"]
        write_adapter(folder / "qa", width)
        command = [options.qalof, "serve", "--model_name_or_path", str(folder / "chatty")]
        command += ["--adapter", f"qa={folder / 'qa'}", "--port", "0", "--json", "--quiet"]
        command += ["--precision", "8"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
            Page(chromium) as page,
        ):
            try:
                url = json.loads(server.stdout.readline())["url"]
                page.resize(1280)
                page.open_url(url + "/")
                check_playground(page, url, checks)
                refusals = sum(
                    "400 (Bad Request)" in json.dumps(e)
                    for e in page.events
                    if e.get("method") == "Log.entryAdded"
                )
                checks.expect(refusals == 1, "one refusal, which was asked for")
                page.open_url(url + "/")
                for tab, check in (
                    ("compare", check_compare),
                    ("answers", check_answers),
                    ("layers", check_layers),
                ):
                    page.click(f"tab-{tab}")
                    check(page, url, checks)
                check_tabs(page, checks)
                for problem in page.elsewhere(url):
                    checks.expect(False, problem)
                for dark in (False, True):
                    page.open_url(url + "/", dark)
                    page.set("play-max", "24")
                    page.click("play-run")
                    page.idle()
                    page.click("tab-answers")
                    page.set("answers-model", "qa")
                    for tab in ("answers", "compare", "layers"):
                        page.click(f"tab-{tab}")
                        page.click(f"{tab}-run")
                        page.idle()
                    for width in (1280, 400):
                        page.resize(width)
                        for tab in ("play", "compare", "answers", "layers"):
                            page.click(f"tab-{tab}")
                            wide = page.run("document.documentElement.scrollWidth")
                            checks.expect(wide <= width, f"{tab} fits into {width} pixels")
                            shade = "dark" if dark else "light"
                            page.screenshot(options.output_dir / f"{tab}_{width}_{shade}.png")
                    for problem in page.elsewhere(url):
                        checks.expect(False, problem)
            finally:
                server.terminate()
    print("\n".join(checks.problems) or "every control works")
    sys.exit(1 if checks.problems else 0)


if __name__ == "__main__":
    main()
