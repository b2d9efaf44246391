#!/usr/bin/env python3
"""torch_gpu.py: what it reads of bench_gpu, what it says without PyTorch or a GPU, and its ratios (with a PyTorch that is not
one)."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import torch_gpu  # noqa: E402

ROWS = [("vmoe-b/dropless/bf16/experts:32/tokens:8192/iterations:1/manual_time", 2.0, 6.0),
        ("vmoe-b/capacity/bf16/experts:32/tokens:8192/iterations:1/manual_time", 1.0, 1.0)]


class TorchGpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.moxie = pathlib.Path(folder.name) / "gpu.json"
        self.write(ROWS)

    def write(self, rows):
        self.moxie.write_text(json.dumps({"benchmarks": [
            {"name": n, "run_type": "iteration", "real_time": f, "forward_backward": both} for n, f, both in rows]}))

    def run_with(self, modules, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.dict(sys.modules, modules), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = torch_gpu.main([f"--moxie={self.moxie}", *arguments])
        return code, out.getvalue(), err.getvalue()

    def torch(self, gpu=True):
        cuda = types.SimpleNamespace(is_available=lambda: gpu, empty_cache=lambda: None, get_device_name=lambda i: "a GPU")
        return types.SimpleNamespace(cuda=cuda, __version__="0")

    def test_reads_the_dropless_rows(self):
        (row,) = torch_gpu.rows_of(self.moxie.read_text(), "it")
        self.assertEqual((row["shape"], row["type"], row["experts"], row["tokens"]), ("vmoe-b", "bf16", 32, 8192))
        self.assertEqual((row["forward"], row["both"]), (2.0, 6.0))

    def test_complaints_are_one_line_and_exit_2(self):
        cases = [(ROWS[1:], {"torch": self.torch()}, "no row of a dropless layer"), (ROWS, {"torch": None}, "not installed")]
        for rows, modules, text in cases:
            with self.subTest(text=text):
                self.write(rows)
                code, said, errors = self.run_with(modules)
                self.assertEqual((code, said, errors.count("\n")), (2, "", 1))
                self.assertIn(text, errors)
        self.moxie.write_text("[]")
        self.assertIn("is not what bench_gpu writes", self.run_with({"torch": self.torch()})[2])

    def test_without_a_gpu_it_is_skipped(self):
        code, said, _ = self.run_with({"torch": self.torch(gpu=False)})
        self.assertEqual((code, said), (77, "skipped: this PyTorch finds no CUDA device\n"))

    def test_a_ratio_is_of_the_fastest_form_that_runs(self):
        def passes(torch, torch_layers, form, row):
            if form == "broken":
                raise RuntimeError("no kernel\nand more")
            return {"forward": form, "both": 2 * form}
        layers = types.SimpleNamespace(FORMS={"loop": 8.0, "bmm": 3.0, "grouped": "broken"})
        out = self.moxie.with_name("out.json")
        with mock.patch.object(torch_gpu, "passes", passes), \
             mock.patch.object(torch_gpu, "milliseconds", lambda torch, f, rounds: f):
            code, said, _ = self.run_with({"torch": self.torch(), "torch_layers": layers}, f"--json={out}")
        self.assertEqual(code, 0)
        self.assertIn("grouped does not run here: no kernel\n", said)
        forward, both = json.loads(out.read_text())["results"]
        self.assertEqual((forward["best"], forward["ratio"], forward["ratios"]["loop"]), ("bmm", 1.5, 4.0))
        self.assertEqual((both["pass"], both["ratio"]), ("both", 1.0))


if __name__ == "__main__":
    unittest.main()
