#!/usr/bin/env python3
"""Writes headers of include/moxie and all of ours that they include as one file, for Compiler Explorer and quick tries.

usage: make_single_header.py --out FILE [--include DIR] [HEADER ...]

The file holds what a program on the CPU uses (DEFAULT), and each HEADER, named as it is included or as the documentation
does (robust/pgd.hpp). It needs Eigen and C++20.
"""

import argparse
import pathlib
import re
import sys

DEFAULT = [
    "moxie/moxie.hpp",
    "moxie/backend/thread_pool.hpp",
    "moxie/optimizer/adam_w.hpp",
    "moxie/optimizer/clip.hpp",
    "moxie/optimizer/sgd.hpp",
    "moxie/train/schedule.hpp",
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef)\b")
CONDITION_END = re.compile(r"^\s*#\s*endif\b")


class SingleHeader:
    def __init__(self, include_dir):
        self.include_dir = include_dir
        self.done = set()  # headers, ours and others', that are in already
        self.lines = []

    def add(self, header):
        """Appends `header`, each included header of ours in place of the line that includes it."""
        if header in self.done:
            return
        self.done.add(header)
        path = self.include_dir / header
        if not path.is_file():
            raise SystemExit(f"make_single_header: there is no {header} in {self.include_dir}")
        depth = 0
        self.lines.append(f"// ---- {header}")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line == "#pragma once":
                continue
            depth += bool(CONDITION.match(line)) - bool(CONDITION_END.match(line))
            include = INCLUDE.match(line)
            if not include:
                self.lines.append(line)
            elif include.group(2).startswith("moxie/"):
                if depth > 0:
                    raise SystemExit(f"make_single_header: {header}:{number} includes {include.group(2)} under a condition, "
                                     "and another header may need it without")
                self.add(include.group(2))
            elif depth > 0 or include.group(2) not in self.done:
                self.lines.append(line)
                if depth == 0:
                    self.done.add(include.group(2))


def version(include_dir):
    text = (include_dir / "moxie" / "version.hpp").read_text(encoding="utf-8")
    return ".".join(re.search(rf"#define MOXIE_VERSION_{part} (\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH"))


def make(include_dir, headers):
    """The text of the file."""
    single = SingleHeader(include_dir)
    for header in headers:
        single.add(header)
    top = [f"// moxie {version(include_dir)}: mixture-of-experts layers for C++20, all in one file; made by",
           "// tools/make_single_header.py. Needs Eigen 3.4.   SPDX-License-Identifier: Apache-2.0",
           "#pragma once", ""]
    text = "\n".join(top + single.lines) + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--include", type=pathlib.Path, help="folder of moxie/ (default: include/ of this repository)",
                        default=pathlib.Path(__file__).resolve().parent.parent / "include")
    parser.add_argument("headers", nargs="*", metavar="HEADER")
    options = parser.parse_args()
    more = [name if name.startswith("moxie/") else f"moxie/{name}" for name in options.headers]
    text = make(options.include, DEFAULT + more)
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"make_single_header: {error}") from None
    print(f"{options.out}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    sys.exit(main())
