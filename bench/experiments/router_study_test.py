#!/usr/bin/env python3
"""router_study.py and dense_twin.py with a trainer that only pretends: the plan, stopping and going on, the report."""

import collections
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest
import unittest.mock
import xml.etree.ElementTree

import router_study
import runs
import study_page
from scratch import HERE, WAIT, Scratch

THREE = "soft-e8-c2"  # runs of three seeds


class PlanTest(unittest.TestCase):
    def test_small_setting_has_each_run_once(self):
        plan = router_study.plan(router_study.SETTINGS["small"])
        # 6 routers * 3 seeds, 6 at E = 32, E = 4, 16, 64 of three, K = 1, 4, and 0.5 with its neighbour of three
        self.assertEqual(len(plan), 18 + 6 + 9 + 2 + 6)
        self.assertEqual(len({p.name for p in plan}), len(plan))
        parts = collections.Counter(part for p in plan for part in p.parts)
        self.assertEqual(parts, {"routers, E = 8": 18, "routers, E = 32": 6, "experts": 15, "k": 3, "capacity": 6, "slots": 3})

    def test_active_compute_is_equal_where_routers_are_compared(self):
        for planned in router_study.plan(router_study.SETTINGS["small"]):
            if any(part.startswith(("routers", "experts")) for part in planned.parts):
                self.assertEqual(planned.configuration.rows, 2.0, planned.name)

    def test_flags_of_a_run(self):
        flags = " ".join(router_study.equal_compute("softmax_token_choice", 8).flags())
        self.assertEqual(flags, "--router softmax_token_choice --experts 8 --capacity-factor 1 --eval-capacity-factor 1 "
                                "--capacity-multiple 1 --group-images 1 --importance 0.005 --load 0.005 --noise 1 --k 2")
        flags = " ".join(router_study.equal_compute("soft", 32).flags())
        self.assertEqual(flags, "--router soft --experts 32 --capacity-factor 2 --eval-capacity-factor 2 "
                                "--capacity-multiple 1 --group-images 1 --importance 0 --load 0 --noise 0")

    def test_estimates_follow_measured_runs(self):
        estimates = router_study.Estimates(router_study.SETTINGS["small"])
        soft, token = (router_study.equal_compute(r, 8) for r in ("soft", "softmax_token_choice"))
        self.assertAlmostEqual(estimates.seconds(soft), 5 * 50000 / 740)
        estimates.learn(soft, 100.0)
        self.assertAlmostEqual(estimates.seconds(soft), 100.0)
        self.assertAlmostEqual(estimates.seconds(token), 100.0)  # no run of its own yet
        half = router_study.Configuration("soft", 8, 1.0)
        self.assertAlmostEqual(estimates.seconds(half), 80.0)  # 40 % of the time, half of that


class StudyTest(Scratch):
    def test_whole_study_and_its_report(self):
        self.run_it()
        record = self.record()
        self.assertEqual((len(record["runs"]), record["missing"], record["failed"]), (41, [], {}))
        report, figures = self.folder / "docs" / "study.md", self.folder / "docs" / "images"
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            code = router_study.main(["--json", str(self.json), "--report", str(report), "--figures", str(figures)])
        self.assertEqual((code, errors.getvalue()), (0, ""))
        text = report.read_text()
        self.assertEqual(text.count("**Seen here too.**"), 2)
        self.assertEqual(text.count("  - E = 32: No verdict: 1 seed of all routers"), 2)
        self.assertIn("differ by +2.00 points, more than the spread of seeds (0.20 points; 3 seeds)", text)
        self.assertIn("6 of 6 pairs", text)
        self.assertIn("| `soft` | soft | 3 | 64.10 ± 0.10 | 64.00 – 64.20 | 100 | 1417 | 0.00 | – | – |", text)
        self.assertIn("| `softmax_token_choice` | 8 | 4 | 1 | 4 | 1 | 60.00 | 100 | 2500 |", text)
        self.assertIn("of runs that may have shared the machine", text)
        for name in ("routers", "experts", "capacity", "k", "slots"):
            self.assertIn(f"](images/router-study-{name}.svg)", text)
            xml.etree.ElementTree.parse(figures / f"router-study-{name}.svg")
        for written in [text, self.json.read_text(), *(f.read_text() for f in figures.iterdir())]:
            self.assertNotIn(str(self.folder), written)
            self.assertNotIn(str(HERE), written)

    def test_dry_run_starts_nothing(self):
        out = self.run_it("--dry-run").stdout
        self.assertIn("41 runs, 41 to do", out)
        self.assertIn("by a first guess", out)
        self.assertFalse(self.work.exists() or self.json.exists())

    def test_only_and_going_on_keep_the_other_runs(self):
        self.run_it("--only", THREE)
        self.assertEqual(len(self.record()["runs"]), 3)
        done = self.run_it("--only", "soft-e32*s0")
        self.assertEqual(done.stdout.count(" train "), 1)  # the three are not run again
        self.assertEqual(len(self.record()["runs"]), 4)
        self.assertIn("1 to do", self.run_it("--only", "soft-e64", "--dry-run").stdout)
        self.assertIn("no run has such a name", self.run_it("--only", "nobody", code=2).stderr)

    def interrupt(self, number):
        slow = {"FAKE_STEPS": "100000", "FAKE_SECONDS": "0.02"}
        process = self.begin("--only", THREE, "--jobs", "1", **slow)
        metrics = self.work / f"{THREE}-s0" / "metrics.jsonl"
        self.wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 6)
        process.send_signal(number)
        code = process.wait(timeout=WAIT)
        return code, process.stdout.read()

    def goes_on(self):
        before = self.steps(f"{THREE}-s0")
        done = self.run_it("--only", THREE, "--jobs", "1", FAKE_STEPS=str(before[-1] + 5))
        self.assertEqual(done.stdout.count("--resume"), 1)
        self.assertEqual(done.stdout.count("--out"), 2)
        self.assertEqual([r["seed"] for r in self.record()["runs"]], [0, 1, 2])
        after = self.steps(f"{THREE}-s0")
        self.assertEqual(after[:len(before)], before)
        return before[-1], after[len(before)]

    def test_interrupt_lets_the_run_write_a_checkpoint_and_goes_on_there(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number):
                self.work = self.folder / f"work-{number}"
                code, said = self.interrupt(number)
                self.assertEqual(code, 130)
                self.assertIn("stopped; started again, it goes on here", said)
                self.assertEqual(self.record()["runs"], [])
                last, first = self.goes_on()
                self.assertEqual(first, last + 1)

    @unittest.skipUnless(sys.platform.startswith("linux"), "a child ends with its parent on Linux only")
    def test_kill_ends_the_trainer_too_and_the_study_goes_on(self):
        code, _ = self.interrupt(signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        # started at once: it waits until the trainer has written its checkpoint
        process = self.begin("--only", f"{THREE}-s0", FAKE_STEPS="100000", FAKE_SECONDS="0.02")
        metrics = self.work / f"{THREE}-s0" / "metrics.jsonl"
        steps = len(metrics.read_text().splitlines())
        self.wait_for(lambda: len(metrics.read_text().splitlines()) > steps + 5)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=WAIT), 130)
        steps = self.steps(f"{THREE}-s0")
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        self.goes_on()

    def test_budget_begins_nothing_that_will_not_fit(self):
        out = self.run_it("--budget", "1").stdout
        self.assertIn("41 runs are left for another time", out)
        self.assertEqual(self.record()["runs"], [])
        self.run_it("--only", f"{THREE}-s0")
        # now 100 s is known for each, so that one fits into 2 minutes and so does another: no time has passed
        self.assertEqual(len(self.run_it("--only", THREE, "--budget", "2").stdout.split("--out")), 3)

    def test_a_failed_run_is_named_and_the_others_go_on(self):
        out = self.run_it("--only", "e32-", code=1, FAKE_FAIL="sinkhorn_expert_choice").stdout
        self.assertIn("FAILED sinkhorn_expert_choice-e32-c2-s0 ended with 1: error: loss is not finite", out)
        self.assertEqual((len(self.record()["runs"]), list(self.record()["failed"])),
                         (5, ["sinkhorn_expert_choice-e32-c2-s0"]))
        self.run_it("--only", "e32-")
        self.assertEqual((len(self.record()["runs"]), self.record()["failed"]), (6, {}))

    def test_wrong_use(self):
        done = self.run_it("--only", THREE, "--", "--router-that-is-not", "1", code=2)
        self.assertIn("no such flag", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.run_it("--only", "soft-e32")
        self.assertIn("begun with other flags", self.run_it("--only", "soft-e32", "--epochs", "9", code=2).stderr)
        self.run_it("--only", "soft-e32", "--threads", "7")  # no result depends on it
        self.assertIn("belong together", self.run_it("--report", "x.md", code=2).stderr)

    def test_two_cannot_work_in_one_folder(self):
        process = self.begin("--only", THREE, FAKE_STEPS="100000", FAKE_SECONDS="0.02")
        self.wait_for((self.work / f"{THREE}-s0" / "metrics.jsonl").exists)
        self.assertIn("another process works on the study", self.run_it("--only", THREE, code=2).stderr)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=WAIT), 130)

    def report(self):
        report = self.folder / "study.md"
        self.assertEqual(router_study.main(["--json", str(self.json), "--report", str(report), "--figures", str(self.folder)]), 0)
        return report.read_text()

    def test_timing_is_taken_in_turn_and_leaves_the_runs_alone(self):
        done = self.run_it("--timing", code=2)
        self.assertIn("no record of a study", done.stderr)
        self.assertNotIn(" train ", done.stdout)
        self.run_it("--only", "e8-*s0", "--epochs", "3")
        before = self.record()
        flags = ["--timing", "--only", "e8-*c[12]-s0"]  # without the flags that the study was begun with
        done = self.run_it(*flags)
        started = [line.split() for line in done.stdout.splitlines() if " train " in line]
        names = ["softmax_token_choice-e8-k2-c1", "sinkhorn_token_choice-e8-k2-c1", "softmax_expert_choice-e8-c2",
                 "sinkhorn_expert_choice-e8-c2", "sparse_expert_choice-e8-c2", "soft-e8-c2", "softmax_token_choice-e8-k1-c1",
                 "softmax_token_choice-e8-k4-c1", "softmax_token_choice-e8-k2-c2", "softmax_expert_choice-e8-c1", "soft-e8-c1"]
        self.assertEqual([pathlib.Path(words[words.index("--out") + 1]).name for words in started],
                         [f"{name}-r{repeat}" for repeat in range(3) for name in names])
        for flag, value in (("--threads", "2"), ("--epochs", "0.1"), ("--batch", "64"), ("--preset", "nano")):
            self.assertEqual({words[words.index(flag) + 1] for words in started}, {value})
        after = self.record()
        self.assertEqual(list(after.pop("timing")), names)
        self.assertEqual(after.pop("timing_setting")["threads"], 2)
        self.assertEqual(after, before)
        self.assertEqual(self.record()["timing"]["soft-e8-c2"], {"images_per_s": 1375.0, "repeats": [1250.0, 1625.0, 1375.0]})
        self.assertNotIn(" train ", self.run_it(*flags).stdout)  # what was timed is kept

        self.run_it("--only", "soft-e32*s0", "--epochs", "3")  # a study that goes on keeps the timing
        text = self.report()
        self.assertNotIn("training, s", text)
        self.assertIn("| `softmax_token_choice` | token choice | 1 | 60.00 | – | 2750 (1.00) | 10.00 |", text)
        self.assertIn("| `soft` | soft | 1 | 64.00 | – | 1375 (0.50) | 0.00 |", text)
        self.assertIn("| `soft` | 8 | – | 0.5 | 0.5 | 1 | 64.00 | – | 0.00 |", text)  # not timed
        self.assertIn("2 threads, 0.1 epochs, median of 3 repeats taken in turn", text)

    def test_timing_begins_anew_what_was_only_begun(self):
        self.run_it("--only", f"{THREE}-s0")
        process = self.begin("--timing", "--only", THREE, FAKE_STEPS="100000", FAKE_SECONDS="0.02")
        metrics = self.work / "timing-2-threads" / f"{THREE}-r0" / "metrics.jsonl"
        self.wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)
        self.assertIn("another process works on the study", self.run_it("--timing", "--only", THREE, code=2).stderr)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=WAIT), 130)
        self.assertNotIn("timing", self.record())
        done = self.run_it("--timing", "--only", THREE)
        self.assertEqual((done.stdout.count("--out"), done.stdout.count("--resume")), (3, 0))
        self.assertEqual(list(self.record()["timing"]), [THREE])

    def test_a_machine_without_git_is_recorded(self):
        programs = self.folder / "bin"  # no others are found
        programs.mkdir()
        (programs / "python3").symlink_to(sys.executable)
        self.run_it("--only", f"{THREE}-s0", PATH=str(programs))
        machine = self.record()["machine"]
        self.assertEqual((machine["commit"], machine["uncommitted_changes"], machine["compiler"], machine["cores"]),
                         ("", None, "", 0))
        self.assertIn("commit not known", self.report())

    def test_uncommitted_changes_are_recorded(self):
        def git(*words):
            subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(self.folder), *words], check=True,
                           capture_output=True)
        git("init")
        (self.folder / "a").write_text("1")
        git("add", "a")
        git("commit", "-m", "a")
        with unittest.mock.patch.object(runs, "ROOT", self.folder):
            self.assertIs(runs.machine.__wrapped__()["uncommitted_changes"], False)
            (self.folder / "a").write_text("2")
            self.assertIs(runs.machine.__wrapped__()["uncommitted_changes"], True)

    def test_dense_twin_shares_the_runs(self):
        command = self.command("--seeds", "0", "1", "--", "--epochs", "2", script="dense_twin.py")
        subprocess.run(command, check=True, capture_output=True)
        # a run of a folder that an older version of the script left, without a record of its flags
        (self.work / "moe-0.flags.json").unlink()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertNotIn("train", done.stdout)
        kinds = self.record()["kinds"]
        self.assertEqual([r["seed"] for r in kinds["dense"]["runs"]], [0, 1])
        self.assertAlmostEqual(kinds["moe"]["accuracy"]["mean"], 0.5005)


class ReportTest(unittest.TestCase):
    def groups(self, **accuracy):
        """Routers of E = 8 with these accuracies, in percent, one for each seed."""
        return study_page.by_configuration(
            [{"router": r, "family": router_study.ROUTERS[r], "experts": 8, "k": 0, "capacity_factor": 2.0, "seed": s,
              "accuracy": a / 100} for r, values in accuracy.items() for s, a in enumerate(values)])

    def verdict(self, token, expert):
        groups = self.groups(softmax_token_choice=token, softmax_expert_choice=expert)
        return study_page.verdict(groups, ("softmax_token_choice", "softmax_expert_choice"), ("expert choice",), ("token choice",))

    def test_difference_must_exceed_the_spread_of_seeds(self):
        # deviations 1 and 1: the spread is 2
        self.assertIn("**Not decided here.** The means of the two groups differ by +1.90 points, not more",
                      self.verdict([60, 61, 62], [61.9, 62.9, 63.9]))
        self.assertIn("**Seen here too.** The means of the two groups differ by +2.10 points, more than",
                      self.verdict([60, 61, 62], [62.1, 63.1, 64.1]))
        self.assertIn("**The opposite is seen here.** The means of the two groups differ by -2.10 points",
                      self.verdict([62.1, 63.1, 64.1], [60, 61, 62]))

    def test_one_seed_or_a_missing_router_gives_no_verdict(self):
        self.assertIn("No verdict: 1 seed of all routers", self.verdict([60], [70]))
        self.assertIn("No verdict: 1 seed of all routers", self.verdict([60, 61, 62], [70]))
        self.assertEqual("No verdict yet: `soft` not run.", study_page.verdict(
            self.groups(softmax_token_choice=[60, 61]), ("softmax_token_choice", "soft"), ("soft",), ("token choice",)))


if __name__ == "__main__":
    unittest.main()
