"""Rows of an ablation: every option alone, and the best combination without it or, if it is not
kept, with it.

[ablation] has `base`, flags of the row without options, or `from`, the row whose output every row
quantizes without training, and a list of [[ablation.option]] tables: `id`, `kind`, `text`, `scheme`
(parts of --scheme), `train` (flags), `eval` (flags), `kept`, `why`. Where parts need each other,
`alone` and `without` are the whole scheme of the rows of these names.
"""

import re

BASE, BEST = "base", "best"
KEYS = {"base", "from", "option", "precision"}
OPTION_KEYS = {"id", "kind", "text", "scheme", "train", "eval", "kept", "why", "alone", "without"}
# Parts of a scheme of which one holds.
ALTERNATIVES = [re.compile(r"^(seed|g\d+(-asym)?)$"), re.compile(r"^ag\d+$")]


def join_schemes(schemes):
    """One scheme of parts: the later of two alternatives takes the place of the earlier."""
    parts = []
    for scheme in schemes:
        for part in scheme.split("+"):
            rivals = [pattern for pattern in ALTERNATIVES if pattern.match(part)]
            parts = [
                p for p in parts if p != part and not any(pattern.match(p) for pattern in rivals)
            ] + [part]
    return "+".join(parts) or "seed"


def make_row(name, text, base, source, options, precision, scheme=None):
    from results_lib.suite import SuiteError

    train, flags = dict(base), {"precision": precision}
    for option in options:
        train.update(option.get("train", {}))
        flags.update(option.get("eval", {}))
        if source is not None and "train" in option:
            raise SuiteError(
                f"ablation: option {option['id']}: it has flags of training, and nothing is trained"
            )
    schemes = [base["scheme"]] if "scheme" in base else []
    if scheme is None:
        scheme = join_schemes(
            schemes + [option["scheme"] for option in options if "scheme" in option]
        )
    if scheme != "seed":
        (train if source is None else flags)["scheme"] = scheme
    if len({option["id"] for option in options}) != len(options):
        raise SuiteError(f"ablation: {name}: an option stands twice")
    made = {"train": train} if source is None else {"from": source}
    return {"id": name, "name": text, **made, "eval": [{"id": precision, **flags}]}


def rows(table, where):
    from results_lib.suite import SuiteError, check_keys

    if table is None:
        return []
    check_keys(table, KEYS, where)
    if ("base" in table) == ("from" in table):
        raise SuiteError(f"{where}: ablation: expected either base or from")
    options, base, source, precision = (
        table["option"],
        table.get("base", {}),
        table.get("from"),
        table.get("precision", "4"),
    )
    for option in options:
        check_keys(option, OPTION_KEYS, where)
        for key in ("id", "kind", "text", "kept", "why"):
            if key not in option:
                raise SuiteError(f"{where}: option {option.get('id')}: {key} is missing")
    kept = [option for option in options if option["kept"]]
    made = [
        make_row(BASE, "no option", base, source, [], precision),
        make_row(BEST, "all that was kept", base, source, kept, precision),
    ]
    for option in options:
        made.append(
            make_row(
                f"alone-{option['id']}",
                option["text"],
                base,
                source,
                [option],
                precision,
                option.get("alone"),
            )
        )
        others = [k for k in kept if k is not option] + ([] if option["kept"] else [option])
        made.append(
            make_row(
                f"{'without' if option['kept'] else 'with'}-{option['id']}",
                option["text"],
                base,
                source,
                others,
                precision,
                option.get("without") if option["kept"] else None,
            )
        )
    return made
