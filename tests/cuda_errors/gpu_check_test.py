#!/usr/bin/env python3
"""scripts/gpu_check: how steps are told, and what it says without a GPU.

    gpu_check_test.py SCRIPT
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest
from unittest import mock

SCRIPT = sys.argv.pop(1)
loader = importlib.machinery.SourceFileLoader("gpu_check", SCRIPT)
gpu_check = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
sys.dont_write_bytecode = True
loader.exec_module(gpu_check)


def run(arguments, gpus, steps=(), environment=None):
    """Exit code and output of the script with these GPUs and steps."""
    out = io.StringIO()
    with mock.patch.object(gpu_check, "gpu_names", lambda: gpus), \
            mock.patch.object(gpu_check, "steps", lambda build, jobs: steps), \
            mock.patch.dict(os.environ, environment or {}), contextlib.redirect_stdout(out):
        return gpu_check.main(arguments), out.getvalue()


class GpuCheck(unittest.TestCase):
    def test_without_a_gpu_it_skips_or_fails_if_one_is_required(self):
        with mock.patch.dict(os.environ):
            os.environ.pop("MOXIE_REQUIRE_GPU", None)
            code, text = run([], [])
        self.assertEqual((code, text), (77, "skipped: no GPU (nvidia-smi lists none)\n"))
        code, text = run([], [], environment={"MOXIE_REQUIRE_GPU": "1"})
        self.assertEqual((code, text), (1, "failed, MOXIE_REQUIRE_GPU=1: no GPU (nvidia-smi lists none)\n"))

    def test_a_step_that_hangs_is_ended_and_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            result = gpu_check.run_step("one", ["sleep", "60"], pathlib.Path(folder) / "one.log", seconds_at_most=0.2)
        self.assertEqual((result["status"], result["reason"]), ("failed", "still ran after 0.2 s, see one.log"))
        self.assertLess(result["seconds"], 30)

    def test_what_a_hanging_step_started_ends_with_it(self):
        with tempfile.TemporaryDirectory() as folder:
            pid = pathlib.Path(folder) / "pid"
            gpu_check.run_step("one", ["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], pathlib.Path(folder) / "one.log",
                               seconds_at_most=1)
            started = int(pid.read_text(encoding="utf-8"))
            state = pathlib.Path(f"/proc/{started}/stat")
            for _ in range(100):  # until it is gone, or a zombie that none has waited for yet
                if not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                    break
                time.sleep(0.05)
            else:
                self.fail(f"process {started} lives on")

    def test_a_program_that_cannot_be_started_fails_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            code, text = run(["--build", folder], ["A GPU"], [("one", ["/nowhere/program"], {}, None), ("two", ["true"], {}, None)])
            self.assertEqual(code, 1)
            self.assertRegex(text, r"one +failed .* could not be started: .*No such file")
            report = json.loads(pathlib.Path(folder, "gpu_check", "result.json").read_text(encoding="utf-8"))
            self.assertEqual([s["status"] for s in report["steps"]], ["failed", "passed"])

    def test_a_device_that_the_sanitizer_does_not_know_is_no_failure(self):
        with tempfile.TemporaryDirectory() as folder:
            tool = pathlib.Path(folder, "compute-sanitizer")
            for says, status in (("Device not supported", "skipped"), ("ERROR SUMMARY: 1 error", "failed")):
                tool.write_text(f"#!/bin/sh\necho '{says}'\nexit 1\n", encoding="utf-8")
                tool.chmod(0o755)
                result = gpu_check.run_step("memcheck", [tool], pathlib.Path(folder) / "memcheck.log")
                self.assertEqual(result["status"], status)

    def test_architectures_are_those_of_the_gpus(self):
        with mock.patch.object(gpu_check, "gpu_names", lambda what: {"compute_cap": ["9.0", "8.0", "9.0"]}[what]):
            self.assertEqual(gpu_check.architectures(), "80-real;90-real")
        with mock.patch.object(gpu_check, "gpu_names", lambda what: []):
            self.assertEqual(gpu_check.architectures(), "native")

    def test_steps_pass_fail_and_are_skipped(self):
        steps = [("one", ["true"], {}, None), ("two", ["sh", "-c", "echo words; exit 3"], {}, None),
                 ("three", ["true"], {}, "not there"), ("four", ["sh", "-c", 'test "$SET" = yes'], {"SET": "yes"}, None),
                 ("five", ["sh", "-c", "exit 77"], {}, None)]
        with tempfile.TemporaryDirectory() as folder:
            build = pathlib.Path(folder)
            code, text = run(["--build", folder], ["A GPU, 1.0"], steps)
            self.assertEqual(code, 1)
            self.assertIn("three  skipped", text)
            report = json.loads((build / "gpu_check" / "result.json").read_text(encoding="utf-8"))
            self.assertEqual(report["gpus"], ["A GPU, 1.0"])
            self.assertEqual([s["status"] for s in report["steps"]], ["passed", "failed", "skipped", "passed", "skipped"])
            self.assertEqual(report["steps"][1]["reason"], "ended with 3, see two.log")
            self.assertEqual((build / "gpu_check" / "two.log").read_text(encoding="utf-8"), "words\n")
            code, text = run(["--build", folder, "--only", "mem"], ["A GPU"], [("mem_one", ["true"], {}, None), ("memory", ["true"], {}, None)])
            self.assertEqual((code, "mem_one  passed" in text, "memory" in text), (0, True, False))
            code, _ = run(["--build", folder, "--only", "one", "--out", str(build / "other.json")], ["A GPU"], steps)
            self.assertEqual(code, 0)
            self.assertEqual(len(json.loads((build / "other.json").read_text(encoding="utf-8"))["steps"]), 1)

    def test_nothing_follows_a_build_that_failed(self):
        with tempfile.TemporaryDirectory() as folder:
            code, text = run(["--build", folder], ["A GPU"], [("build", ["false"], {}, None), ("tests", ["true"], {}, None)])
        self.assertEqual(code, 1)
        self.assertNotIn("tests", text)

    def test_its_steps_can_be_listed(self):
        listed = list(gpu_check.steps(pathlib.Path("/nowhere"), "2"))
        self.assertEqual([s[0] for s in listed], ["configure", "build", "test_cuda", "conformance_double", "conformance_float",
                                                  "memcheck", "memcheck_ops", "memcheck_conformance",
                                                  "racecheck", "racecheck_ops", "racecheck_conformance", "benchmark",
                                                  "torch", "bars", "training"])
        self.assertEqual(listed[-2][3], "bench_gpu has written nothing")
        self.assertEqual(listed[3][3], "built without conformance_cuda")
        self.assertEqual(listed[2][3], "built without its tests")
        self.assertEqual(listed[11][3], "built without bench_gpu (no Google Benchmark)")
        self.assertEqual(listed[-1][1][2:4], ["--backend", "cuda"])
        self.assertEqual(listed[-1][3], "built without vmoe_cuda")

    def test_bars_are_printed_and_reported_met_or_not(self):
        with tempfile.TemporaryDirectory() as folder:
            for code, status in ((0, "passed"), (1, "failed")):
                steps = [("bars", ["sh", "-c", f"echo a bar; exit {code}"], {}, None)]
                ended, text = run(["--build", folder], ["A GPU"], steps)
                self.assertEqual(ended, code)
                self.assertIn("\n\na bar\nwritten: ", text)
                report = json.loads(pathlib.Path(folder, "gpu_check", "result.json").read_text(encoding="utf-8"))
                self.assertEqual((report["bars"], report["steps"][0]["status"]), (["a bar"], status))

    def test_torch_is_compared_where_it_ran_after_the_benchmark(self):
        with tempfile.TemporaryDirectory() as folder:
            logs = pathlib.Path(folder, "gpu_check")
            logs.mkdir()
            for older, newer in (("bench_gpu.json", "torch_gpu.json"), ("torch_gpu.json", "bench_gpu.json")):
                for seconds, name in ((100, older), (200, newer)):
                    (logs / name).touch()
                    os.utime(logs / name, (seconds, seconds))
                (bars,) = [s for s in gpu_check.steps(pathlib.Path(folder), "2") if s[0] == "bars"]
                self.assertEqual(bars[1][-1].name, newer if newer == "torch_gpu.json" else "bench_gpu.json")
                self.assertIsNone(bars[3])

    def test_a_benchmark_of_an_earlier_run_is_not_reported(self):
        steps = [("tests", ["true"], {}, None), ("benchmark", ["true"], {}, None)]
        with tempfile.TemporaryDirectory() as folder:
            logs = pathlib.Path(folder, "gpu_check")
            logs.mkdir()
            (logs / "bench_gpu.json").write_text('{"benchmarks": []}', encoding="utf-8")
            for only, wanted in (("tests", None), ("benchmark", {"benchmarks": []})):
                run(["--build", folder, "--only", only], ["A GPU"], steps)
                report = json.loads((logs / "result.json").read_text(encoding="utf-8"))
                self.assertEqual(report["benchmark"], wanted)

    def test_what_an_earlier_run_measured_is_not_judged_where_the_benchmark_failed(self):
        with tempfile.TemporaryDirectory() as folder:
            for benchmark, status in (("true", "passed"), ("false", "skipped")):
                steps = [("benchmark", [benchmark], {}, None), ("torch", ["true"], {}, None), ("bars", ["echo", "a bar"], {}, None)]
                run(["--build", folder], ["A GPU"], steps)
                report = json.loads(pathlib.Path(folder, "gpu_check", "result.json").read_text(encoding="utf-8"))
                self.assertEqual([s["status"] for s in report["steps"]][1:], [status, status])
                self.assertEqual(report["bars"], ["a bar"] if benchmark == "true" else [])


if __name__ == "__main__":
    unittest.main()
