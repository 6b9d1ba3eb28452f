"""Attacks on some defences, and what every defence makes of the texts they left."""

import concurrent.futures
import json
import shlex
import shutil
import subprocess
import time

from attack_lib import data
from results_lib.runner import arguments_of, recorded
from results_lib.suite import digest, file_digest


def call(command, log):
    """The JSON object a qalof command prints, and its seconds."""
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{shlex.join(command)}\n{done.stderr}{done.stdout}", encoding="utf-8")
    if done.returncode != 0:
        raise RuntimeError(
            f"{shlex.join(command)}: exit status {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1]), round(time.monotonic() - start, 1)


def encode(outcomes):
    """Right and wrong as 1 and 0."""
    return "".join("1" if outcome else "0" for outcome in outcomes)


def decode(text):
    return [symbol == "1" for symbol in text]


class Matrix:
    def __init__(self, suite, models, arguments, journal, report=print):
        self.suite, self.models, self.journal, self.report = suite, models, journal, report
        self.qalof, self.threads, self.jobs = arguments.qalof, arguments.threads, arguments.jobs
        self.output, self.work = arguments.output_dir, arguments.output_dir / "work"
        self.num_samples = arguments.num_samples or suite.num_samples
        self.test = data.read_examples(arguments.test_file)
        self.test_file, self.test_key = arguments.test_file, file_digest(arguments.test_file)
        # Written with classes from 0, in the form whose text is taken as it stands.
        self.first_class = min(int(label) for _, label in self.test)

    def defence_key(self, defence):
        return digest([self.models.of_defence(defence)[0], defence.precision])

    # Attacks

    def attack(self, target):
        """The journal's line of an attack, which names the file of its texts."""
        defence = self.suite.defence(target.defence)
        model_key, model = self.models.of_defence(defence)
        lm_key, lm = self.models.language_model()
        flags = {**self.suite.attack, **target.flags}
        key = digest(
            [
                "attack",
                model_key,
                defence.precision,
                lm_key,
                flags,
                self.num_samples,
                self.test_key,
                self.suite.seed,
            ]
        )
        saved = self.output / "texts" / f"{target.id}.jsonl"
        line = self.journal.lines.get(key)
        if line is not None and saved.exists():
            return line
        directory = self.work / f"attack-{target.id}-{key}"
        if defence.is_random:  # the attacker knows the set, the defender draws from it
            model = [*model[:-2], "--precisions", defence.precision.removeprefix("random:")]
        command = [
            self.qalof,
            "attack",
            *model,
            "--reference_model",
            str(lm),
            "--validation_file",
            str(self.test_file),
            "--max_seq_length",
            str(self.suite.max_seq_length),
            "--num_samples",
            str(self.num_samples),
            "--seed",
            str(self.suite.seed),
            *arguments_of(flags),
            "--output_dir",
            str(directory),
        ]
        self.report(shlex.join(command))
        result, seconds = call(
            [*command, "--threads", str(self.threads), "--json"],
            self.work / "logs" / f"{directory.name}.txt",
        )
        saved.parent.mkdir(exist_ok=True)
        shutil.copyfile(directory / "attack.jsonl", saved)
        line = {
            "kind": "attack",
            "key": key,
            "target": target.id,
            "defence": defence.id,
            "command": recorded(command),
            "seconds": seconds,
            "result": result,
            "texts": file_digest(saved),
        }
        self.journal.add(line)
        return line

    def texts_of(self, target):
        """[(text, class from 0)] that an attack left, in the order of the test file."""
        rows = [
            json.loads(text)
            for text in (self.output / "texts" / f"{target.id}.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        ]
        return [(row["text"], int(row["label"])) for row in rows if "text" in row]

    # Scores

    def score(self, defence, name, examples, texts_key, seed):
        """The journal's line of one pass over examples; seed: of the widths drawn."""
        model_key, model = self.models.of_defence(defence)
        key = digest(
            [
                "score",
                model_key,
                defence.precision,
                name,
                texts_key,
                seed if defence.is_random else None,
            ]
        )
        if key in self.journal.lines:
            return self.journal.lines[key]
        directory = self.work / "scores" / key
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "texts.tsv"
        data.write_examples(path, [(text, label) for text, label in examples])
        command = [
            self.qalof,
            "eval",
            "--task",
            "classification",
            *model,
            "--validation_file",
            str(path),
            "--max_seq_length",
            str(self.suite.max_seq_length),
            "--output_dir",
            str(directory),
        ]
        if defence.is_random:
            command += ["--seed", str(seed)]
        result, _ = call(
            [*command, "--threads", str(self.threads), "--json"],
            self.work / "logs" / f"score-{key}.txt",
        )
        found = json.loads((directory / "eval_predictions.json").read_text(encoding="utf-8"))
        outcomes = [a == b for a, b in zip(found["labels"], found["predictions"], strict=True)]
        shutil.rmtree(directory)
        line = {
            "kind": "score",
            "key": key,
            "defence": defence.id,
            "texts": name,
            "seed": seed,
            "precision": result["precision"],
            "samples": len(outcomes),
            "right": encode(outcomes),
        }
        self.journal.add(line)
        return line

    def seeds(self, defence):
        return range(1, self.suite.draws + 1) if defence.is_random else [1]

    def clean(self):
        return [(text, int(label) - self.first_class) for text, label in self.test]

    def run(self, targets=None, attacks=True):
        """Everything the table needs that is not there; failures are told and left out."""
        chosen = [t for t in self.suite.targets if targets is None or t.id in targets]
        failed = {}

        def attempt(name, work):
            try:
                return work()
            except RuntimeError as error:
                failed[name] = str(error)
                self.report(f"{name}: {error}")
                return None

        for defence in self.suite.defences:
            self.models.of_defence(defence)  # one after the other: they depend on each other
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:

            def clean(defence):
                return [
                    self.score(defence, "clean", self.clean(), self.test_key, seed)
                    for seed in self.seeds(defence)
                ]

            list(
                pool.map(lambda d: attempt(f"clean {d.id}", lambda: clean(d)), self.suite.defences)
            )
            if attacks:
                list(pool.map(lambda t: attempt(f"attack {t.id}", lambda: self.attack(t)), chosen))
            cells = [
                (t, d)
                for t in chosen
                if (self.output / "texts" / f"{t.id}.jsonl").exists()
                for d in self.suite.defences
            ]

            def cell(target, defence):
                key = file_digest(self.output / "texts" / f"{target.id}.jsonl")
                return [
                    self.score(defence, target.id, self.texts_of(target), key, seed)
                    for seed in self.seeds(defence)
                ]

            list(pool.map(lambda c: attempt(f"{c[0].id} on {c[1].id}", lambda: cell(*c)), cells))
        return failed
