"""Tables of a journal: means, spread, intervals, checks."""

import itertools
import json
import textwrap

from results_lib import ablation
from results_lib.journal import decode_scores
from results_lib.suite import choose_rate, deviation
from shared.statistics import Bootstrap, mean_and_spread


class Results:
    """What the lines of a journal say about the rows of a suite."""

    def __init__(self, suite, journal, keys=None):
        """keys: of the lines that count; None: all."""

        def find(**wanted):
            return [line for line in journal.find(**wanted) if keys is None or line["key"] in keys]

        self.suite = suite
        self.cells = {}  # (row, evaluation) -> {seed: line}
        for line in find(kind="eval", stage="final"):
            self.cells.setdefault((line["row"], line["eval"]), {})[line["seed"]] = line
        scored = {
            (suite.row(row).source, seed, line["rate"])
            for (row, _), cell in self.cells.items()
            for seed, line in cell.items()
        }
        # row -> {seed: line}, of what was scored: a rate that was not chosen may have a line as
        # well
        self.trains = {}
        for line in find(kind="train", stage="final"):
            if (line["row"], line["seed"], line["rate"]) in scored:
                self.trains.setdefault(line["row"], {})[line["seed"]] = line
        self.choices = {}  # row -> {rate: [F1, ...]}
        for line in find(kind="eval", stage="choice"):
            self.choices.setdefault(line["row"], {}).setdefault(line["rate"], []).append(line["f1"])
        self.seeds = sorted({seed for cell in self.cells.values() for seed in cell})
        self.questions = journal.header.get("questions", 0)
        self._bootstraps = {}  # by number of seeds
        self._scores = {}

    def seeds_of(self, name):
        return set(self.cells.get(split_name(name), {}))

    def complete(self, name):
        """Whether a row counts: every seed that any row has, or one where the suite says so."""
        seeds = self.seeds_of(name)
        return seeds == set(self.seeds) if self.suite.every_seed else bool(seeds)

    def scores(self, name, seed):
        """(EM, F1) of every question."""
        if (name, seed) not in self._scores:
            self._scores[name, seed] = decode_scores(self.cells[split_name(name)][seed]["scores"])
        return self._scores[name, seed]

    def shared_seeds(self, *names):
        return sorted(set.intersection(*(self.seeds_of(name) for name in names)))

    def mean_f1(self, name, seeds):
        cell = self.cells[split_name(name)]
        return mean_and_spread([cell[seed]["f1"] for seed in seeds])[0]

    def difference(self, name, reference, metric="f1"):
        """Over the seeds that both have; None where there are none."""
        seeds = self.shared_seeds(name, reference)
        if not seeds:
            return None
        if len(seeds) not in self._bootstraps:
            self._bootstraps[len(seeds)] = Bootstrap(self.questions, len(seeds))
        place = ("em", "f1").index(metric)
        return self._bootstraps[len(seeds)].difference(
            *(
                [[scores[place] for scores in self.scores(side, seed)] for seed in seeds]
                for side in (name, reference)
            )
        )

    def names(self):
        return [
            f"{row.id}@{evaluation.id}"
            for row in self.suite.rows
            for evaluation in row.evaluations
            if self.complete(f"{row.id}@{evaluation.id}")
        ]


def split_name(name):
    row, _, evaluation = name.partition("@")
    return row, evaluation


def summarize(results):
    """A list of objects, one per scored row, for JSON and the table."""
    found = []
    for name in results.names():
        row_id, evaluation = split_name(name)
        row = results.suite.row(row_id)
        lines = list(results.cells[row_id, evaluation].values())
        trained = list(results.trains.get(row.source, {}).values())
        em, f1 = (mean_and_spread([line[key] for line in lines]) for key in ("em", "f1"))
        own = row.train is not None
        entry = {
            "row": name,
            "text": row.name,
            "precision": lines[0]["precision"],
            "seeds": len(lines),
            "em": em[0],
            "em_spread": em[1],
            "f1": f1[0],
            "f1_spread": f1[1],
            "bits": lines[0]["bits"],
            "bytes": lines[0]["bytes"],
            "rate": lines[0]["rate"],
            "from": None if own else row.source,
            "tokens": mean_and_spread([t["tokens"] for t in trained])[0] if own and trained else 0,
            "seconds": mean_and_spread([t["seconds"] for t in trained])[0]
            if own and trained
            else 0,
        }
        for key, metric in (("gap_em", "em"), ("gap", "f1")):
            gap = results.difference(name, results.suite.reference, metric)
            if gap is not None and results.complete(results.suite.reference):
                entry[key] = gap
        found.append(entry)
    return found


def check_tokens(results):
    """(passed, text): every training read as many student tokens as the reference's of its seed;
    where that has steps of its own, because others start from it, as the first row's that has not.
    """
    suite = results.suite
    trains = {row: lines for row, lines in results.trains.items() if suite.row(row).steps is None}
    named = split_name(suite.reference)[0]
    reference = trains.get(named) or next(iter(trains.values()), None)
    if not reference or (suite.row(named).steps is None and named not in trains):
        return False, "student tokens: the reference has not run"
    worst, where = 0.0, ""
    for row, lines in trains.items():
        for seed, line in lines.items():
            if seed in reference:
                gap = deviation(line["tokens"], reference[seed]["tokens"])
                if gap >= worst:
                    worst, where = gap, f"{row}, seed {seed}"
    return worst <= suite.token_tolerance, (
        f"student tokens of {len(trains)} trained rows: at most "
        f"{100 * worst:.2f} % from the reference's ({where}), allowed "
        f"{100 * suite.token_tolerance:g} %"
    )


def check_difference(results, check):
    metric = check.get("metric", "f1")
    gap = results.difference(check["row"], check["than"], metric)
    least, strict = check.get("at_least", 0), check.get("at_least") is None
    passed = gap["mean"] > 0 if strict else gap["mean"] >= least
    expected = "more than 0" if strict else f"at least {least:g}"
    if check.get("or_interval", False):
        passed = passed or gap["low"] <= least <= gap["high"]
        expected += f", or {least:g} in the 95 % interval [{gap['low']:+.2f}, {gap['high']:+.2f}]"
    return passed, (
        f"{metric.upper()} of {check['row']} minus {check['than']}: {gap['mean']:+.2f} ± "
        f"{gap['standard_error']:.2f}, "
        f"expected {expected}"
    )


def check_steps(results, check):
    """No step from an evaluation to the next, which has more bits, loses more than a standard
    error.
    """
    passed, texts = True, []
    for lower, higher in itertools.pairwise(check["evals"]):
        gap = results.difference(f"{check['row']}@{higher}", f"{check['row']}@{lower}")
        passed = passed and gap["mean"] >= -gap["standard_error"]
        texts.append(f"{lower}->{higher} {gap['mean']:+.2f} ± {gap['standard_error']:.2f}")
    return (
        passed,
        f"F1 of {check['row']} from width to width: {', '.join(texts)}, expected no loss beyond "
        "one standard error",
    )


def check_recovery(results, check):
    names = [check[key] for key in ("row", "lost", "reference")]
    seeds = results.shared_seeds(*names)
    if not seeds:
        return False, f"recovery of {check['row']}: no seed that {', '.join(names)} all have"
    best, lost, whole = (results.mean_f1(name, seeds) for name in names)
    share = (best - lost) / (whole - lost) if whole > lost else float("nan")
    return share >= check["at_least"], (
        f"{check['row']} (F1 {best:.2f}) wins back {100 * share:.1f} % of what {check['lost']} "
        f"({lost:.2f}) loses against {check['reference']} ({whole:.2f}), expected at least "
        f"{100 * check['at_least']:g} %"
    )


CHECKS = {"difference": check_difference, "steps": check_steps, "recovery": check_recovery}


def names_of(check):
    return (
        [f"{check['row']}@{e}" for e in check["evals"]]
        if "evals" in check
        else [check[key] for key in ("row", "than", "lost", "reference") if key in check]
    )


def run_checks(results):
    """[(passed, text)]; a check whose rows are missing fails."""
    found = [check_tokens(results)]
    for check in results.suite.checks:
        missing = [name for name in names_of(check) if not results.complete(name)]
        if missing:
            found.append(
                (False, f"{check['kind']} of {check['row']}: not run: {', '.join(missing)}")
            )
        else:
            found.append(CHECKS[check["kind"]](results, check))
    return found


def markdown_row(cells):
    return "| " + " | ".join(cells) + " |\n"


def interval_text(gap):
    return (
        ""
        if gap is None
        else (
            f"{gap['mean']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}] "
            f"± {gap['standard_error']:.2f}"
        )
    )


def table_text(entries):
    most = max((entry["seeds"] for entry in entries), default=0)
    head = [
        "row",
        "scored as",
        "EM",
        "F1",
        "EM - FP LoRA [95 %] ± SE",
        "F1 - FP LoRA [95 %] ± SE",
        "bits W / A / KV",
        "float kB: adapters + rest",
        "rate",
        "tokens",
        "s",
    ]
    text = markdown_row(head) + markdown_row(["---"] * len(head))
    for entry in entries:
        bits, size, count = entry["bits"], entry["bytes"], entry["seeds"]
        few = "" if count == most else f" ({count} seed{'s' * (count != 1)})"
        spread = [f" ± {entry[key]:.2f}" if count > 1 else "" for key in ("em_spread", "f1_spread")]
        text += markdown_row(
            [
                entry["text"] + few,
                entry["precision"],
                f"{entry['em']:.2f}{spread[0]}",
                f"{entry['f1']:.2f}{spread[1]}",
                interval_text(entry.get("gap_em")),
                interval_text(entry.get("gap")),
                " / ".join(f"{bits[kind]:.2f}" for kind in ("weights", "activations", "kv")),
                f"{size['adapters'] / 1e3:.0f} + {size['other'] / 1e3:.0f}",
                f"{entry['rate']:g}",
                f"{entry['tokens'] / 1e6:.3f} M"
                if entry["tokens"]
                else f"0 (from {entry['from']})",
                f"{entry['seconds']:.0f}" if entry["tokens"] else "",
            ]
        )
    return text


def choices_text(results):
    rates = results.suite.learning_rates
    text = markdown_row(["row", *(f"{rate:g}" for rate in rates), "chosen"]) + markdown_row(
        ["---"] * (len(rates) + 2)
    )
    for row in results.suite.rows:
        scores = results.choices.get(row.id)
        if row.train is not None and scores:
            # Of a choice that was cut off nothing is said: fewer evaluations have another mean.
            whole = max(map(len, scores.values()))
            tried = {
                rate: scores[rate]
                for rate in row.learning_rates
                if len(scores.get(rate, [])) == whole
            }
            means = {rate: mean_and_spread(found)[0] for rate, found in tried.items()}
            best = f"{choose_rate(tried):g}" if len(tried) == len(row.learning_rates) else ""
            text += markdown_row(
                [row.name, *(f"{means[rate]:.2f}" if rate in means else "" for rate in rates), best]
            )
    return text


def own_steps_text(suite):
    own = [f"{row.name} reads {row.steps} batches" for row in suite.rows if row.steps is not None]
    return f"{'; '.join(own)}, and the others start from it: e" if own else "E"


def budget_text(suite):
    if suite.tokens is None:
        return f"{suite.steps} batches"
    return (
        f"{suite.tokens:,} tokens (the nearest number of steps; {suite.steps} batches to choose "
        "its rate)"
    )


def paragraph(text, bullet=""):
    """Text in lines of at most 100 columns; after an item of a list no empty line follows."""
    rest = " " * len(bullet)
    lines = textwrap.fill(
        text,
        100,
        initial_indent=bullet,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines + ("\n" if bullet else "\n\n")


def rules_text(results, conditions, threads):
    suite = results.suite
    scored = (
        f"{suite.validation_file}"
        if suite.final == "validation"
        else f"those held out of {suite.train_file} ({100 * suite.held_out:g} % of its "
        "paragraphs, by the hash of an id)"
    )
    trained = "the whole training file" if suite.final == "validation" else "the other paragraphs"
    seeds = f"{len(results.seeds)} seed{'s' * (len(results.seeds) != 1)}"
    return paragraph(
        f"{seeds} ({', '.join(map(str, results.seeds))}), {results.questions} questions of "
        f"{scored}; trained on {trained}. {conditions}"
    ) + "".join(
        paragraph(line, "- ")
        for line in (
            "± after a score is the standard deviation over seeds.",
            "A gap is the mean over seeds and questions of the difference from the row's own FP "
            f"LoRA ({suite.reference}), with its 95 % interval and standard error (SE) from a "
            "paired bootstrap that draws questions and seeds.",
            f"{own_steps_text(suite)}very trained row reads {budget_text(suite)}, counted once for "
            "every width that reads them (student tokens): two widths in one step, or in two "
            "phases, have half the steps each.",
            "Bits include scales: an f32 scale per range of activations, and per token and head of "
            "K and V.",
            "Float is what is stored beside the linears' weights: adapters and head in f32; "
            "embeddings (bf16; f32 in rows of 32 bits), biases and norms.",
            "Norms, softmax, the residual stream and the sums of products are f32 everywhere.",
            f"s: seconds of training steps, {threads} a run.",
        )
    )


def written_by(source):
    return paragraph(
        f"Written by `tools/experiments/results.py` from `{source}`; see "
        "[experiments.md](experiments.md)."
    )


def suite_text(results, entries, checks, conditions, threads):
    suite = results.suite
    text = f"# {suite.title}\n\n" + written_by(suite.name)
    text += rules_text(results, conditions, threads) + "\n" + table_text(entries)
    text += "\n## Checks\n\n" + "".join(
        paragraph(f"{'pass' if passed else 'FAIL'}: {line}", "- ") for passed, line in checks
    )
    chosen = choices_text(results)
    if chosen.count("\n") > 2:
        asked, decides = (
            (suite.choice_file, "The questions of the table decide nothing.")
            if suite.choice_file
            else (
                f"{100 * suite.held_out:g} % of the training file's paragraphs, chosen by the "
                "hash of an id",
                "The validation file decides nothing.",
            )
        )
        trained = "whole training file" if suite.choice_file else "others"
        text += (
            "\n## Learning rates\n\n"
            + paragraph(
                f"Mean F1 over a row's precisions on {asked}, after training on the {trained} with "
                f"seed {suite.choice_seed}. The rate with the highest F1 is taken; of equal ones, "
                f"the first. {decides}"
            )
            + chosen
        )
    return text + (f"\n{suite.notes.strip()}\n" if suite.notes else "")


def gap_text(results, name, reference):
    if not results.complete(name) or not results.complete(reference):
        return "not run"
    gap = results.difference(name, reference)
    return f"{gap['mean']:+.2f} ± {gap['standard_error']:.2f}"


def ablation_text(results, conditions, threads):
    suite = results.suite
    table = suite.ablation
    precision = table.get("precision", "4")
    base, best = (f"{row}@{precision}" for row in (ablation.BASE, ablation.BEST))
    text = f"# {suite.title}\n\n" + written_by(f"{suite.name}.toml")
    text += rules_text(results, conditions, threads) + "\n"
    text += paragraph(
        "Alone: F1 minus that of the row without options. In the best combination: what is lost "
        "without the option or, for an option that was not kept, what changes with it. ± is one "
        "standard error."
    )
    means = []
    for name, said in ((base, "No option"), (best, "Best combination")):
        if results.complete(name):
            mean, spread = mean_and_spread(
                [line["f1"] for line in results.cells[split_name(name)].values()]
            )
            means.append(f"{said}: F1 {mean:.2f} ± {spread:.2f}.")
    text += paragraph(" ".join(means))
    head = ["kind", "option", "alone", "in the best combination", "bits W / A / KV", "kept", "why"]
    text += markdown_row(head) + markdown_row(["---"] * len(head))
    for option in table["option"]:
        alone = f"alone-{option['id']}@{precision}"
        within = f"{'without' if option['kept'] else 'with'}-{option['id']}@{precision}"
        gap = gap_text(results, within, best)
        bits = next(iter(results.cells.get(split_name(alone), {}).values()), {}).get("bits")
        text += markdown_row(
            [
                option["kind"],
                option["text"],
                gap_text(results, alone, base),
                gap if gap == "not run" else f"{'without' if option['kept'] else 'with'}: {gap}",
                ""
                if bits is None
                else " / ".join(f"{bits[kind]:.2f}" for kind in ("weights", "activations", "kv")),
                "yes" if option["kept"] else "no",
                option["why"],
            ]
        )
    return text + (f"\n{suite.notes.strip()}\n" if suite.notes else "")


def write(results, markdown, table, conditions, threads):
    """Writes both files and returns the checks."""
    checks = run_checks(results)
    entries = summarize(results)
    text = (
        ablation_text(results, conditions, threads)
        if results.suite.ablation
        else suite_text(results, entries, checks, conditions, threads)
    )
    markdown.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text(text, encoding="utf-8")
    table.write_text(
        json.dumps(
            {
                "format_version": 1,
                "suite": results.suite.name,
                "seeds": results.seeds,
                "questions": results.questions,
                "reference": results.suite.reference,
                "rows": entries,
                "checks": [{"passed": passed, "text": line} for passed, line in checks],
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    return checks
