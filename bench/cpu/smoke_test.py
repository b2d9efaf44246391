#!/usr/bin/env python3
"""bench_cpu with tiny sizes: its rows and bars, bench/compare.py on them, its complaints.

    smoke_test.py PROGRAM
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import compare  # noqa: E402
import comparison  # noqa: E402

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""


def run(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=280, check=False)


class Cpu(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.out = pathlib.Path(cls.folder.name) / "out.json"
        cls.done = run("--quick", "--json", cls.out)
        cls.content = json.loads(cls.out.read_text()) if cls.out.exists() else {}

    def bars(self, text):
        found = [bar for bar in self.content["bars"] if text in bar["what"]]
        self.assertTrue(found, text)
        return found

    def test_a_quick_run_measures_every_row_in_two_rounds(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        names = {}
        for entry in self.content["benchmarks"]:
            names.setdefault(entry["name"], []).append(entry)
            self.assertGreater(entry["real_time"], 0, entry["name"])
        self.assertTrue(all(len(entries) == 2 for entries in names.values()))
        families = {comparison.split_name(name)[0] for name in names}
        self.assertEqual(families,
                         {"peak", "products", "layer", "dense", "experts", "tokens", "threads", "stages", "routing",
                          "products/step", "bf16"})
        for engine in ("moxie", "moxie_native", "eigen", "fma_peak"):
            for shape in ("rows:64", "rows:16", "rows:8"):
                for rest in ("pass:forward", "pass:backward"):
                    for threads in (1, 2):
                        self.assertIn(f"products/{shape}/{rest}/engine:{engine}/threads:{threads}", names)

    def test_rates_are_work_over_time(self):
        (entry, _) = [e for e in self.content["benchmarks"]
                      if e["name"] == "products/rows:16/pass:backward/engine:moxie/threads:2"]
        # six products of 8 experts x 16 rows x 32 x 64 in a step, four of them backward
        flops = 4 * 2 * 8 * 16 * 32 * 64
        self.assertAlmostEqual(entry["FLOP/s"] * 1e-3 * entry["real_time"] / flops, 1, places=5)

    def test_the_peak_is_one_that_a_machine_can_have(self):
        for entry in self.content["benchmarks"]:
            if "fma" in entry["name"]:
                self.assertLess(entry["FLOP/s"], 1e12 * int(entry["name"].rsplit(":", 1)[1]))  # the loop was not left out

    def test_stages_of_a_pass_are_all_there(self):
        stages = {comparison.split_name(e["name"])[1]["stage"] for e in self.content["benchmarks"]
                  if e["name"].startswith("stages/")}
        self.assertEqual(stages, {"gate", "route", "maps", "experts", "combine", "forward_rest", "combine_backward",
                                  "experts_backward", "dispatch_backward", "route_backward", "gate_backward",
                                  "backward_rest"})

    def test_each_bar_has_a_ratio_or_a_reason(self):
        for bar in self.content["bars"]:
            self.assertEqual(sum(key in bar for key in ("at_least", "at_most")), 1)
            if "ratio" in bar:
                good = bar["ratio"] >= bar["at_least"] if "at_least" in bar else bar["ratio"] <= bar["at_most"]
                self.assertEqual(bar["state"], "met" if good else "missed")
            else:
                self.assertIn(bar["state"], ("no peer", "elsewhere"))
                self.assertTrue(bar["note"])
            self.assertIn(bar["what"], self.done.stdout)
        for text in ("oneDNN's sgemm", "FMA peak", "packing included", "bare products",
                     "backward against forward", "dense FFN", "most experts", "fewest tokens", "uniform load",
                     "zipf load", "-march=native", "softmax top-2", "Sinkhorn", "bf16", "PyTorch", "peak scratch"):
            self.bars(text)

    def test_a_steady_step_allocates_nothing(self):
        for bar in self.bars("heap allocations"):
            self.assertEqual(bar["ratio"], 0, bar)

    def test_a_tape_takes_the_bytes_that_are_documented(self):
        bars = self.bars("peak scratch")
        self.assertEqual([bar["threads"] for bar in bars], [1, 1, 2, 2])
        for bar in bars:
            self.assertEqual(bar["ratio"], 1, bar)

    def test_the_context_says_where_it_comes_from(self):
        for key in ("commit", "uncommitted_changes", "compiler", "build", "cpu", "seed", "instructions"):
            self.assertTrue(self.content["context"][key], key)
        self.assertEqual(self.content["context"]["command"].split(" ", 1)[1], "--quick --json out.json")

    def test_compare_reads_it(self):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            self.assertEqual(compare.main([str(self.out), "--against", "engine:eigen"]), 0)
        self.assertIn("products", text.getvalue())

    def test_rows_are_selected_by_a_pattern(self):
        self.assertEqual(run("--list", "--rows", "^products/6").stdout, "products/64\n")
        done = run("--quick", "--rows=torch|scratch")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("GFLOP/s", done.stdout)
        self.assertEqual(done.stdout.count("elsewhere"), 2)

    def test_wrong_values_are_one_line_and_exit_2(self):
        for arguments, text in [(["--row=a"], "did you mean '--rows'?"), (["--rows"], "--rows: its value is missing"),
                                (["--rows", "nothing"], "no row has a name like 'nothing'"),
                                (["--rows", "("], "'(' is no regular expression"), (["--quick=1"], "--quick takes no value"),
                                (["--threads=1,none"], "--threads: 'none' is no whole number"),
                                (["--threads=0"], "--threads: '0' is no whole number")]:
            with self.subTest(arguments=arguments):
                done = run(*arguments)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(text, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1)
                self.assertEqual(done.stdout, "")

    def test_a_file_that_cannot_be_written_is_known_before_the_work(self):
        done = run("--quick", "--json", self.out.parent / "none" / "out.json")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertIn("out.json", done.stderr)


if __name__ == "__main__":
    unittest.main()
