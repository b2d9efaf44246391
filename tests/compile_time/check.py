#!/usr/bin/env python3
"""Compares what the library costs to compile with what was recorded (ratios.json).

usage: check.py --compiler CXX --include DIR [--system DIR[;DIR...]] [--rounds N] [--record]

Compiles three files at -O2: one that includes moxie.hpp, one with a layer, and one of Eigen alone, in turn, and takes
the least user time of each. A time says nothing about another machine, but the ratio of two on the same machine does: it
must not be larger than the recorded one by more than MARGIN. If it is, it is measured again before it counts, since
neighbours on the machine disturb. --record prints what to write into ratios.json.

Exit status: 0 within the margin, 1 above it, 77 where nothing is recorded for this compiler.
"""

import argparse
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REFERENCE = "eigen_only"
MEASURED = ("include_only", "one_layer")
MARGIN = 0.2
MOST_ROUNDS = 4


def compiler_key(version_text):
    """'gcc-12' or 'clang-14' of what `CXX --version` prints, or None."""
    clang = re.search(r"clang version (\d+)", version_text)
    if clang:
        return "clang-" + clang.group(1)
    gcc = re.search(r"^\S*(?:g\+\+|gcc|c\+\+)\S* .*?\b(\d+)\.\d+\.\d+", version_text)
    return "gcc-" + gcc.group(1) if gcc else None


def user_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(command, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def one_round(compile_command, least):
    """Compiles each file once; `least` keeps the least time of each."""
    for name in (REFERENCE, *MEASURED):
        seconds = user_seconds(compile_command(name))
        least[name] = min(seconds, least.get(name, seconds))


def ratios(least):
    return {name: least[name] / least[REFERENCE] for name in MEASURED}


def too_slow(found, recorded):
    return [name for name in MEASURED if found[name] > recorded[name] * (1 + MARGIN)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", required=True, help="folder of the library's headers")
    parser.add_argument("--system", default="", help="folders of Eigen, with ; between them")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    version = subprocess.run([options.compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = compiler_key(version)
    recorded = json.loads((HERE / "ratios.json").read_text()).get(key)
    if recorded is None and not options.record:
        print(f"no ratios are recorded for this compiler ({key or version.splitlines()[0]}): ratios.json")
        return 77

    with tempfile.TemporaryDirectory() as folder:
        def compile_command(name):
            command = [options.compiler, "-std=c++20", "-O2", "-I", options.include]
            for system in filter(None, options.system.split(";")):
                command += ["-isystem", system]
            return command + ["-c", str(HERE / (name + ".cpp")), "-o", str(pathlib.Path(folder) / "out.o")]

        least = {}
        rounds = 0
        while rounds < options.rounds or (
                not options.record and rounds < MOST_ROUNDS and too_slow(ratios(least), recorded)):
            one_round(compile_command, least)
            rounds += 1

    found = ratios(least)
    if options.record:
        print(json.dumps({key: {name: round(found[name], 3) for name in MEASURED}}))
        return 0
    for name in (REFERENCE, *MEASURED):
        note = f", {found[name]:.2f} of {REFERENCE}, recorded {recorded[name]:.2f}" if name in found else ""
        print(f"{name}: {least[name]:.2f} s of user time (least of {rounds}){note}")
    for name in too_slow(found, recorded):
        print(f"{name}: {100 * (found[name] / recorded[name] - 1):.0f} % above what is recorded, expected at most "
              f"{100 * MARGIN:.0f} %: see docs/compile_time.md")
    return 1 if too_slow(found, recorded) else 0


if __name__ == "__main__":
    sys.exit(main())
