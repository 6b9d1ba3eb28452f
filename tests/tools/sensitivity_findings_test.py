"""tools/experiments/sensitivity_findings.py on sweeps whose answer is known."""

import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "experiments"))
import sensitivity_findings as tool  # noqa: E402

KINDS = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


def write(folder, granularity, units, cost_of, questions=40):
    """Costs alternate around cost_of(unit) by 0.1 from question to question; two batches, one width
    beside.
    """
    (folder / "sensitivity.json").write_text(
        json.dumps({"granularity": granularity, "model": "tiny", "low": [5, 4], "units": units})
    )
    lines = [json.dumps({"format_version": 1, "run": {}})]
    for batch in range(2):
        for trial in range(2 * len(units) + 1):
            scores = []
            for q in range(questions // 2):
                loss = 1.0 + 0.01 * q
                if trial > 0 and trial % 2 == 0:  # the second width
                    loss += cost_of(units[(trial - 1) // 2]) + (0.1 if q % 2 else -0.1)
                scores.append([0, 50 - 10 * loss, loss, 0])
            lines.append(json.dumps({"batch": batch, "trial": trial, "scores": scores}))
    (folder / "sensitivity_state.jsonl").write_text("\n".join(lines) + "\n")


def linears(blocks=6, kinds=KINDS):
    return [
        {
            "name": f"h.{block}.{kind}",
            "modules": ["m"],
            "block": block,
            "kind": kind,
            "part": "both",
        }
        for block in range(blocks)
        for kind in kinds
    ]


class FindingsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def verdicts(self, cost="loss"):
        return {
            (entry["claim"], entry["groups"]): entry
            for entry in tool.findings([self.path], cost, 4)
        }

    def test_claims_that_hold_and_those_that_do_not(self):
        cost = {"attn.c_attn": 0.3, "attn.c_proj": 0.1, "mlp.c_fc": 0.4, "mlp.c_proj": 0.6}
        write(
            self.path,
            "sublayer",
            linears(),
            lambda u: cost[u["kind"]] * (0.5 if u["block"] >= 4 else 1),
        )
        found = {claim: entry for (claim, _), entry in self.verdicts().items()}
        self.assertEqual(found["Late blocks are resilient"]["verdict"], "confirmed")
        self.assertAlmostEqual(found["Late blocks are resilient"]["difference"], -0.175)
        self.assertEqual(found["attn.c_proj is tolerant"]["verdict"], "confirmed")
        self.assertEqual(found["mlp.c_proj is more robust than mlp.c_fc"]["verdict"], "refuted")
        self.assertEqual(found["MLP is more sensitive than attention"]["verdict"], "confirmed")
        # A loss that rises is an F1 that falls: the same claims in another unit.
        self.assertAlmostEqual(
            self.verdicts("f1")[
                "Late blocks are resilient", "last third of blocks less the others"
            ]["difference"],
            -1.75,
        )

    def test_what_questions_cannot_tell_is_open(self):
        write(self.path, "sublayer", linears(), lambda u: 0.2)
        for entry in self.verdicts().values():
            self.assertEqual(entry["verdict"], "open")
            self.assertAlmostEqual(entry["difference"], 0)

    def test_kinds_and_the_other_family(self):
        kinds = ["self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
        write(
            self.path,
            "sublayer",
            linears(3, kinds),
            lambda u: 0.1 if u["kind"] == "mlp.down_proj" else 0.5,
        )
        self.assertEqual(
            self.verdicts()["mlp.c_proj is more robust than mlp.c_fc", "MLP output less MLP input"][
                "verdict"
            ],
            "confirmed",
        )
        units = [
            {"name": kind, "modules": ["m"], "block": None, "kind": kind, "part": "both"}
            for kind in ("attention", "mlp", "all")
        ]
        write(
            self.path,
            "kind",
            units,
            lambda u: {"attention": 0.2, "mlp": 0.9, "all": 0.5}[u["kind"]],
        )
        found = {claim: entry["verdict"] for (claim, _), entry in self.verdicts().items()}
        self.assertEqual(found["All MLP low is worse than everything low"], "confirmed")
        self.assertEqual(found["All attention low is worse than everything low"], "refuted")

    def test_units_that_were_stopped_early_are_refused(self):
        write(self.path, "sublayer", linears(), lambda u: 0.2)
        lines = (self.path / "sensitivity_state.jsonl").read_text().splitlines()
        (self.path / "sensitivity_state.jsonl").write_text("\n".join(lines[:-1]) + "\n")
        with self.assertRaisesRegex(SystemExit, "early_stop"):
            tool.findings([self.path], "loss", 4)


if __name__ == "__main__":
    unittest.main()
