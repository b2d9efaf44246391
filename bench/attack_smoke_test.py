#!/usr/bin/env python3
"""bench_attack on its smallest row: a time, two ratios, no allocations, where the result comes from.

    attack_smoke_test.py PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""


class Attack(unittest.TestCase):
    def test_a_row_has_a_time_and_ratios(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.json"
            done = subprocess.run([PROGRAM, "--benchmark_filter=nano/threads:1",
                                   f"--benchmark_out={out}", "--benchmark_out_format=json"],
                                  capture_output=True, text=True, timeout=280, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            content = json.loads(out.read_text())
        (row,) = content["benchmarks"]
        self.assertAlmostEqual(row["images_per_second"], 64 / (1e-3 * row["real_time"]), delta=1e-6 * row["images_per_second"])
        self.assertEqual(row["allocations"], 0)
        # Ratios of times on a machine that does other things besides are no test of the bar itself
        for key in ("step_of_11_passes", "attack_of_10_passes"):
            self.assertGreater(row[key], 0.3)
            self.assertLess(row[key], 3)
        for key in ("commit", "uncommitted_changes", "compiler", "build", "cpu", "seed"):
            self.assertTrue(content["context"][key], key)


if __name__ == "__main__":
    unittest.main()
