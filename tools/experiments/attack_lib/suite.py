"""Suites of attacks: which models are made, who attacks whom, and what answers
(docs/attack_results.md).
"""

import dataclasses
import pathlib
import tomllib

TABLES = {
    "": {
        "title",
        "seed",
        "model",
        "max_seq_length",
        "vocabulary",
        "init",
        "language_model",
        "classifier",
        "adapters",
        "attack",
        "defence",
        "draws",
    },
    "adapters": {"id", "from", "train"},
    "defence": {"id", "name", "model", "precision"},
    "attack": {"flags", "num_samples", "target"},
    "target": {"id", "name", "defence", "flags"},
}


class SuiteError(Exception):
    pass


@dataclasses.dataclass
class Defence:
    """What answers a request: a trained form and the precision it runs in."""

    id: str
    name: str
    model: str  # "classifier" (where the suite makes one), or the id of adapters
    precision: str

    @property
    def is_random(self):
        return self.precision.startswith("random:")


@dataclasses.dataclass
class Adapters:
    id: str
    train: dict  # flags of `qalof train`
    source: str | None  # adapters they start from


@dataclasses.dataclass
class Target:
    """An attack, made against one defence; its texts are scored on all."""

    id: str
    name: str
    defence: str
    flags: dict


@dataclasses.dataclass
class Suite:
    name: str
    title: str
    seed: int
    model: (
        str | None
        # a pretrained model that adapters are trained on and that is the attack's reference; else
        # all of these:
    )
    vocabulary: dict
    init: dict  # flags of `qalof init`
    language_model: dict
    classifier: dict
    max_seq_length: int  # of attacks and scores
    adapters: dict  # id -> Adapters
    defences: list
    targets: list
    attack: dict  # flags of `qalof attack` for every target
    num_samples: int
    draws: int  # seeds under which a random defence is scored

    def defence(self, name):
        for defence in self.defences:
            if defence.id == name:
                return defence
        raise SuiteError(
            f"{self.name}: no defence {name}, expected one of "
            f"{' '.join(d.id for d in self.defences)}"
        )


def check_keys(table, kind, where):
    for key in table:
        if key not in TABLES[kind]:
            raise SuiteError(
                f"{where}: unknown key {key}, expected one of {' '.join(sorted(TABLES[kind]))}"
            )


def load(path):
    path = pathlib.Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SuiteError(f"{path}: {error}") from error
    check_keys(table, "", path)
    attack = table["attack"]
    check_keys(attack, "attack", path)
    for kind, rows in (
        ("adapters", table["adapters"]),
        ("defence", table["defence"]),
        ("target", attack["target"]),
    ):
        for row in rows:
            check_keys(row, kind, path)
    defences = [
        Defence(row["id"], row["name"], row["model"], str(row["precision"]))
        for row in table["defence"]
    ]
    targets = [
        Target(row["id"], row["name"], row["defence"], row.get("flags", {}))
        for row in attack["target"]
    ]
    made = [key for key in ("vocabulary", "language_model", "classifier") if key in table]
    if len(made) != (0 if "model" in table else 3):
        raise SuiteError(
            f"{path}: expected model, or vocabulary, language_model and classifier, found "
            f"{' '.join(made) or 'none'}"
            f"{' beside model' if 'model' in table else ''}"
        )
    classifier = table.get("classifier", {})
    length = table.get("max_seq_length", classifier.get("max_seq_length"))
    if length is None:
        raise SuiteError(f"{path}: no max_seq_length, neither of the suite nor of the classifier")
    adapters = {
        row["id"]: Adapters(row["id"], row["train"], row.get("from")) for row in table["adapters"]
    }
    suite = Suite(
        path.stem,
        table["title"],
        table.get("seed", 1),
        table.get("model"),
        table.get("vocabulary", {}),
        table.get("init", {}),
        table.get("language_model", {}),
        classifier,
        length,
        adapters,
        defences,
        targets,
        attack.get("flags", {}),
        attack["num_samples"],
        table.get("draws", 5),
    )
    known = list(adapters) if suite.model else ["classifier", *adapters]
    for defence in defences:
        if defence.model not in known:
            raise SuiteError(
                f"{path}: defence {defence.id}: no model {defence.model}, expected one of "
                f"{' '.join(known)}"
            )
    for index, row in enumerate(adapters.values()):
        if row.source is not None and row.source not in list(adapters)[:index]:
            raise SuiteError(
                f"{path}: adapters {row.id}: they start from {row.source}, which is not listed "
                "before them"
            )
    for target in targets:
        suite.defence(target.defence)
    return suite
