#!/usr/bin/env python3
"""bars.py: which rows a bar is for, and which of them is the worst."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bars  # noqa: E402


def row(kind, factors, experts, **counters):
    usual = {"rate": 0.9, "backward_rate": 0.9, "layer": 1.1, "routing": 0.05}
    return {"name": f"vmoe-b/{kind}/{factors}/experts:{experts}/tokens:8192/iterations:1/manual_time", **usual, **counters}


def run(rows, torch=None):
    """Exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder, "gpu.json")]
        files[0].write_text(json.dumps({"benchmarks": rows}), encoding="utf-8")
        if torch is not None:
            files.append(pathlib.Path(folder, "torch.json"))
            files[1].write_text(json.dumps({"results": torch}), encoding="utf-8")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = bars.main([str(f) for f in files])
    return code, out.getvalue(), err.getvalue()


class Bars(unittest.TestCase):
    def test_all_are_met(self):
        code, text, _ = run([row("dropless", "bf16", 32), row("capacity", "tf32", 32)])
        self.assertEqual(code, 0)
        self.assertEqual(text.count("met"), len(bars.BARS))

    def test_the_worst_row_is_told(self):
        code, text, _ = run([row("dropless", "bf16", 32, rate=0.7), row("dropless", "tf32", 32, rate=0.59),
                             row("dropless", "tf32", 8, rate=0.61), row("capacity", "tf32", 8)])
        self.assertEqual(code, 1)
        (line,) = [line for line in text.splitlines() if "MISSED" in line]
        self.assertIn("dropless products", line)
        self.assertIn(" 0.590 ", line)
        self.assertIn("dropless/tf32/experts:32", line)
        code, text, _ = run([row("capacity", "bf16", 8, layer=1.21), row("capacity", "bf16", 32, routing=0.081),
                             row("dropless", "bf16", 8)])
        self.assertEqual((code, text.count("MISSED")), (1, 2))

    def test_small_experts_and_fp32_have_no_bar(self):
        low = {"rate": 0.1, "backward_rate": 0.1}
        # 2.5 * 8192 / 128 = 160 rows an expert
        good = [row("dropless", "bf16", 8), row("capacity", "bf16", 8)]
        self.assertEqual(run([*good, row("capacity", "bf16", 128, **low), row("dropless", "fp32", 8, **low, layer=2.0)])[0], 0)
        self.assertEqual(run([*good, row("dropless", "bf16", 128, **low)])[0], 1)

    def test_a_bar_without_rows_is_not_met(self):
        for kind, missed in (("dropless", ["padded products", "their backward"]), ("capacity", ["dropless products", "their backward"])):
            code, text, _ = run([row(kind, "bf16", 8)])
            self.assertEqual(code, 1)
            lines = [line for line in text.splitlines() if "MISSED" in line]
            self.assertEqual([line.endswith("  no row of it") for line in lines], [True, True])
            for line, what in zip(lines, missed):
                self.assertTrue(line.startswith(what))

    def test_pytorch_is_to_be_slower(self):
        name = row("dropless", "bf16", 8)["name"]
        both = [{"row": name, "pass": "forward", "ratio": 1.3}, {"row": name, "pass": "both", "ratio": 0.9}]
        own = [row("dropless", "bf16", 8), row("capacity", "bf16", 8)]
        code, text, _ = run(own, both)
        self.assertEqual((code, text.count("MISSED")), (1, 1))
        self.assertEqual(run(own, both[:1])[0], 0)

    def test_other_files_are_refused(self):
        self.assertEqual(run([row("dropless", "fp32", 8)])[0], 2)
        self.assertEqual(run([{"real_time": 1}])[0], 2)
        self.assertEqual(bars.main([]), 2)


if __name__ == "__main__":
    unittest.main()
