"""The models of a suite, each by one recorded command: vocabulary, random weights, language model
and classifier, unless a pretrained model is named, and adapters. What is there already is not made
again."""

import json
import pathlib
import shlex
import subprocess
import sys
import time

from attack_lib import data
from results_lib.runner import TOOLS, arguments_of, recorded
from results_lib.suite import digest, file_digest


class Models:
    def __init__(self, suite, arguments, journal, report=print):
        self.suite, self.journal, self.report = suite, journal, report
        self.qalof, self.threads = arguments.qalof, arguments.threads
        self.train_file, self.test_file = arguments.train_file, arguments.test_file
        self.work = arguments.output_dir / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.data_key = file_digest(self.train_file)

    def _run(self, kind, key, command, directory):
        """Runs a command that makes directory, unless its line and the directory are there."""
        line = self.journal.lines.get(key)
        if line is not None and directory.exists():
            return line
        self.report(shlex.join(command))
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        log = self.work / "logs" / f"{directory.name}.txt"
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"{shlex.join(command)}\n{done.stderr}{done.stdout}", encoding="utf-8")
        if done.returncode != 0:
            raise RuntimeError(
                f"{shlex.join(command)}: exit status {done.returncode}: "
                f"{done.stderr.strip()[-300:]}"
            )
        line = {
            "kind": kind,
            "key": key,
            "command": recorded(command),
            "seconds": round(time.monotonic() - start, 1),
        }
        if kind == "train":
            result = json.loads(done.stdout.strip().splitlines()[-1])
            line.update(
                loss=round(result["train_loss"], 4),
                steps=result["steps"],
                eval=[
                    {
                        name: score[name]
                        for name in ("width", "precision", "eval_accuracy", "eval_loss")
                        if name in score
                    }
                    for score in result.get("eval", [])
                ],
            )
        self.journal.add(line)
        return line

    def texts(self):
        path = self.work / "texts.txt"
        if not path.exists():
            data.write_texts(path, data.read_examples(self.train_file))
        return path

    def start(self):
        """Tokenizer, config and random weights."""
        vocabulary = self.suite.vocabulary
        key = digest(["start", vocabulary, self.suite.init, self.data_key])
        tokenizer, directory = self.work / f"tokenizer-{key}", self.work / f"start-{key}"
        self._run(
            "vocabulary",
            key + "v",
            [
                sys.executable,
                str(TOOLS / "fixtures/train_nano_vocab.py"),
                "--text",
                str(self.texts()),
                *arguments_of(vocabulary),
                "--output_dir",
                str(tokenizer),
            ],
            tokenizer,
        )
        self._run(
            "init",
            key + "i",
            [
                self.qalof,
                "init",
                "--config_name",
                str(tokenizer),
                "--tokenizer_name",
                str(tokenizer),
                *arguments_of(self.suite.init),
                "--output_dir",
                str(directory),
            ],
            directory,
        )
        return key, directory

    def _train(self, name, source_key, source, flags, train_file):
        key = digest([name, flags, source_key, self.data_key, self.suite.seed])
        directory = self.work / f"{name}-{key}"
        command = [
            self.qalof,
            "train",
            "--model_name_or_path",
            str(source),
            "--train_file",
            str(train_file),
            *arguments_of(flags),
            "--seed",
            str(self.suite.seed),
            "--output_dir",
            str(directory),
        ]
        self._run("train", key, [*command, "--threads", str(self.threads), "--json"], directory)
        return key, directory

    def language_model(self):
        if self.suite.model:
            return digest(["model", self.suite.model]), pathlib.Path(self.suite.model)
        key, start = self.start()
        return self._train(
            "lm",
            key,
            start,
            {"task": "lm", "method": "full", **self.suite.language_model},
            self.texts(),
        )

    def base(self):
        """What adapters are trained on: the suite's classifier or the pretrained model."""
        key, start = self.language_model()
        if self.suite.model:
            return key, start
        flags = {
            "task": "classification",
            "method": "full",
            "validation_file": str(self.test_file),
            **self.suite.classifier,
        }
        return self._train("classifier", key, start, flags, self.train_file)

    def adapters(self, name):
        key, base = self.base()
        adapters = self.suite.adapters[name]
        flags = {"task": "classification", "validation_file": str(self.test_file), **adapters.train}
        if adapters.source is not None:
            source_key, source = self.adapters(adapters.source)
            key, flags["adapter"] = digest([key, source_key]), str(source)
        return self._train(name, key, base, flags, self.train_file)

    def of_defence(self, defence):
        """(key, flags of qalof that open it)."""
        key, base = self.base()
        flags = ["--model_name_or_path", str(base)]
        if defence.model != "classifier":
            key, directory = self.adapters(defence.model)
            flags += ["--adapter", str(directory)]
        return key, [*flags, "--precision", defence.precision]
