#!/usr/bin/env python3
"""Compiles the C++ of pages of docs/ (nothing is linked or run): each page is one file, each of its blocks a function in it.

usage: compile_pages.py --compiler CXX [--cuda] --include DIR [--system DIR[;DIR...]] PAGE...

In front of a page's blocks stand <moxie/moxie.hpp>, the headers that the page names (`Header: ...`), and what its text takes for
granted: common.hpp here, and PAGE.hpp if there is one. Left out are blocks that are cut from a program (tools/check_snippets.py).
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BLOCK = re.compile(r"^```(?:c\+\+|cpp)$")
NAMED = re.compile(r"\bHeaders?: ((?:`[\w/]+\.hpp`(?:, )?)+)")


def blocks(text):
    """(line number of its first line, lines) of each block that is not cut from a program."""
    found, lines, at = [], text.splitlines(), 0
    while at < len(lines):
        if BLOCK.match(lines[at]):
            end = lines.index("```", at)
            if at == 0 or not lines[at - 1].startswith("<!-- cut: "):
                found.append((at + 2, lines[at + 1:end]))
            at = end
        at += 1
    return found


def program(page, text):
    """The file to compile, or None if the page has no code."""
    found = blocks(text)
    if not found:
        return None
    headers = [h for names in NAMED.findall(text) for h in re.findall(r"`([^`]+)`", names)]
    taken = [HERE / "common.hpp", HERE / (page.stem + ".hpp")]
    includes = ["#include <moxie/moxie.hpp>", *(f"#include <moxie/{h}>" for h in headers)]
    includes += [f'#include "{path}"' for path in taken if path.exists()]
    body = []
    for number, (line, code) in enumerate(found):
        includes += [c for c in code if c.startswith("#include")]
        code = ["" if c.startswith("#include") else c for c in code]
        body += [f"int block_{number}() {{", f'#line {line} "{page}"', *code, "return 0; }"]
    return "\n".join([*dict.fromkeys(includes), *body, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--cuda", action="store_true", help="the compiler is nvcc")
    parser.add_argument("--include", required=True, help="folder of moxie/")
    parser.add_argument("--system", default="", help="folders of Eigen, with ; between them")
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    folders = [flag for folder in options.system.split(";") if folder for flag in ("-isystem", folder)]
    # names are used for what they are, and a page declares more than it uses
    command = [options.compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable",
               "-Wno-unused-but-set-variable", "-I", options.include, *folders]
    if options.cuda:
        command = [options.compiler, "-std=c++20", "-arch=sm_80", "-x", "cu", "-c", "-o", os.devnull, "-I", options.include, *folders]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for page in options.pages:
            source = program(page, page.read_text(encoding="utf-8"))
            if source is None:
                continue
            path = pathlib.Path(folder) / "page.cpp"
            path.write_text(source, encoding="utf-8")
            built = subprocess.run([*command, str(path)], capture_output=True, text=True)
            print(f"{page}: {'does not compile:' if built.returncode else 'compiles'}\n{built.stderr}", end="", flush=True)
            failed += built.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
