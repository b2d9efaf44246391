#!/usr/bin/env python3
"""torch_moe.py: what it says without PyTorch, how it reads results and takes ratios (with a PyTorch that is not one), and, where
PyTorch is installed, that all forms of the experts compute the same."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import torch_moe  # noqa: E402


def program(folder, name, benchmarks):
    """A benchmark that writes these rows, name -> milliseconds, wherever its arguments say."""
    content = {"context": {"cpu": "a cpu", "host_name": "secret"},
               "benchmarks": [{"name": n, "run_type": "iteration", "real_time": t} for n, t in benchmarks]}
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys, pathlib\n"
                    "out = next(a.split('=')[1] for a in sys.argv if a.startswith(('--json=', '--benchmark_out=')))\n"
                    f"pathlib.Path(out).write_text({json.dumps(content)!r})\n")
    path.chmod(0o755)


class TorchMoe(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_without_pytorch_it_is_one_line_and_exit_2(self):
        (self.folder / "torch.py").write_text("raise ImportError('no torch here')\n")
        done = subprocess.run([sys.executable, HERE / "torch_moe.py"], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(self.folder)})
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr, "torch_moe.py: PyTorch is not installed (pip install torch): "
                                      "there is nothing to compare with\n")

    def run_with(self, torch_layers, *arguments):
        """Exit code, output and errors with a module in the place of torch_layers; a form takes as many seconds as it returns."""
        fake_torch = types.SimpleNamespace(set_num_threads=lambda n: None, __version__="0")
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.dict(sys.modules, {"torch": fake_torch, "torch_layers": torch_layers}), \
             mock.patch.object(torch_moe, "median_time", lambda f, repeats: f()), \
             contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = torch_moe.main([f"--programs={self.folder}", *arguments])
        return code, out.getvalue(), err.getvalue()

    def layers(self):
        def step(preset, form, compiled, images):
            if compiled and form == "second":
                raise RuntimeError("no compiler\nand more")
            seconds = {"first": 0.4, "second": 0.3}[form] / (10 if compiled else 1)
            return lambda: seconds
        def passes(form, shape, compiled):
            return (lambda: 1.0), (lambda: 3.0)
        return types.SimpleNamespace(FORMS={"loop": "first", "bmm": "second"}, check_forms=lambda: None,
                                     train_step=step, adversarial_step=step, layer_passes=passes)

    def test_a_step_is_judged_by_the_fastest_eager_form(self):
        program(self.folder, "bench_vit", [("nano/threads:2/iterations:1/manual_time", 150.0)])
        out = self.folder / "out.json"
        code, said, _ = self.run_with(self.layers(), "--what=nano", "--threads=2", "--rounds=3", f"--json={out}")
        self.assertEqual(code, 0)
        (result,) = json.loads(out.read_text())["results"]
        self.assertEqual(result["moxie_seconds"], [0.15] * 3)
        self.assertAlmostEqual(result["ratios"]["loop"], 0.4 / 0.15)
        self.assertAlmostEqual(result["ratio"], 2)  # 0.3 / 0.15, by bmm
        self.assertEqual((result["best_eager"], result["at_least"], result["state"]), ("bmm", 3.0, "missed"))
        self.assertIn("compiled_bmm does not run here: no compiler\n", said)
        self.assertNotIn("compiled_bmm", result["ratios"])
        self.assertNotIn("secret", out.read_text())

    def test_an_adversarial_step_has_a_program_of_its_own_and_no_bar(self):
        program(self.folder, "bench_attack", [("nano/threads:1/iterations:1/manual_time", 200.0)])
        out = self.folder / "out.json"
        code, _, _ = self.run_with(self.layers(), "--what=nano_attack", "--threads=1", "--rounds=1", f"--json={out}")
        self.assertEqual(code, 0)
        (result,) = json.loads(out.read_text())["results"]
        self.assertAlmostEqual(result["ratios"]["loop"], 2)
        self.assertNotIn("at_least", result)

    def test_a_layer_has_a_forward_and_both(self):
        rows = [(f"layer/net:layer/tokens:4096/experts:8/k:2/pass:{which}/threads:1", t)
                for which, ts in (("forward", (400, 500, 900)), ("backward", (1000, 1000, 1000))) for t in ts]
        program(self.folder, "bench_cpu", [*rows, ("layer/net:products/pass:forward/threads:1", 1)])
        out = self.folder / "out.json"
        code, _, _ = self.run_with(self.layers(), "--what=layer", "--threads=1", "--rounds=1", f"--json={out}")
        self.assertEqual(code, 0)
        forward, both = json.loads(out.read_text())["results"]
        self.assertEqual((forward["pass"], forward["moxie_seconds"], forward["ratios"]["loop"]), ("forward", [0.5], 2))
        self.assertEqual((both["pass"], both["moxie_seconds"], both["ratios"]["loop"]), ("both", [1.5], 2))

    def test_complaints_are_one_line_and_exit_2(self):
        for arguments, text in [(["--what=nona"], "there is no 'nona'"), (["--threads=0"], "whole numbers from 1"),
                                (["--rounds=0"], "whole numbers from 1"), (["--what=nano"], "cannot run")]:
            with self.subTest(arguments=arguments):
                code, _, errors = self.run_with(self.layers(), *arguments)
                self.assertEqual(code, 2)
                self.assertIn(text, errors)
                self.assertEqual(errors.count("\n"), 1)

    @unittest.skipUnless(importlib.util.find_spec("torch"), "PyTorch is not installed")
    def test_all_forms_compute_the_same(self):
        import torch_layers
        torch_layers.check_forms()
        for form in torch_layers.FORMS.values():
            first, *_, last = [f() for f in [torch_layers.train_step("nano", form, images=8)] * 10]
            self.assertLess(last, first)
        adversarial = [torch_layers.adversarial_step("nano", form, images=8)() for form in torch_layers.FORMS.values()]
        for loss in adversarial:  # on the same images from the same parameters, but for the noise of the router
            self.assertAlmostEqual(loss, adversarial[0], delta=0.05)


if __name__ == "__main__":
    unittest.main()
