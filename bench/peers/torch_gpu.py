#!/usr/bin/env python3
"""The layers of bench_gpu in PyTorch on the same GPU, and how many times as long they take.

    build/cuda/bin/bench_gpu --benchmark_out=gpu.json --benchmark_out_format=json
    bench/peers/torch_gpu.py --moxie gpu.json --json torch_gpu.json

Each dropless row of bench_gpu is done by each form of torch_layers.py: `loop` (expert by expert), `bmm` (sorted, padded, batched
products) and `grouped` (sorted, grouped products, where this PyTorch has them). tf32 is PyTorch's own switch; in bf16 the experts'
weights and rows are rounded at the products, as bench_gpu's are, while the gate stays in fp32. A ratio is PyTorch's time over
moxie's, of a forward without gradients and of a forward with its backward.

Without PyTorch it ends with 2 and one line on standard error; without a GPU with 77 and one line on standard output.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys

SHAPES = {"vmoe-s": (512, 2048), "vmoe-b": (768, 3072), "vmoe-l": (1024, 4096)}
ROW = re.compile(r"^(?P<shape>vmoe-[sbl])/dropless/(?P<type>fp32|tf32|bf16)/experts:(?P<experts>\d+)/tokens:(?P<tokens>\d+)")


class Complaint(Exception):
    """Something the caller can mend; its text is the whole message."""


def rows_of(text, source):
    """The dropless rows of bench_gpu's JSON: name, shape, type, experts, tokens and milliseconds of both passes."""
    try:
        benchmarks = json.loads(text)["benchmarks"]
        found = [(m, b) for b in benchmarks if b.get("run_type", "iteration") == "iteration" and (m := ROW.match(b["name"]))]
        rows = [{"name": b["name"], "shape": m["shape"], "type": m["type"], "experts": int(m["experts"]),
                 "tokens": int(m["tokens"]), "forward": float(b["real_time"]), "both": float(b["forward_backward"])}
                for m, b in found]
    except (ValueError, KeyError, TypeError) as error:
        raise Complaint(f"{source} is not what bench_gpu writes with --benchmark_out_format=json") from error
    if not rows:
        raise Complaint(f"{source} has no row of a dropless layer")
    return rows


def milliseconds(torch, f, rounds, at_once=5):
    """Median time on the GPU; a first round is not counted."""
    times = []
    for _ in range(rounds + 1):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(at_once):
            f()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / at_once)
    return statistics.median(times[1:])


def passes(torch, torch_layers, form, row):
    """pass -> function: a forward without gradients, and a forward with its backward."""
    width, hidden = SHAPES[row["shape"]]
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = row["type"] == "tf32"
    with torch.device("cuda"):  # the host would take minutes for all of these numbers
        moe = torch_layers.Moe(torch_layers.experts_in_bf16(form) if row["type"] == "bf16" else form, width, hidden,
                               row["experts"], 2)
    x = torch.randn(row["tokens"], width, device="cuda", requires_grad=True)
    dy = torch.randn(row["tokens"], width, device="cuda")

    def forward():
        with torch.no_grad():
            moe(x)

    def both():  # gradients are stored, not added to what is there, which would be a pass over memory more
        moe.zero_grad(set_to_none=True)
        x.grad = None
        moe(x).backward(dy)

    return {"forward": forward, "both": both}


def compare(torch, torch_layers, row, rounds, say):
    """A result of each pass of a row."""
    times = {"forward": {}, "both": {}}
    for name, form in torch_layers.FORMS.items():
        try:
            own = {which: milliseconds(torch, f, rounds) for which, f in passes(torch, torch_layers, form, row).items()}
        except Exception as error:  # whatever a missing kernel or a full memory throws
            say(f"{row['name']}: {name} does not run here: {str(error).strip().splitlines()[0][:120]}")
            continue
        for which, time in own.items():
            times[which][name] = time
    results = []
    for which, forms in times.items():
        if not forms:
            continue
        ratios = {form: time / row[which] for form, time in forms.items()}
        best = min(ratios, key=ratios.get)
        results.append({"row": row["name"], "pass": which, "moxie_ms": row[which], "torch_ms": forms, "ratios": ratios,
                        "best": best, "ratio": ratios[best]})
        say(f"{row['name']} {which}: PyTorch takes " + ", ".join(f"{r:.2f}x ({form})" for form, r in ratios.items()))
    return results


def main(arguments):
    parser = argparse.ArgumentParser(prog="torch_gpu.py", description="the layers of bench_gpu in PyTorch",
                                     epilog="A ratio is PyTorch's time over moxie's.")
    parser.add_argument("--moxie", type=pathlib.Path, required=True, metavar="FILE", help="what bench_gpu wrote as JSON")
    parser.add_argument("--rounds", type=int, default=20, help="of which a time is the median (20)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    try:
        if options.rounds < 1:
            raise Complaint("--rounds takes a whole number from 1")
        rows = rows_of(options.moxie.read_text(), options.moxie)
        try:
            import torch
        except ImportError as error:
            raise Complaint("PyTorch is not installed (pip install torch): there is nothing to compare with") from error
        if not torch.cuda.is_available():
            print("skipped: this PyTorch finds no CUDA device")
            return 77
        import torch_layers
        results = []
        for row in rows:
            results += compare(torch, torch_layers, row, options.rounds, lambda line: print(line, flush=True))
            torch.cuda.empty_cache()
        if options.json:
            context = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0), "rounds": options.rounds}
            options.json.write_text(json.dumps({"context": context, "results": results}, indent=1) + "\n")
    except (Complaint, OSError) as error:
        print(f"torch_gpu.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
