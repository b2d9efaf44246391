#!/usr/bin/env python3
"""Checks the rules for what headers of include/moxie may include and define.

usage: check_includes.py [INCLUDE_DIR]      (default: include/ of this repository)

 * Includes point one way: a folder includes folders of its own level or lower ones (LEVEL), and never in a circle.
   backend/ includes core/ and ops/ only; others include no particular backend, only backend/concept.hpp. testing/ may
   include everything, and is included by nothing else. Nothing includes the umbrellas. (name.hpp and the name_impl.hpp with
   its bodies, which include each other, are no circle.)
 * Eigen is included by core/eigen.hpp only; CUDA's headers in backend/cuda/ only; Thrust and CUB in backend/ only.
 * <iostream>, <regex> and <functional> cost every user compile time and are not included.
 * Macros begin with MOXIE_ (core/eigen.hpp may set Eigen's own); every header has #pragma once; our headers are named from include/ on.
"""

import pathlib
import re
import sys

LEVEL = {
    "core": 0,
    "ops": 1,
    "routing": 2,
    "gate": 3, "router": 3, "capacity": 3, "dispatch": 3, "expert": 3, "regularizer": 3, "vision": 3,
    "layer": 4, "dist": 4,
    "nn": 5,
    "optimizer": 6, "train": 6, "robust": 6,
    "runtime": 7, "io": 7,
}
UMBRELLAS = {"moxie/moxie.hpp", "moxie/cuda.cuh"}
ANYWHERE = {"moxie/version.hpp", "moxie/fwd.hpp", "moxie/backend/concept.hpp"}  # they include core/ at most
SLOW = {"iostream", "regex", "functional"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
DEFINE = re.compile(r"^\s*#\s*define\s+(\w+)")
CUDA = re.compile(r"^(cuda|cublas|cudnn|nccl|curand|nvtx)[\w/]*\.?\w*$")


def folder_of(name):
    parts = name.split("/")
    return parts[1] if len(parts) > 2 else ""


def why_not(header, included):
    """The rule that `header` breaks by including our header `included`, or None."""
    if included in UMBRELLAS:
        return None if header in UMBRELLAS else "nothing includes an umbrella"
    if header in UMBRELLAS or folder_of(header) == "testing":
        return None
    source, target = folder_of(header), folder_of(included)
    if header in ANYWHERE:
        return None if target == "core" or included in ANYWHERE else "this header includes core/ at most"
    if included in ANYWHERE:
        return None
    if target == "testing":
        return "only testing/ includes testing/"
    if source == "backend":
        return None if target in ("backend", "core", "ops") else "backend/ includes core/ and ops/ only"
    if target == "backend":
        return "no particular backend is known outside backend/ (backend/concept.hpp is free)"
    for folder in (source, target):
        if folder not in LEVEL:
            return f"folder '{folder}' has no level: give it one in tools/check_includes.py"
    if LEVEL[target] > LEVEL[source]:
        return f"{source}/ stands below {target}/"
    return None


def why_not_external(header, included):
    if included.startswith(("Eigen/", "unsupported/Eigen")) and header != "moxie/core/eigen.hpp":
        return "include moxie/core/eigen.hpp instead"
    if included in SLOW:
        return "it costs every user compile time"
    folder = folder_of(header)
    if included.startswith(("thrust/", "cub/")) and folder != "backend":
        return "Thrust and CUB belong in backend/"
    if CUDA.match(included) and not header.startswith(("moxie/backend/cuda/", "moxie/cuda.cuh", "moxie/dist/nccl")):
        return "CUDA's headers belong in backend/cuda/"
    return None


def find_circle(graph):
    """Some circle of includes as a list of headers, or None."""
    done, path = set(), []

    def visit(header):
        if header in path:
            return path[path.index(header):] + [header]
        if header in done:
            return None
        path.append(header)
        for included in graph.get(header, []):
            circle = visit(included)
            if circle:
                return circle
        path.pop()
        done.add(header)
        return None

    for header in graph:
        circle = visit(header)
        if circle:
            return circle
    return None


def check(include_dir):
    """All violations, one line each."""
    errors, graph = [], {}
    files = [p for p in sorted(include_dir.glob("moxie/**/*")) if p.suffix in (".hpp", ".cuh", ".inc")]
    for path in files:
        header = path.relative_to(include_dir).as_posix()
        graph[header] = []
        lines = path.read_text(encoding="utf-8").splitlines()
        if path.suffix != ".inc" and "#pragma once" not in lines:
            errors.append(f"{header}: no #pragma once")
        for number, line in enumerate(lines, 1):
            define = DEFINE.match(line)
            own = ("MOXIE_", "EIGEN_") if header == "moxie/core/eigen.hpp" else "MOXIE_"
            if define and not define.group(1).startswith(own):
                errors.append(f"{header}:{number}: macro {define.group(1)} does not begin with MOXIE_")
            include = INCLUDE.match(line)
            if not include:
                continue
            quote, included = include.groups()
            if included.startswith("moxie/"):
                graph[header].append(included)
                reason = why_not(header, included)
            elif quote == '"':
                reason = "write the path from include/ on: moxie/..."
            else:
                reason = why_not_external(header, included)
            if reason:
                errors.append(f"{header}:{number}: may not include {included}: {reason}")
    for header, included in graph.items():
        if header.endswith("_impl.hpp"):
            graph[header] = [name for name in included if header not in graph.get(name, [])]
    circle = find_circle(graph)
    if circle:
        errors.append("includes go in a circle: " + " -> ".join(circle))
    if not files:
        errors.append(f"no headers found in {include_dir}/moxie")
    return errors


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "include"
    errors = check(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default)
    print("\n".join(errors) if errors else "includes: no violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
