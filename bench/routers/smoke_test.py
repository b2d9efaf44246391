#!/usr/bin/env python3
"""bench_routers with tiny sizes: its rows and counters, bench/compare.py on them, its complaints.

    smoke_test.py PROGRAM
"""

import contextlib
import csv
import io
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import compare  # noqa: E402
import comparison  # noqa: E402

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""
TINY = ["--experts", "8", "--tokens=64", "--group", "32", "--width", "16", "--hidden", "24", "--threads", "2",
        "--benchmark_min_time=0.001"]
ROUTED = {"rows_per_token", "tokens_per_second", "drop_rate", "load_cv", "entropy"}


def run(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=250, check=False)


def write_trace(path, choice, weight):
    """What moxie::save_routes writes: one layer, [tokens, choices]."""
    shape = [len(choice), len(choice[0])]
    size = 4 * shape[0] * shape[1]
    header = json.dumps({"0/choice": {"dtype": "I32", "shape": shape, "data_offsets": [0, size]},
                         "0/weight": {"dtype": "F32", "shape": shape, "data_offsets": [size, 2 * size]}}).encode()
    header += b" " * (-len(header) % 8)
    data = b"".join(struct.pack(f"<{shape[1]}i", *row) for row in choice)
    data += b"".join(struct.pack(f"<{shape[1]}f", *row) for row in weight)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


class Routers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def measure(self, *arguments):
        """name without its family and harness words -> entry"""
        out = self.folder / "out.json"
        done = run(*TINY, "--json", out, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        content = json.loads(out.read_text())
        context = content["context"]
        self.assertEqual(context["threads_used"], "2")
        self.assertRegex(context["commit"], "^([0-9a-f]{40}|unknown)$")
        self.assertIn(context["uncommitted_changes"], ("yes", "no", "unknown"))
        self.assertRegex(context["compiler"], r"^(GCC|Clang) \d")
        self.assertEqual(context["command"], " ".join([pathlib.Path(PROGRAM).name, *TINY, "--json out.json", *(
            str(a).replace(f"{self.folder}/", "") for a in arguments)]))
        for key in ("cpu", "seed", "build"):
            self.assertTrue(context[key], key)
        for entry in content["benchmarks"]:
            self.assertNotIn("error_message", entry)
            for key, value in entry.items():
                if isinstance(value, float):
                    self.assertTrue(math.isfinite(value), f"{key} of {entry['name']}")
        return {(family, tuple(axes.items())): e for e in content["benchmarks"]
                for family, axes in [comparison.split_name(e["name"])]}

    def test_every_router_and_baseline_has_its_counters_and_compare_reads_them(self):
        rows = self.measure("--routers", "softmax_token_choice,softmax_expert_choice,hash,soft,dense,naive_loop,eigen_loop",
                            "--logits=zipf")
        # 4 routers alone, 7 layers, 2 passes
        self.assertEqual(len(rows), 22)
        work = {}
        for (family, axes), entry in rows.items():
            axes = dict(axes)
            router = axes["router"]
            expected = {"rows_per_token", "tokens_per_second"} if router == "dense" else set(ROUTED)
            if family == "layer":
                expected.add("FLOP/s")
                if router not in ("dense", "naive_loop", "eigen_loop"):
                    expected.add("routing_share")
                    self.assertGreater(entry["routing_share"], 0)
                self.assertIn(axes["pass"], ("forward", "forward_backward"))
                seconds = 1e-3 * entry["real_time"]
                work[router, axes["pass"]] = round(entry["FLOP/s"] * seconds)
            if router not in ("soft", "dense"):
                expected.add("route_change")
                self.assertLessEqual(entry["route_change"], 1)
            self.assertEqual({k for k in entry if k in expected | set(comparison.SHOWN_COUNTERS)}, expected)
            # experts that choose fill 2 groups * 8 experts * ceil(2 * 32 / 8) slots; where tokens choose, some find none
            if router in ("dense", "soft", "softmax_expert_choice"):
                self.assertEqual(entry["rows_per_token"], 2)
            else:
                self.assertAlmostEqual(entry["rows_per_token"], 2 * (1 - entry["drop_rate"]))
                self.assertGreater(entry["drop_rate"], 0)
        # 2 for each multiplication: 4 T D (K H), as many as 4 * 128 rows * D H; a gate has T D E
        self.assertEqual(work["dense", "forward"], 4 * 64 * 16 * 48)
        self.assertEqual(work["dense", "forward_backward"], 3 * 4 * 64 * 16 * 48)
        self.assertEqual(work["softmax_expert_choice", "forward"], 4 * 128 * 16 * 24 + 2 * 64 * 16 * 8)
        for loop in ("naive_loop", "eigen_loop"):
            self.assertEqual(work[loop, "forward_backward"], work["softmax_token_choice", "forward_backward"])

        # the loops agree with the layer where the gate's gradient vanishes, too: measure() finds errors
        self.assertEqual(len(self.measure("--routers=naive_loop,eigen_loop", "--logits=collapse", "--passes=backward",
                                          "--capacities=dropless,slots-5")), 4)
        self.measure("--routers=softmax_token_choice,softmax_expert_choice,dense", "--logits=zipf", "--families=layer",
                     "--passes=forward")

        out = io.StringIO()
        page = self.folder / "page.html"
        with contextlib.redirect_stdout(out):
            code = compare.main([str(self.folder / "out.json"), "--against", "router:dense", "--html", str(page)])
        self.assertEqual(code, 0)
        lines = out.getvalue().splitlines()
        (head,) = [line for line in lines if "rows_per_token" in line]
        self.assertIn("routing_share", head)
        said = {router: line for line in lines for router in ("softmax_token_choice", "softmax_expert_choice")
                if line.startswith(f"| {router} ")}
        self.assertRegex(said["softmax_token_choice"], r"Other work: 1\.\d\d rows per token, not 2\.00\.")
        self.assertNotIn("Other work", said["softmax_expert_choice"])
        self.assertIn("router:dense", page.read_text())

    def test_layers_of_the_usual_selection_with_room_for_all_do_equal_work(self):
        usual = [comparison.split_name(name)[1] for name in run("--benchmark_list_tests").stdout.splitlines()
                 if name.startswith("layer/") and ("logits:uniform/" in name or "router:dense/" in name)]
        capacities = {axes["router"]: axes.get("capacity") for axes in usual}
        self.assertEqual(len(usual), 2 * len(capacities))
        expert_chooses = {"softmax_expert_choice", "sinkhorn_expert_choice", "sparse_expert_choice", "soft"}
        self.assertEqual({r for r, c in capacities.items() if c == "rows-2"}, expert_chooses)
        self.assertEqual({r for r, c in capacities.items() if c is None}, {"dense"})
        for capacity in ("dropless", "rows-2"):
            routers = [r for r, c in capacities.items() if (c or "dropless") == capacity]
            rows = self.measure("--families=layer", "--passes=forward", "--logits=uniform", "--routers", ",".join(routers),
                                f"--capacities={capacity}")
            self.assertEqual({dict(axes)["router"]: entry["rows_per_token"] for (_, axes), entry in rows.items()},
                             {router: 2 for router in routers})

    def test_distributions_are_what_they_are_called(self):
        rows = self.measure("--routers=softmax_token_choice", "--families=route", "--passes=forward", "--k=1",
                            "--logits=uniform,zipf,hotspot,collapse", "--tokens=2048", "--capacities=dropless")
        cv = {dict(axes)["logits"]: entry["load_cv"] for (_, axes), entry in rows.items()}
        def of(p):  # of loads proportional to p
            mean = sum(p) / 8
            return math.sqrt(sum((x - mean) ** 2 for x in p) / 8) / mean
        self.assertLess(cv["uniform"], 0.15)
        self.assertAlmostEqual(cv["zipf"], of([1 / (e + 1) for e in range(8)]), delta=0.12)
        self.assertAlmostEqual(cv["hotspot"], of([0.8] + 7 * [0.2 / 7]), delta=0.12)
        self.assertAlmostEqual(cv["collapse"], of([1] + 7 * [0]), delta=1e-9)
        self.assertTrue(all(entry["drop_rate"] == 0 for entry in rows.values()))

    def test_a_trace_gives_the_recorded_loads(self):
        trace = self.folder / "trace.safetensors"
        # of four tokens, expert 5 takes all first choices; the second choices go to 1, 1, 2 and none
        write_trace(trace, [[5, 1], [5, 1], [5, 2], [5, -1]], [[0.6, 0.3], [0.7, 0.2], [0.5, 0.4], [0.9, 0.0]])
        rows = self.measure("--routers=softmax_token_choice,hash", "--families=route", "--passes=forward", "--k=1",
                            "--trace", trace, "--logits=trace", "--capacities=slots-8")
        (entry,) = [e for (_, axes), e in rows.items() if dict(axes)["router"] == "softmax_token_choice"]
        self.assertAlmostEqual(entry["load_cv"], math.sqrt(7))  # all at one of eight experts
        self.assertAlmostEqual(entry["drop_rate"], 0.75)        # 8 slots for the 32 tokens of a group
        few = run(*TINY, "--experts=4", "--routers=hash", "--families=route", "--trace", trace, "--logits=trace")
        self.assertEqual(few.returncode, 1)
        self.assertIn("has expert 5 in layer 0, but --experts is 4", few.stdout + few.stderr)

    def test_telemetry_is_measured_beside_a_pass_without(self):
        rows = self.measure("--families=telemetry")
        ((family, axes),) = rows
        self.assertEqual((family, dict(axes)["preset"]), ("telemetry", "nano"))
        (entry,) = rows.values()
        self.assertGreater(entry["visit_share"], 0)
        self.assertLess(entry["visit_share"], 1)
        self.assertIn("overhead", entry)

    def test_the_usual_selection_and_all_are_lists_of_distinct_names(self):
        usual = run("--benchmark_list_tests").stdout.splitlines()
        self.assertEqual(len(usual), len(set(usual)))
        self.assertLess(len(usual), 120)
        everything = run("--all", "--benchmark_list_tests").stdout.splitlines()
        self.assertEqual(len(everything), len(set(everything)))
        self.assertGreater(len(everything), 1000)
        self.assertTrue(any("router:soft/" in n and "experts:128" in n for n in everything))
        self.assertFalse(any("expert_choice" in n and "bpr" in n for n in everything))

    def test_csv(self):
        out = self.folder / "out.csv"
        done = run(*TINY, "--routers=hash", "--passes=forward", "--benchmark_format=csv", f"--benchmark_out={out}",
                   "--benchmark_out_format=csv")
        self.assertEqual(done.returncode, 0, done.stderr)
        for text in (done.stdout, out.read_text()):
            alone, layer = csv.DictReader(text[text.index("name,iterations"):].splitlines())
            self.assertGreater(float(alone["tokens_per_second"]), 0)
            self.assertEqual(alone["FLOP/s"], "nan")
            self.assertGreater(float(layer["FLOP/s"]), 0)

    def test_wrong_values_are_one_line_and_exit_2(self):
        for arguments, text in [
                (["--routers", "sinkhorn_token_choise"], "did you mean 'sinkhorn_token_choice'?"),
                (["--capacities", "cell-1"], "there is no rule 'cell' (did you mean 'ceil'?)"),
                (["--capacities=ceil"], "'ceil': expected a factor"),
                (["--capacities=ceil--1"], "the factor is ''"),
                (["--capacities=rows"], "'rows': expected a number of rows a token, rows-2"),
                (["--capacities=rows-none"], "the number of rows a token is 'none', expected a number > 0"),
                (["--capacities=ceil-1-best"], "'best' is neither a priority nor an overflow policy"),
                (["--logits", "zipfian"], "did you mean 'zipf'?"),
                (["--logits=trace"], "'trace' needs --trace FILE"),
                (["--passes=sideways"], "there is no pass 'sideways'"),
                (["--families=rout"], "did you mean 'route'?"),
                (["--experts=8,none"], "--experts: 'none' is no whole number from 1"),
                (["--tokens", "100"], "100 is no multiple of --group 256"),
                (["--experts=256", "--families=layer"], "256 is more than --width 128"),
                (["--k=9", "--experts=8", "--routers=softmax_token_choice"],
                 "bench_routers: moxie::TopKRouter: k is 9, expected 1 to 8 (the number of experts)\n"),
                (["--routers=softmax_expert_choice", "--capacities=dropless"], "cannot use capacity 'dropless'"),
                (["--routers=dense", "--families=route"], "it has no family 'route'"),
                (["--thread=2"], "did you mean '--threads'?"),
                (["--json=a.json", "--benchmark_out=b.json"], "--json: stands for --benchmark_out"),
                (["--json"], "--json: its value is missing"),
                (["--benchmark_filter=nothing_like_it"], "no row has such a name")]:
            with self.subTest(arguments=arguments):
                done = run(*arguments)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(text, done.stderr)
                if not arguments[0].startswith("--benchmark"):
                    self.assertEqual(done.stderr.count("\n"), 1)
                    self.assertEqual(done.stdout, "")

    def test_a_file_that_cannot_be_written_is_known_before_the_work(self):
        done = run(*TINY, "--json", self.folder / "none" / "out.json")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertIn("out.json", done.stderr)


if __name__ == "__main__":
    unittest.main()
