#!/usr/bin/env python3
"""Checks that `qalof download` and Python's huggingface_hub share one cache: a fake hub on this
machine serves the nano model to both.

What qalof downloaded, Python finds without a connection; what Python downloaded, qalof finds; each
waits for the other's locks; at once they leave one sound cache. Needs huggingface_hub.

  tools/interop/check_hub.py --qalof build/release/qalof
"""

import argparse
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPOSITORY = "org/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin")


class Hub:
    """Files of one repository; large ones come from a second address by a redirect."""

    def __init__(self, files):
        self.files = files
        self.requests = []
        self.storage = self.serve(("127.0.0.1", 0), self.answer_stored)
        self.server = self.serve(("127.0.0.1", 0), self.answer)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, address, answer):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, status, headers=(), body=b""):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_GET(self):
                hub.requests.append(f"{self.command} {self.path}")
                answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(address, Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    @staticmethod
    def name_of(name, data):
        if name.endswith(LARGE):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def answer_stored(self, request):
        for name, data in self.files.items():
            if request.path == "/" + self.name_of(name, data):
                request.reply(200, body=data)
                return
        request.reply(403)

    def answer(self, request):
        path = request.path.split("?")[0]
        api = f"/api/models/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in self.files]
            body = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}
            request.reply(200, body=json.dumps(body).encode())
        elif path == f"{api}/tree/{COMMIT}":
            request.reply(200, body=json.dumps(self.tree()).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self.resolve(request, path.split("/", 5)[5])
        else:
            request.reply(404, [("X-Error-Code", "RepoNotFound")])

    def tree(self):
        entries = []
        for name, data in self.files.items():
            entry = {"type": "file", "path": name, "size": len(data)}
            entry["oid"] = self.name_of(name, data)
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": entry["oid"], "size": len(data), "pointerSize": 134}
                entry["oid"] = "a" * 40
            entries.append(entry)
        return entries

    def resolve(self, request, name):
        commit = ("X-Repo-Commit", COMMIT)
        if name not in self.files:
            request.reply(404, [commit, ("X-Error-Code", "EntryNotFound")])
            return
        data = self.files[name]
        etag = f'"{self.name_of(name, data)}"'
        if name.endswith(LARGE):
            place = f"http://127.0.0.1:{self.storage.server_address[1]}/{etag.strip(chr(34))}"
            size = ("X-Linked-Size", str(len(data)))
            request.reply(302, [commit, ("X-Linked-Etag", etag), size, ("Location", place)])
        else:
            request.reply(200, [commit, ("ETag", etag)], data)


class Check:
    def __init__(self, qalof, hub, work):
        self.qalof, self.hub, self.work = qalof, hub, work

    def environment(self, cache, **more):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "HF_ENDPOINT": self.hub.url, "HF_HUB_CACHE": str(cache), **more}

    def start_qalof(self, cache, *arguments, **more):
        return subprocess.Popen(
            [self.qalof, *arguments],
            env=self.environment(cache, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_python(self, cache, code, **more):
        """Variables of huggingface_hub are read when it is imported: a process for each cache."""
        return subprocess.Popen(
            [sys.executable, "-c", "from huggingface_hub import *\n" + code],
            env=self.environment(cache, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def result(process):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.strip()

    def blobs_are_sound(self, cache):
        blobs = list(pathlib.Path(cache, "models--org--name/blobs").iterdir())
        for blob in blobs:
            name = "x.bin" if len(blob.name) == 64 else "x"
            assert Hub.name_of(name, blob.read_bytes()) == blob.name, blob
        return len(blobs)

    def python_finds_what_qalof_downloaded(self):
        cache = self.work / "ours"
        path = self.result(self.start_qalof(cache, "download", REPOSITORY))
        self.hub.requests.clear()
        code = f"""
import pathlib
path = snapshot_download("{REPOSITORY}", local_files_only=True)
for name in ("config.json", "tokenizer.json", "model.safetensors"):
    found = hf_hub_download("{REPOSITORY}", name, local_files_only=True)
    assert found == path + "/" + name == try_to_load_from_cache("{REPOSITORY}", name)
from huggingface_hub import _CACHED_NO_EXIST
assert try_to_load_from_cache("{REPOSITORY}", "merges.txt") is _CACHED_NO_EXIST
info = scan_cache_dir()
assert not info.warnings, info.warnings
(repository,) = info.repos
assert repository.repo_id == "{REPOSITORY}" and "main" in repository.refs
print(path)
"""
        assert self.result(self.start_python(cache, code, HF_HUB_OFFLINE="1")) == path
        assert not self.hub.requests, self.hub.requests
        # Online, it asks what is new and fetches nothing again.
        names = '"*.json", "*.safetensors"'
        code = f'print(snapshot_download("{REPOSITORY}", allow_patterns=[{names}]))'
        assert self.result(self.start_python(cache, code)) == path
        assert not [asked for asked in self.hub.requests if asked.startswith("GET /org/name")]
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            assert pathlib.Path(path, name).read_bytes() == self.hub.files[name]
        print(f"Python finds what qalof downloaded: {self.blobs_are_sound(cache)} blobs")

    def qalof_finds_what_python_downloaded(self):
        cache = self.work / "theirs"
        code = f'print(snapshot_download("{REPOSITORY}"))'
        path = self.result(self.start_python(cache, code))
        self.hub.requests.clear()
        offline = {"HF_HUB_OFFLINE": "1"}
        assert self.result(self.start_qalof(cache, "download", REPOSITORY, **offline)) == path
        flags = ["--model_name_or_path", REPOSITORY, "--prompt", "Hugo", "--max_new_tokens", "4"]
        text = self.result(self.start_qalof(cache, "generate", *flags, **offline))
        local = [str(ROOT / "assets/nano/model") if flag == REPOSITORY else flag for flag in flags]
        assert text == self.result(self.start_qalof(cache, "generate", *local, **offline))
        assert not self.hub.requests, self.hub.requests
        again = json.loads(self.result(self.start_qalof(cache, "download", REPOSITORY, "--json")))
        assert again["path"] == path and again["downloaded"] == 0, again
        print(f"qalof finds what Python downloaded: {self.blobs_are_sound(cache)} blobs")

    def qalof_waits_for_pythons_lock(self):
        cache = self.work / "locked"
        name = Hub.name_of("model.safetensors", self.hub.files["model.safetensors"])
        lock = cache / ".locks/models--org--name" / f"{name}.lock"
        lock.parent.mkdir(parents=True)
        code = f"""
import time
from huggingface_hub.utils import WeakFileLock
with WeakFileLock({str(lock)!r}):
    print("held", flush=True)
    time.sleep(2)
"""
        holder = self.start_python(cache, code)
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        self.result(self.start_qalof(cache, "download", REPOSITORY))
        assert time.monotonic() - begun > 1, "the lock was not honoured"
        holder.wait()
        print("qalof waits for Python's lock")

    def python_waits_for_qalofs_lock(self):
        # qalof locks by flock on the same file; so does this process in its place.
        cache = self.work / "locked_by_us"
        name = Hub.name_of("config.json", self.hub.files["config.json"])
        lock = cache / ".locks/models--org--name" / f"{name}.lock"
        lock.parent.mkdir(parents=True)
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            code = f'print(hf_hub_download("{REPOSITORY}", "config.json"))'
            process = self.start_python(cache, code)
            try:
                process.wait(timeout=3)
                raise AssertionError("the lock was not honoured")
            except subprocess.TimeoutExpired:
                pass
        self.result(process)
        print("Python waits for a lock as qalof takes it")

    def all_at_once(self):
        cache = self.work / "shared"
        code = f'print(snapshot_download("{REPOSITORY}"))'
        processes = [self.start_qalof(cache, "download", REPOSITORY) for _ in range(3)]
        processes += [self.start_python(cache, code) for _ in range(2)]
        (path,) = {self.result(process) for process in processes}
        assert pathlib.Path(path, "model.safetensors").read_bytes()
        print(f"five processes at once: {self.blobs_are_sound(cache)} blobs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", required=True)
    options = parser.parse_args()
    model = ROOT / "assets/nano/model"
    files = {path.name: path.read_bytes() for path in sorted(model.iterdir())}
    files["README.md"] = b"# A model\n"
    files["pytorch_model.bin"] = b"not read by anyone"
    with tempfile.TemporaryDirectory() as work:
        check = Check(os.path.abspath(options.qalof), Hub(files), pathlib.Path(work))
        check.python_finds_what_qalof_downloaded()
        check.qalof_finds_what_python_downloaded()
        check.qalof_waits_for_pythons_lock()
        check.python_waits_for_qalofs_lock()
        check.all_at_once()


if __name__ == "__main__":
    main()
