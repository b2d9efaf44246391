#!/usr/bin/env python3
"""Compares the preprocessor's macros before and after our headers: those that come begin with MOXIE_, and none that the
headers of others had defined is changed or taken away."""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

# they need another library or compiler
SPECIAL = re.compile(r"^moxie/(backend/(cuda[./]|thrust_host|openmp_executor)|dist/(mpi|nccl))|[.]cuh$")
FOREIGN = re.compile(r"^\s*#\s*include\s*(<[^>]+>)")


def macros(options, source):
    """{name: text} of all macros that are defined at the end of `source`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "all.cpp")
        path.write_text(source, encoding="utf-8")
        done = subprocess.run([options.compiler, "-std=c++20", "-E", "-dM", "-I", options.include, "-isystem", options.eigen,
                               str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found = {}
    for line in done.stdout.splitlines():
        _, name, *text = line.split(" ", 2)
        found[name.split("(")[0]] = (name, *text)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", required=True, help="folder of moxie/")
    parser.add_argument("--eigen", required=True, help="folder of Eigen/")
    options = parser.parse_args()
    root = pathlib.Path(options.include)
    headers = sorted(p.relative_to(root).as_posix() for p in root.glob("moxie/**/*.hpp"))
    headers = [name for name in headers if not SPECIAL.match(name)]
    foreign = sorted({include for name in headers for line in (root / name).read_text(encoding="utf-8").splitlines()
                      for include in FOREIGN.findall(line)} - {"<arm_neon.h>"})
    guarded = "".join(f"#if __has_include({name})\n#include {name}\n#endif\n" for name in foreign)
    before = macros(options, guarded)
    after = macros(options, guarded + "".join(f"#include <{name}>\n" for name in headers))

    errors = [f"{name} is defined by our headers, and does not begin with MOXIE_"
              for name in after if name not in before and not name.startswith("MOXIE_")]
    errors += [f"{name} is {'changed' if name in after else 'taken away'} by our headers"
               for name in before if after.get(name) != before[name]]
    ours = sum(name.startswith("MOXIE_") for name in after)
    if ours == 0 or len(headers) < 100:
        errors.append(f"expected some macros of {len(headers)} headers, there are {ours}")
    print("\n".join(errors) if errors else f"macros: {ours} of ours in {len(headers)} headers, no violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
