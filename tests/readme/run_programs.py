#!/usr/bin/env python3
"""Compiles and runs the C++ of a Markdown file: a block with `int main` as it stands, the others together, in their order, as the
body of a main function behind their #include lines.

Ends with 0, or with 1 and the compiler's or the program's words.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile


def programs(text):
    """(name, source) of each program."""
    whole, parts = [], []
    for block in re.findall(r"^```cpp\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (whole if "int main" in block else parts).append(block)
    found = [(f"program {i + 1}", block) for i, block in enumerate(whole)]
    if parts:
        lines = "".join(parts).splitlines()
        includes = [line for line in lines if line.startswith("#include")]
        body = [line for line in lines if not line.startswith("#include")]
        found.append(("the snippets", "\n".join([*includes, "int main() {", *body, "}", ""])))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--file", type=pathlib.Path, required=True)
    parser.add_argument("--least", type=int, default=1, help="programs that it has")
    parser.add_argument("--include", required=True, help="folder of moxie/")
    parser.add_argument("--system", default="", help="folders of Eigen, with ; between them")
    options = parser.parse_args()
    found = programs(options.file.read_text(encoding="utf-8"))
    if len(found) < options.least:
        sys.exit(f"{options.file}: holds {len(found)} programs, expected at least {options.least}")
    folders = [flag for folder in options.system.split(";") if folder for flag in ("-isystem", folder)]
    with tempfile.TemporaryDirectory() as folder:
        for name, source in found:
            path = pathlib.Path(folder) / "program.cpp"
            path.write_text(source, encoding="utf-8")
            binary = path.with_suffix("")
            built = subprocess.run([options.compiler, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-I", options.include,
                                    *folders, str(path), "-o", str(binary), "-pthread"], capture_output=True, text=True)
            if built.returncode != 0:
                sys.exit(f"{options.file}: {name} does not compile:\n{built.stderr}\n{source}")
            ran = subprocess.run([str(binary)], capture_output=True, text=True)
            if ran.returncode != 0:
                sys.exit(f"{options.file}: {name} ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
            print(f"{name}: compiled and run")


if __name__ == "__main__":
    main()
