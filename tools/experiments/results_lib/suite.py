"""Suites: which rows are trained and how they are scored (docs/experiments.md, "Suites")."""

import dataclasses
import hashlib
import json
import pathlib
import re
import statistics
import tomllib

PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.-]+)\}")
SUITE_KEYS = {
    "title",
    "model",
    "train_file",
    "validation_file",
    "reference",
    "steps",
    "learning_rates",
    "choice_seed",
    "choice_file",
    "held_out",
    "final",
    "report",
    "train",
    "eval",
    "check",
    "row",
    "ablation",
    "notes",
    "every_seed",
    "token_tolerance",
    "tokens",
    "task",
}
ROW_KEYS = {"id", "name", "from", "train", "eval", "learning_rates", "passes", "steps"}


class SuiteError(Exception):
    pass


@dataclasses.dataclass
class Evaluation:
    id: str
    flags: dict  # of `qalof eval`
    quantize: dict | None  # flags of `qalof quantize`, whose file is scored instead


@dataclasses.dataclass
class Row:
    id: str
    name: str
    source: str  # the row whose output is scored
    train: dict | None  # flags of `qalof train`; None: nothing is trained
    evaluations: list
    learning_rates: list
    passes: int  # student forward passes in the steps that --max_steps counts
    steps: int | None = None  # instead of the suite's: of a row that others start from

    def needs(self):
        """Rows whose outputs this one starts from or learns from."""
        texts = [
            json.dumps(
                [
                    self.train,
                    [e.flags for e in self.evaluations],
                    [e.quantize for e in self.evaluations],
                ]
            )
        ]
        found = {name for text in texts for name in PLACEHOLDER.findall(text)} - {
            "model",
            "train_file",
        }
        return found | ({self.source} - {self.id})


@dataclasses.dataclass
class Suite:
    name: str
    title: str
    model: str
    train_file: str
    validation_file: str
    reference: str  # "ROW@EVALUATION" that gaps refer to
    steps: int  # student forward passes of every row, each of one batch
    learning_rates: list
    choice_seed: int
    choice_file: (
        str | None
    )  # questions that rates are chosen by; None: those held out of the training file
    held_out: float  # share of the training file's paragraphs
    final: str  # what is scored: "validation", or "held_out" questions of the training file
    report: str
    train: dict
    eval: dict
    checks: list
    rows: list
    notes: str
    ablation: dict | None
    every_seed: bool  # a row without one of the seeds does not count
    # share by which rows' student tokens may differ: they read other windows in another order
    token_tolerance: float
    tokens: (
        int | None
        # student tokens of every row of the table; steps are then of the runs that choose the rates
        # alone
    )
    task: str  # of `qalof train` and `qalof eval`: qa, or chat, whose answers are written anew

    def row(self, name):
        for row in self.rows:
            if row.id == name:
                return row
        raise SuiteError(
            f"{self.name}: no row {name}, expected one of {' '.join(row.id for row in self.rows)}"
        )

    def max_steps(self, row):
        steps = row.steps or self.steps
        if steps % row.passes:
            raise SuiteError(
                f"{self.name}: row {row.id}: {steps} steps do not divide by {row.passes} passes"
            )
        return steps // row.passes

    def budget(self, row, stage):
        """Flags that say how long a row's run is."""
        if stage != "final" or self.is_one_length(row):
            return {"max_steps": self.max_steps(row)}
        return {"max_tokens": self.tokens // (row.passes if row.train["method"] == "switch" else 1)}

    def stage(self, row, stage):
        """The stage whose run of a row serves another: the table's run and that of a choice may be
        one.
        """
        return "final" if self.choice_file and self.is_one_length(row) else stage

    def is_one_length(self, row):
        """Whether the table's run of a row is as long as those that choose its rate."""
        return self.tokens is None or row.steps is not None


def check_keys(table, known, where):
    for key in table:
        if key not in known:
            raise SuiteError(
                f"{where}: unknown key {key}, expected one of {' '.join(sorted(known))}"
            )


def count_passes(train):
    """Networks that share the steps --max_steps counts: a phase for each width of switch, all in a
    step of joint.
    """
    if train["method"] in ("switch", "joint"):
        return len(train.get("bit_widths", [8, 4]))
    return 1


def evaluation_id(table):
    precision = str(table.get("precision", "32"))
    return table.get("id") or pathlib.PurePath(precision).stem


def make_row(table, suite_rates, where):
    check_keys(table, ROW_KEYS, where)
    train = table.get("train")
    if (train is None) == ("from" not in table):
        raise SuiteError(f"{where}: expected either [train] or from")
    if train is not None and "method" not in train:
        raise SuiteError(f"{where}: [train] names no method")
    evaluations = []
    for entry in table.get("eval", []):
        flags = {key: value for key, value in entry.items() if key not in ("id", "quantize")}
        evaluations.append(Evaluation(evaluation_id(entry), flags, entry.get("quantize")))
    names = [evaluation.id for evaluation in evaluations]
    if not names or len(set(names)) != len(names):
        raise SuiteError(
            f"{where}: evaluations {names}: expected at least one, each with an id of its own"
        )
    passes = table.get("passes") or (count_passes(train) if train is not None else 1)
    return Row(
        table["id"],
        table.get("name", table["id"]),
        table.get("from", table["id"]),
        train,
        evaluations,
        table.get("learning_rates", suite_rates),
        passes,
        table.get("steps"),
    )


def read_toml(path):
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SuiteError(f"{path}: {error}") from error


def row_id(path):
    """Numbers in front of file names order the table: 20-lora.toml is the row lora."""
    return re.sub(r"^\d+-", "", path.stem)


def load(path):
    """A directory with suite.toml and a file per row, or one file with [[row]] or [ablation]
    inside.
    """
    from results_lib import ablation

    path = pathlib.Path(path)
    main = path / "suite.toml" if path.is_dir() else path
    table = read_toml(main)
    check_keys(table, SUITE_KEYS, main)
    for key in ("model", "train_file", "validation_file", "reference", "steps", "learning_rates"):
        if key not in table:
            raise SuiteError(f"{main}: {key} is missing")
    rates = table["learning_rates"]
    tables = [(dict(row), main) for row in table.get("row", [])]
    if path.is_dir():
        for file in sorted(path.glob("*.toml")):
            if file != main:
                tables.append(({"id": row_id(file), **read_toml(file)}, file))
    tables += [(row, main) for row in ablation.rows(table.get("ablation"), main)]
    rows = [make_row(row, rates, where) for row, where in tables]
    name = path.name if path.is_dir() else path.stem
    suite = Suite(
        name,
        table.get("title", name),
        table["model"],
        table["train_file"],
        table["validation_file"],
        table["reference"],
        table["steps"],
        rates,
        table.get("choice_seed", 1),
        table.get("choice_file"),
        table.get("held_out", 0.1),
        table.get("final", "validation"),
        table.get("report", f"docs/results_{name}.md"),
        table.get("train", {}),
        table.get("eval", {}),
        table.get("check", []),
        rows,
        table.get("notes", ""),
        table.get("ablation"),
        table.get("every_seed", True),
        table.get("token_tolerance", 0.02),
        table.get("tokens"),
        table.get("task", "qa"),
    )
    if suite.task not in ("qa", "chat"):
        raise SuiteError(f"{main}: task: found {suite.task}, expected qa or chat")
    if suite.task == "chat" and not suite.choice_file:
        raise SuiteError(f'{main}: task = "chat": choice_file is missing')
    if suite.choice_file and suite.final != "validation":
        raise SuiteError(
            f'{main}: choice_file and final = "{suite.final}": one file must not both choose and '
            "be scored"
        )
    known = [row.id for row in rows]
    if len(set(known)) != len(known):
        raise SuiteError(f"{main}: rows {known}: expected an id for each")
    for place, row in enumerate(rows):
        for needed in row.needs():
            if suite.row(needed) not in rows[:place]:
                raise SuiteError(f"{main}: row {row.id} needs {needed}, which must stand before it")
        suite.max_steps(row)
    return suite


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def file_digest(path):
    """Of a file, or of a model directory's files by name."""
    path = pathlib.Path(path)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:12]


def is_held_out(paragraph, share):
    """Decided by the id of a paragraph's first question alone: adding data moves nothing."""
    questions = paragraph["qas"]
    if not questions:
        return False
    word = hashlib.sha256(questions[0]["id"].encode()).digest()[:8]
    return int.from_bytes(word, "big") < share * 2**64


def split_squad(data, share):
    """(rest, held out): the SQuAD object with only the paragraphs of either part; a paragraph is
    never cut.
    """
    parts = []
    for wanted in (False, True):
        articles = []
        for article in data["data"]:
            paragraphs = [p for p in article["paragraphs"] if is_held_out(p, share) == wanted]
            if paragraphs:
                articles.append({**article, "paragraphs": paragraphs})
        parts.append({**data, "data": articles})
    return tuple(parts)


def choose_rate(scores):
    """The rate of the highest mean score, {rate: [score, ...]}; the first of equals."""
    return max(scores, key=lambda rate: statistics.fmean(scores[rate]))


def deviation(tokens, reference):
    return abs(tokens - reference) / reference
