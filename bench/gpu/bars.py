#!/usr/bin/env python3
"""What bench_gpu has measured, beside what the layers are to reach on a GPU.

    build/cuda/bin/bench_gpu --benchmark_out=gpu.json --benchmark_out_format=json
    bench/peers/torch_gpu.py --moxie gpu.json --json torch_gpu.json
    bench/gpu/bars.py gpu.json [torch_gpu.json]

A bar is for the rows in tf32 and with experts of bf16, all ratios of one run. Of each, the worst row is printed. Ends with 0 if
all bars are met (those beside PyTorch if there are such rows), 1 if one is not or has no row, and 2 if a file is not what it
should be.
"""

import json
import pathlib
import re
import sys

ROW = re.compile(r"^vmoe-[sbl]/(?P<kind>dropless|capacity)/(?:tf32|bf16)/experts:(?P<experts>\d+)/tokens:(?P<tokens>\d+)")
FULL = 512  # rows an expert from which strided products are to be near dense ones


def full(row):
    """Of an expert with a capacity of 1.25 and two choices a token."""
    return row["kind"] == "capacity" and 2.5 * row["tokens"] / row["experts"] >= FULL


def dropless(row):
    return row["kind"] == "dropless"


def large(row):
    return row["tokens"] >= 8192


# what it is, the counter, the rows it is for, the bar, whether it is the least or the most
BARS = [("padded products, of the dense rate", "rate", full, 0.80, "least"),
        ("their backward", "backward_rate", full, 0.80, "least"),
        ("dropless products, of the dense rate", "rate", dropless, 0.60, "least"),
        ("their backward", "backward_rate", dropless, 0.60, "least"),
        ("layer, of its products' time", "layer", large, 1.20, "most"),
        ("routing and maps, of the layer's time", "routing", large, 0.08, "most")]


def worst(what, bar, limit, values):
    """A line of the table, of values by row."""
    pick = min if limit == "least" else max
    row = pick(values, key=values.get)
    met = values[row] >= bar if limit == "least" else values[row] <= bar
    return {"what": what, "bar": bar, "limit": limit, "worst": values[row], "row": row, "met": met}


def judge(benchmark, torch=None):
    """A line for each bar, met or not; none if there is no row in tf32 or bf16."""
    rows = [(b["name"], b, {"kind": m["kind"], "experts": int(m["experts"]), "tokens": int(m["tokens"])})
            for b in benchmark["benchmarks"] if (m := ROW.match(b["name"]))]
    if not rows:
        return []
    lines = []
    for what, counter, applies, bar, limit in BARS:
        values = {name: float(b[counter]) for name, b, row in rows if applies(row)}
        lines.append(worst(what, bar, limit, values) if values else
                     {"what": what, "bar": bar, "limit": limit, "worst": float("nan"), "row": "no row of it", "met": False})
    for which, what in (("forward", "PyTorch's time, of a forward's"), ("both", "the same with backward")):
        values = {r["row"]: float(r["ratio"]) for r in (torch or {"results": []})["results"]
                  if r["pass"] == which and ROW.match(r["row"])}
        if values:
            lines.append(worst(what, 1.0, "least", values))
    return lines


def main(arguments):
    if len(arguments) not in (1, 2):
        print("usage: bars.py GPU_JSON [TORCH_GPU_JSON]", file=sys.stderr)
        return 2
    try:
        lines = judge(*[json.loads(pathlib.Path(a).read_text(encoding="utf-8")) for a in arguments])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"bars.py: {' and '.join(arguments)}: not what bench_gpu and torch_gpu.py write ({error!r})", file=sys.stderr)
        return 2
    if not lines:
        print(f"bars.py: {arguments[0]} has no row in tf32 or bf16", file=sys.stderr)
        return 2
    for line in lines:
        print(f"{line['what']:<40} at {line['limit']:<5} {line['bar']:.2f}  {line['worst']:8.3f}  "
              f"{'met   ' if line['met'] else 'MISSED'}  {line['row']}")
    return 0 if all(line["met"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
