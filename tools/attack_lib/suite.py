"""Suites of attacks: which models are made, who attacks whom, and what answers (docs/attack_results.md)."""
import dataclasses
import pathlib
import tomllib

TABLES = {
    "": {"title", "train_suffix", "seed", "vocabulary", "init", "language_model", "classifier", "adapters", "attack", "defence", "draws"},
    "adapters": {"id", "train"},
    "defence": {"id", "name", "model", "precision"},
    "attack": {"flags", "num_samples", "clean_samples", "target"},
    "target": {"id", "name", "defence", "flags"},
}


class SuiteError(Exception):
    pass


@dataclasses.dataclass
class Defence:
    """What answers a request: a trained form and the precision it runs in."""
    id: str
    name: str
    model: str  # "classifier", or the id of adapters on it
    precision: str

    @property
    def is_random(self):
        return self.precision.startswith("random:")


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
    vocabulary: dict
    init: dict  # flags of `qalof init`
    language_model: dict
    classifier: dict
    adapters: dict  # id -> flags of `qalof train`
    defences: list
    targets: list
    attack: dict  # flags of `qalof attack` for every target
    num_samples: int
    draws: int  # seeds under which a random defence is scored

    def defence(self, name):
        for defence in self.defences:
            if defence.id == name:
                return defence
        raise SuiteError(f"{self.name}: no defence {name}, expected one of {' '.join(d.id for d in self.defences)}")


def check_keys(table, kind, where):
    for key in table:
        if key not in TABLES[kind]:
            raise SuiteError(f"{where}: unknown key {key}, expected one of {' '.join(sorted(TABLES[kind]))}")


def load(path):
    path = pathlib.Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SuiteError(f"{path}: {error}") from error
    check_keys(table, "", path)
    attack = table["attack"]
    check_keys(attack, "attack", path)
    for kind, rows in (("adapters", table["adapters"]), ("defence", table["defence"]), ("target", attack["target"])):
        for row in rows:
            check_keys(row, kind, path)
    defences = [Defence(row["id"], row["name"], row["model"], str(row["precision"])) for row in table["defence"]]
    targets = [Target(row["id"], row["name"], row["defence"], row.get("flags", {})) for row in attack["target"]]
    suite = Suite(path.stem, table["title"], table.get("seed", 1), table["vocabulary"], table.get("init", {}),
                  table["language_model"], table["classifier"], {row["id"]: row["train"] for row in table["adapters"]}, defences, targets,
                  attack.get("flags", {}), attack["num_samples"], table.get("draws", 5))
    for defence in defences:
        if defence.model != "classifier" and defence.model not in suite.adapters:
            raise SuiteError(f"{path}: defence {defence.id}: no adapters {defence.model}, "
                             f"expected classifier or one of {' '.join(suite.adapters)}")
    for target in targets:
        suite.defence(target.defence)
    return suite
