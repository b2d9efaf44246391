#!/usr/bin/env python3
"""bench_vit on its smallest row: one time of a step, two shares of it, where the result comes from.

    vit_smoke_test.py PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""


class Vit(unittest.TestCase):
    def test_a_row_has_one_time_and_shares_of_it(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.json"
            done = subprocess.run([PROGRAM, "--benchmark_filter=nano/threads:1", "--benchmark_repetitions=1",
                                   f"--benchmark_out={out}", "--benchmark_out_format=json"],
                                  capture_output=True, text=True, timeout=280, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            content = json.loads(out.read_text())
        (row,) = content["benchmarks"]
        self.assertAlmostEqual(row["images_per_second"], 128 / (1e-3 * row["real_time"]), delta=1e-6 * row["images_per_second"])
        self.assertEqual({key for key in row if "share" in key}, {"share_moe", "share_attention"})
        self.assertGreater(row["share_moe"], 0)
        self.assertGreater(row["share_attention"], 0)
        self.assertNotIn("ms", row)
        for key in ("commit", "uncommitted_changes", "compiler", "build", "cpu", "seed"):
            self.assertTrue(content["context"][key], key)
        self.assertTrue(content["context"]["command"].endswith("--benchmark_out=out.json --benchmark_out_format=json"))


if __name__ == "__main__":
    unittest.main()
