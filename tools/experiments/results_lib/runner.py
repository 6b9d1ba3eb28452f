"""Runs a suite: trainings and evaluations as processes, each once, with a journal to go on from."""

import concurrent.futures
import contextlib
import fcntl
import json
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading

from results_lib import journal as journals
from results_lib.suite import PLACEHOLDER, choose_rate, digest, file_digest, split_squad

TOOLS = pathlib.Path(__file__).resolve().parents[2]


class RunError(Exception):
    pass


class Stopped(Exception):
    pass


def recorded(command):
    """A command as journals and documents hold it: runnable anywhere, with no program's own place
    in it.
    """
    words = list(command)
    if words[0] == sys.executable:
        words = ["python3", f"tools/{pathlib.Path(words[1]).relative_to(TOOLS)}", *words[2:]]
    else:
        words[0] = "qalof"
    return shlex.join(words)


def arguments_of(flags):
    """Flags as `--config` reads them, as arguments."""
    arguments = []
    for name, value in flags.items():
        if value is False:
            continue
        arguments.append(f"--{name}")
        if value is not True:
            arguments += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return arguments


def fill(value, places):
    """value with {NAME} in its strings replaced."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: places(match[1]), value)
    if isinstance(value, list):
        return [fill(item, places) for item in value]
    return (
        {key: fill(item, places) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


class Processes:
    """At most jobs at a time. stop() lets those that run save themselves."""

    def __init__(self, jobs):
        self.slots = threading.Semaphore(jobs)
        self.lock = threading.Lock()
        self.running = set()
        self.stopped = False

    def call(self, command, log):
        """The JSON object a qalof command prints."""
        with self.slots:
            with self.lock:
                if self.stopped:
                    raise Stopped()
                # A session of its own: an interrupt at the terminal reaches it through stop()
                # alone, once.
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self.running.add(process)
            out, err = process.communicate()
            with self.lock:
                self.running.discard(process)
                if self.stopped:
                    raise Stopped()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{shlex.join(command)}\n{err}{out}", encoding="utf-8")
        if process.returncode != 0:
            last = err.strip().splitlines()[-1:] or ["no message"]
            raise RunError(f"{shlex.join(command)}: exit status {process.returncode}: {last[0]}")
        return json.loads(out.strip().splitlines()[-1])

    def stop(self):
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.send_signal(signal.SIGTERM)


class Runner:
    def __init__(
        self, suite, output_dir, qalof, jobs, threads, report=print, device="cpu", shard=None
    ):
        self.shard = shard  # (I, N): of N calls that share the work, this is number I; None: alone
        self.suite, self.qalof, self.threads, self.report = suite, qalof, threads, report
        self.device = device  # of training; an evaluation is the packed runtime's
        self.work = pathlib.Path(output_dir) / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.journal = journals.Journal(pathlib.Path(output_dir) / "scores.jsonl", shard)
        self.processes = Processes(jobs)
        self.version = subprocess.run(
            [qalof, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip()
        self.files = {
            "model": suite.model,
            "all": suite.train_file,
            "validation": suite.validation_file,
            **({"choice": suite.choice_file} if suite.choice_file else self._split()),
        }
        self.digests = {name: file_digest(path) for name, path in self.files.items()}
        self.used = set()  # keys of lines that this suite needs
        self._futures = {}
        self._lock = threading.Lock()

    def _split(self):
        """The training file without the held-out questions, and those."""
        with open(self.suite.train_file, encoding="utf-8") as file:
            parts = split_squad(json.load(file), self.suite.held_out)
        paths = {}
        for name, part in zip(("rest", "held_out"), parts, strict=True):
            path = self.work / f"{name}.json"
            journals.write_whole(path, json.dumps(part))
            paths[name] = str(path)
        return paths

    def _task(self, usual=None):
        """Flags that name the task; none for the one that is usual where usual is None."""
        task = usual if self.suite.task == "qa" else self.suite.task
        return ["--task", task] if task else []

    def _metric(self, name):
        return name if self.suite.task == "chat" else f"eval_{name}"

    def _scores(self, output):
        """[[exact match, F1], ...] of every question, as `qalof eval` left them."""
        if self.suite.task == "qa":
            scores = json.loads((output / "eval_scores.json").read_text(encoding="utf-8"))
            return list(scores.values())
        lines = (output / "eval_answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers = sorted((json.loads(line) for line in lines), key=lambda one: one["line"])
        return [[one["exact_match"], one["f1"]] for one in answers]

    def _count_questions(self, path):
        with open(path, encoding="utf-8") as file:
            if self.suite.task == "chat":
                return sum(1 for line in file if line.strip())
            return sum(len(p["qas"]) for a in json.load(file)["data"] for p in a["paragraphs"])

    @contextlib.contextmanager
    def alone(self, name):
        """Of all shards one at a time does what is called name. A killed one lets go."""
        folder = self.work / "locks"
        folder.mkdir(exist_ok=True)
        with (folder / name).open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def once(self, key, function):
        """The result of function, computed by the first who asks; others wait."""
        with self._lock:
            future = self._futures.get(key)
            mine = future is None
            if mine:
                future = self._futures[key] = concurrent.futures.Future()
        if mine:
            try:
                future.set_result(function())
            except BaseException as error:  # whoever waits must learn of it
                future.set_exception(error)
        return future.result()

    def _places(self, stage, seed):
        def place(name):
            if name == "model":
                return self.suite.model
            if name == "train_file":
                return self.files[self._data(stage)[0]]
            return self.trained(self.suite.row(name), stage, seed)

        return place

    def _data(self, stage):
        """Names of the files a stage trains on and scores."""
        if stage == "final" and self.suite.final == "validation":
            return "all", "validation"
        return ("all", "choice") if self.suite.choice_file else ("rest", "held_out")

    def _keys_of(self, flags, stage, seed):
        """Of the rows whose outputs flags name, and what the plan files hold that they name."""
        names = set(PLACEHOLDER.findall(json.dumps(flags))) - {"model", "train_file"}
        keys = {
            name: self._training(self.suite.row(name), stage, seed)[0] for name in sorted(names)
        }
        plans = [
            value for value in flags.values() if isinstance(value, str) and value.endswith(".json")
        ]
        return {
            **keys,
            **{plan: file_digest(plan) for plan in plans if pathlib.Path(plan).exists()},
        }

    def _training(self, row, stage, seed, rate=None):
        """(key, rate, row) of a training: what tells it from every other, and which row's it is."""
        if row.train is None:
            return self._training(self.suite.row(row.source), stage, seed)
        if rate is None:
            rate = self.chosen_rate(row)
        flags = self._train_flags(row, stage, rate)
        parts = [
            flags,
            self.digests["model"],
            self.digests[self._data(stage)[0]],
            seed,
            self._keys_of(flags, stage, seed),
        ]
        return digest(parts), rate, row

    def _train_flags(self, row, stage, rate):
        return {
            **self.suite.train,
            **row.train,
            "learning_rate": rate,
            **self.suite.budget(row, stage),
        }

    def _use(self, *keys):
        with self._lock:
            self.used.update(keys)

    def trained(self, row, stage, seed, rate=None):
        """The directory a training wrote, at the chosen rate unless rate is given."""
        stage = self.suite.stage(row, stage)
        key, rate, row = self._training(row, stage, seed, rate)

        def train():
            with self.alone(f"{row.id}-{stage}-{seed}-{key}"):
                return self._train(row, stage, seed, rate, key)

        return self.once(("train", key), train)

    def _train(self, row, stage, seed, rate, key):
        data, flags = self._data(stage)[0], self._train_flags(row, stage, rate)
        directory = self.work / f"{row.id}-{stage}-{seed}-{key}"
        done = directory / "all_results.json"
        if self.journal.knows(key) and done.exists():
            return str(directory)
        filled = fill(flags, self._places(stage, seed))
        command = [
            self.qalof,
            "train",
            "--model_name_or_path",
            self.suite.model,
            *self._task(),
            "--train_file",
            self.files[data],
            *arguments_of(filled),
            "--seed",
            str(seed),
            "--output_dir",
            str(directory),
        ]
        result = None
        if done.exists():
            result = json.loads(done.read_text(encoding="utf-8"))
        if result is None or result.get("interrupted", True):
            result = self.processes.call(
                [*command, "--device", self.device, "--threads", str(self.threads), "--json"],
                self.work / "logs" / f"{directory.name}.txt",
            )
        line = {
            "kind": "train",
            "row": row.id,
            "stage": stage,
            "seed": seed,
            "rate": rate,
            "key": key,
            "tokens": result["tokens"],
            "steps": result["steps"],
            "loss": round(result["train_loss"], 4),
            "seconds": round(sum(phase["seconds"] for phase in result["phases"]), 1),
            "version": self.version,
        }
        if stage == "final":
            line["command"] = recorded(command)
        self.journal.add(line)
        return str(directory)

    def scored(self, row, evaluation, stage, seed, rate=None):
        return self.once(
            ("eval", row.id, evaluation.id, stage, seed, rate),
            lambda: self._score(row, evaluation, stage, seed, rate),
        )

    def _score(self, row, evaluation, stage, seed, rate):
        scored = self._data(stage)[1]
        source = self.suite.row(row.source)
        train_key, rate, source = self._training(source, stage, seed, rate)
        flags = {**self.suite.eval, **evaluation.flags}
        key = digest(
            [
                train_key,
                flags,
                evaluation.quantize,
                self.digests[scored],
                row.id,
                evaluation.id,
                self._keys_of({**flags, **(evaluation.quantize or {})}, stage, seed),
            ]
        )
        self._use(train_key, key)
        name = f"{row.id}-{evaluation.id}-{stage}-{seed}-{key}"
        with self.alone(name):
            if self.journal.knows(key, train_key):
                return self.journal.lines[key]
            directory = self.trained(source, stage, seed, rate)
            line = self._measure(name, row, evaluation, stage, seed, rate, key, flags, directory)
            self.journal.add(line)
        self.report(
            f"{row.id}@{evaluation.id} {stage} seed {seed} rate {rate:g}: EM {line['em']:.2f} "
            f"F1 {line['f1']:.2f}"
        )
        return line

    def _measure(self, name, row, evaluation, stage, seed, rate, key, flags, directory):
        places, scored = self._places(stage, seed), self._data(stage)[1]
        source = self._training(self.suite.row(row.source), stage, seed, rate)[2]
        model = ["--model_name_or_path", directory]
        if source.train["method"] != "full":
            model = ["--model_name_or_path", self.suite.model, "--adapter", directory]
        commands, packed = [], self.work / f"{name}.qalof"
        if evaluation.quantize is not None:
            commands.append(
                [
                    self.qalof,
                    "quantize",
                    *model,
                    *arguments_of(fill(evaluation.quantize, places)),
                    "--output",
                    str(packed),
                ]
            )
            model = ["--model_name_or_path", str(packed)]
        output = self.work / "eval" / name
        commands.append(
            [
                self.qalof,
                "eval",
                *self._task("qa"),
                *model,
                "--validation_file",
                self.files[scored],
                *arguments_of(fill(flags, places)),
                "--output_dir",
                str(output),
            ]
        )
        for step, command in enumerate(commands):
            result = self.processes.call(
                [*command, "--threads", str(self.threads), "--json"],
                self.work / "logs" / f"{name}-{step}.txt",
            )
        line = {
            "kind": "eval",
            "row": row.id,
            "eval": evaluation.id,
            "stage": stage,
            "seed": seed,
            "rate": rate,
            "key": key,
            "precision": result["precision"],
            "em": round(result[self._metric("exact_match")], 4),
            "f1": round(result[self._metric("f1")], 4),
            "bits": {name: round(bits, 3) for name, bits in result["effective_bits"].items()},
            "bytes": result["bytes"],
            "version": self.version,
        }
        if stage == "final":
            line["scores"] = journals.encode_scores(self._scores(output))
            line["commands"] = [recorded(command) for command in commands]
        shutil.rmtree(output)
        packed.unlink(missing_ok=True)
        return line

    def chosen_rate(self, row):
        if len(row.learning_rates) == 1:
            return row.learning_rates[0]
        return self.once(("rate", row.id), lambda: self._choose(row))

    def _choose(self, row):
        """Every rate is tried in a thread of its own; the mean over evaluations decides."""

        def scores(rate):
            return [
                self.scored(row, evaluation, "choice", self.suite.choice_seed, rate)["f1"]
                for evaluation in row.evaluations
            ]

        with concurrent.futures.ThreadPoolExecutor(len(row.learning_rates)) as pool:
            found = dict(zip(row.learning_rates, pool.map(scores, row.learning_rates), strict=True))
        rate = choose_rate(found)
        self.report(
            f"{row.id}: rate {rate:g} of "
            + ", ".join(f"{r:g} (F1 {sum(f) / len(f):.2f})" for r, f in found.items())
        )
        return rate

    def run(self, rows, seeds):
        """Everything the table needs, or this shard's part of it. Returns {what: error} of what
        failed.
        """
        work = [
            (row, evaluation, seed)
            for row in rows
            for seed in seeds
            for evaluation in row.evaluations
        ]
        if self.shard is not None:
            work = work[self.shard[0] - 1 :: self.shard[1]]
        failed = {}
        with concurrent.futures.ThreadPoolExecutor(max(1, len(work))) as pool:
            futures = {
                pool.submit(
                    self.scored, row, evaluation, "final", seed
                ): f"{row.id}@{evaluation.id} seed {seed}"
                for row, evaluation, seed in work
            }
            try:
                for future in concurrent.futures.as_completed(futures):
                    error = future.exception()
                    if isinstance(error, Stopped):
                        raise KeyboardInterrupt
                    if error is not None:
                        failed[futures[future]] = str(error)
                        self.report(f"{futures[future]}: {error}")
            except KeyboardInterrupt:
                self.processes.stop()
                raise
        if self.shard is not None:
            return failed
        complete = not failed and rows == self.suite.rows
        self.finish(self._order(seeds) if complete else None)
        return failed

    def _order(self, seeds):
        """Keys of the lines to keep, as the table has them. Those of earlier forms of the suite are
        left out; of seeds that this call did not ask for nothing is known."""
        place = {row.id: number for number, row in enumerate(self.suite.rows)}
        lines = [
            line
            for key, line in self.journal.lines.items()
            if line["row"] in place
            and (key in self.used or (line["stage"] == "final" and line["seed"] not in seeds))
        ]
        return [
            line["key"]
            for line in sorted(
                lines,
                key=lambda line: (
                    place[line["row"]],
                    line["stage"],
                    line["seed"],
                    line["rate"],
                    line["kind"] != "train",
                    line["key"],
                ),
            )
        ]

    def finish(self, keys):
        questions = self._count_questions(self.files[self._data("final")[1]])
        questions = min(questions, self.suite.eval.get("max_eval_samples", questions))
        self.journal.header = {
            "format_version": 1,
            "suite": self.suite.name,
            "model": self.suite.model,
            "model_sha256": self.digests["model"],
            "questions": questions,
            "scored": self._data("final")[1],
            "scored_sha256": self.digests[self._data("final")[1]],
        }
        self.journal.rewrite(keys)


def describe_machine(qalof, jobs, threads, device):
    done = subprocess.run([qalof, "doctor", "--json"], capture_output=True, text=True, check=True)
    info = json.loads(done.stdout)
    trained = "" if device == "cpu" else f" Trained on {device}, scored on this processor."
    return {
        "machine": f"{info['processor']}, instruction set {info['isa']}, {jobs} "
        f"run{'s' * (jobs != 1)} at a time.{trained}",
        "threads": f"{threads} thread{'s' * (threads != 1)}",
    }
