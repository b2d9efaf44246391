#!/usr/bin/env python3
"""Compiles the headers with several compilers, warnings as errors; nothing is linked or run.

usage: check_compilers.py [--alone] [--eigen DIR] [--flags "..."] COMPILER...      (g++-11 clang++-16 ...)

One file with every header that needs nothing but Eigen, and one with a layer, are compiled by each; with --alone each header is a
file of its own, which takes minutes a compiler. Exit status 1 if one of them fails; a compiler that is not there fails too.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wsign-conversion", "-Werror"]
# what needs a further library or nvcc (cmake/library.cmake)
SPECIAL = re.compile(r"moxie/backend/(cuda[./]|thrust_host|openmp_executor)|moxie/dist/(mpi|nccl)")


def plain_headers(include):
    """Names of the headers that need nothing but Eigen, as one includes them."""
    names = sorted(path.relative_to(include).as_posix() for path in include.glob("moxie/**/*.hpp"))
    return [name for name in names if not SPECIAL.match(name)]


def programs(names, alone):
    """(what it is, its text) of each file to compile."""
    lines = [f"#include <{name}>\n" for name in names]
    if alone:
        return list(zip(names, lines))
    layer = (ROOT / "tests/package/layer.cpp").read_text(encoding="utf-8")
    return [(f"all {len(names)} headers", "".join(lines)), ("a layer", layer)]


def first_error(text):
    """The line that says what is wrong."""
    return next((line for line in text.splitlines() if "error" in line), text.strip() or "it said nothing")


def check(compiler, files, flags):
    """Lines of what does not compile."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "main.cpp"
        for name, text in files:
            path.write_text(text, encoding="utf-8")
            try:
                ran = subprocess.run([compiler, "-std=c++20", "-fsyntax-only", *flags, str(path)], capture_output=True, text=True)
            except FileNotFoundError:
                return [f"{compiler}: is not there"]
            if ran.returncode != 0:
                failed.append(f"{compiler}: {name}: {first_error(ran.stderr)}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true", help="each header is a file of its own")
    parser.add_argument("--eigen", default="/usr/include/eigen3", help="folders of Eigen, with ; between them")
    parser.add_argument("--flags", default="", help="further flags")
    parser.add_argument("compilers", nargs="+", metavar="COMPILER")
    options = parser.parse_args()
    include = ROOT / "include"
    files = programs(plain_headers(include), options.alone)
    folders = [flag for folder in options.eigen.split(";") if folder for flag in ("-isystem", folder)]
    flags = [*WARNINGS, *options.flags.split(), "-I", str(include), *folders]
    failed = []
    for compiler in options.compilers:
        found = check(compiler, files, flags)
        print("\n".join(found) if found else f"{compiler}: {len(files)} files compile", flush=True)
        failed += found
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
