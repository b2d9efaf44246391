#!/usr/bin/env python3
"""Trains a tiny model and opens the report of that run as browser_test.py does, and a page that
compares two of its checkpoints.

  real_run_test.py --program vmoe --data IMAGES [--screenshot page.png]

Exits 77 (skipped) where there is no Chromium.
"""

import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# Small enough for a few seconds without optimization; two MoE layers, and room for too few tokens.
TINY = ("--width 16 --blocks 2 --heads 2 --hidden 16 --patch 8 --experts 4 --moe every-1 --batch 200 "
        "--group-images 8 --epochs 2 --warmup-epochs 0.5 --log-every 2 --eval-every 0.5 "
        "--eval-capacity-factor 1 --report-images 6").split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, help="vmoe")
    parser.add_argument("--data", required=True, help="images to train on")
    parser.add_argument("--screenshot", help="PNG to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vmoe_real_run_") as folder:
        run = os.path.join(folder, "run")
        subprocess.run([options.program, "train", "--data", options.data, "--out", run] + TINY,
                       check=True)
        checkpoints = os.path.join(run, "checkpoint")
        first = os.path.join(checkpoints, min(os.listdir(checkpoints)))
        comparison = os.path.join(folder, "comparison.html")
        subprocess.run([options.program, "report", first, run, "--out", comparison,
                        "--images", "3", "--levels", "6"], check=True)
        command = [sys.executable, os.path.join(HERE, "browser_test.py"),
                   os.path.join(run, "report.html"), comparison]
        if options.screenshot:
            command += ["--screenshot", options.screenshot]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
