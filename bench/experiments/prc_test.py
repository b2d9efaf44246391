#!/usr/bin/env python3
"""prc.py with a trainer that only pretends: the sweep, the choice, going on, and the verdicts of its page."""

import json
import signal
import unittest
import xml.etree.ElementTree

import prc
import prc_page
import scratch

SMALL = ("--images", "20", "--jobs", "8")


class PrcTest(scratch.Scratch):
    script = "prc.py"

    def report(self):
        report, figures = self.folder / "docs" / "prc.md", self.folder / "docs" / "images"
        self.assertEqual(prc.main(["--json", str(self.json), "--report", str(report), "--figures", str(figures)]), 0)
        return report.read_text(), figures

    def test_whole_experiment_and_its_report(self):
        done = self.run_it(*SMALL)
        self.assertEqual(done.stdout.count(" train "), 32 + 30)
        self.assertEqual(done.stdout.count(" stability "), 32 + 30)
        record = self.record()
        self.assertEqual((len(record["runs"]), record["planned"], record["failed"]), (62, 62, {}))
        # the routes of what the fake makes change least with the largest weight, and accuracies are all alike
        self.assertEqual({d: c["chosen"] for d, c in record["choice"].items()},
                         {"matrix": "matrix-d0.005-x1", "position": "position-d0.005-x1"})
        final = [e for e in record["runs"] if e["stage"] == "final"]
        self.assertEqual([e["name"] for e in final[:10]], [f"final-{kind}-k{k}-s0" for k in (1, 2)
                                                         for kind in ("none", "balance", "views", "matrix", "position")])
        self.assertEqual(len(final[0]["stability"]["levels"]), 11)
        text, figures = self.report()
        self.assertEqual(text.count("**Met.** The routing change is lower at 10 of 10 levels, at 10 by more than"), 12)
        self.assertEqual(text.count("**Met.** +15.00 points, more than the spread of seeds (0.20)"), 18)
        self.assertIn("| importance + load losses | 1 | 3 | 50.10 ± 0.10 | 13.85 ± 0.10 | 25.10 ± 0.10 |", text)
        self.assertIn("| matrix | 0.0001 | 0.05 | 66.05 | ", text)
        self.assertIn("| V-MoE-S + PRC | 1 | 75.92 | 95.12 | 82.12 | 91.24 | – |", text)
        self.assertIn("The scales differ", text)
        for name in ("routes-k1", "routes-k2", "probability-k1", "probability-k2"):
            self.assertIn(f"](images/prc-{name}.svg)", text)
            xml.etree.ElementTree.parse(figures / f"prc-{name}.svg")
        for written in [text, self.json.read_text(), *(f.read_text() for f in figures.iterdir())]:
            self.assertNotIn(str(self.folder), written)
            self.assertNotIn(str(scratch.HERE), written)
        record["runs"] = [e for e in record["runs"] if e["stage"] == "sweep"]
        self.json.write_text(json.dumps(record))
        text, _ = self.report()
        self.assertIn("No final run is done yet.", text)
        self.assertEqual(text.count("No verdict: 0 seeds of one side"), 30)

    def test_a_program_of_another_commit_is_named(self):
        self.run_it(*SMALL, "--program-commit", "0123456789abcdef")
        self.assertEqual(self.record()["machine"]["program_commit"], "0123456789abcdef")
        self.assertIn("(`vmoe` built from `0123456789ab`)", self.report()[0])

    def test_runs_see_as_many_inputs(self):
        options, _ = prc.studies.parse(prc.parser(), ["--data", "d", "--work", str(self.work), "--json", str(self.json)])
        study = prc.Study(options, [])
        plain, pairs = (dict(zip(flags[::2], flags[1::2])) for flags in (
            study.flags(prc.Planned("final", kind, weights, 2, 0))
            for kind, weights in (("none", prc.Weights()), ("matrix", prc.CANDIDATES["matrix"][0]))))
        self.assertEqual((plain["--epochs"], plain["--batch"], plain["--warmup-epochs"]), ("6", "64", "1"))
        self.assertEqual((pairs["--epochs"], pairs["--batch"], pairs["--warmup-epochs"]), ("3", "32", "0.5"))
        self.assertEqual((pairs["--prc"], pairs["--prc-diagonal"], pairs["--prc-lambda-d"]), ("1", "matrix", "0.0001"))
        self.assertNotIn("--prc", plain)
        self.assertNotIn("--prc-lambda-o", pairs)
        views = study.flags(prc.Planned("final", "views", prc.BASELINES["views"], 2, 0))
        self.assertEqual(views[-6:], ["--prc-diagonal", "matrix", "--prc-lambda-d", "0", "--prc-lambda-o", "0"])

    def test_the_small_setting_takes_little_over_two_hours_of_two_cores(self):
        out = self.run_it("--dry-run").stdout
        self.assertRegex(out.splitlines()[-1], r"^about 1[0-3]\d min with 2 at a time \(by a first guess\)$")
        self.assertFalse(self.work.exists() or self.json.exists())

    def test_interrupted_it_goes_on_and_keeps_what_is_done(self):
        slow = {"FAKE_STEPS": "100000", "FAKE_SECONDS": "0.02"}
        process = self.begin(*SMALL, "--jobs", "1", **slow)
        metrics = self.work / "sweep-matrix-d0.0001-x1-k1-s10" / "metrics.jsonl"
        self.wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 6)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=scratch.WAIT), 130)
        self.assertIn("stopped; started again, it goes on here", process.stdout.read())
        self.assertEqual((self.record()["runs"], self.record()["choice"]), ([], None))
        before = len(metrics.read_text().splitlines())
        done = self.run_it(*SMALL, FAKE_STEPS=str(before + 4))
        self.assertEqual(done.stdout.count("--resume"), 1)
        self.assertEqual(len(self.record()["runs"]), 62)
        self.assertNotIn(" train ", self.run_it(*SMALL).stdout)  # all is done

    def test_a_budget_ends_it_between_runs(self):
        out = self.run_it("--budget", "1").stdout
        self.assertIn("32 runs are left for another time", out)
        self.assertEqual(self.record()["runs"], [])

    def test_weights_that_fail_are_not_chosen(self):
        self.run_it(*SMALL, code=1, FAKE_FAIL="0.0001")
        record = self.record()
        self.assertEqual(len(record["failed"]), 4)
        self.assertEqual(list(record["choice"]["matrix"]["candidates"]),
                         ["matrix-d0.0005-x1", "matrix-d0.005-x1", "matrix-d0.005-x10", "matrix-d0.005-x100"])
        text, _ = self.report()
        self.assertIn("Failed: `sweep-matrix-d0.0001-x1-k1-s10`", text)


class ChoiceTest(unittest.TestCase):
    def test_routes_decide_among_accuracies_that_are_alike(self):
        # K = 1, 2 of two seeds. Deviations over the seeds: of a and c 0.01 * sqrt(2) / 2 twice, of b 0.
        step = 0.01
        found = prc.choose({"a": [(0.60, 0.3), (0.62, 0.3), (0.60 + step, 0.3), (0.62 + step, 0.3)],
                            "b": [(0.61, 0.2), (0.62, 0.2), (0.61, 0.2), (0.62, 0.2)],
                            "c": [(0.50, 0.1), (0.52, 0.1), (0.50 + step, 0.1), (0.52 + step, 0.1)]})
        self.assertAlmostEqual(found["tolerance"], step * 0.5 ** 0.5 * 2 / 3)
        self.assertEqual(found["chosen"], "b")  # its mean is 0.005 * ... no more than that below the best

    def test_one_seed_tolerates_nothing(self):
        found = prc.choose({"a": [(0.60, 0.3), (0.62, 0.3)], "b": [(0.61, 0.2), (0.60, 0.2)]})
        self.assertEqual((found["tolerance"], found["chosen"]), (0.0, "a"))


class VerdictTest(unittest.TestCase):
    def entries(self, accuracies, changes):
        level = [{"iou": 0.0, "sigma": 0.0}]
        return [{"accuracy": a, "stability": {"levels": level + [{"iou": c, "sigma": 0.1} for c in own]}}
                for a, own in zip(accuracies, changes)]

    def test_routes_must_change_less_at_every_level(self):
        groups = {("matrix", 1): self.entries([0.6, 0.6], [[0.1, 0.3], [0.1, 0.3]]),
                  ("none", 1): self.entries([0.6, 0.6], [[0.2, 0.29], [0.2, 0.29]]),
                  ("balance", 1): self.entries([0.6, 0.6], [[0.2, 0.31], [0.2, 0.33]])}
        self.assertIn("**Not met.** The routing change is lower at 1 of 2 levels, at 1 by more",
                      prc_page.routes_verdict(groups, "matrix", "none", 1))
        self.assertIn("**Met.** The routing change is lower at 2 of 2 levels, at 2 by more",
                      prc_page.routes_verdict(groups, "matrix", "balance", 1))

    def test_routes_to_one_expert_are_named(self):
        groups = {("position", 1): self.entries([0.6, 0.6], [[0.0], [0.0]]), ("none", 1): self.entries([0.6, 0.6], [[0.2], [0.3]])}
        self.assertNotIn("few experts", prc_page.routes_verdict(groups, "position", "none", 1))
        for entry in groups["position", 1]:
            entry["layers"] = [{"load_cv": 2.6}]
        self.assertIn("But most tokens go to few experts (load CV 2.60)", prc_page.routes_verdict(groups, "position", "none", 1))

    def test_accuracy_is_decided_beyond_the_spread_of_seeds(self):
        groups = {("matrix", 2): self.entries([0.60, 0.62], [[], []]), ("none", 2): self.entries([0.59, 0.61], [[], []]),
                  ("balance", 2): self.entries([0.50, 0.51], [[], []]), ("matrix", 1): self.entries([0.60, 0.61], [[], []])}
        self.assertIn("**Met in the mean, not decided.** +1.00 points", prc_page.accuracy_verdict(groups, "matrix", "none", 2))
        self.assertIn("**Met.** +10.50 points", prc_page.accuracy_verdict(groups, "matrix", "balance", 2))
        self.assertIn("**Met in the mean, not decided.** +0.50 points", prc_page.one_expert_verdict(groups, "matrix", "none"))
        groups["matrix", 1] = self.entries([0.5, 0.5], [[], []])
        self.assertIn("**Not met.** -10.00 points", prc_page.one_expert_verdict(groups, "matrix", "none"))


if __name__ == "__main__":
    unittest.main()
