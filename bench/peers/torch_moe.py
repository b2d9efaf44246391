#!/usr/bin/env python3
"""The MoE layer of bench_cpu, the training steps of bench_vit and the adversarial ones of bench_attack beside the same in
PyTorch, on the same threads.

    bench/peers/torch_moe.py --programs build/release/bin --json torch.json
    bench/peers/torch_moe.py --what layer --threads 2 --rounds 3

Each round runs moxie's program and then each form of the PyTorch code, so that a change of the machine's speed meets all; a
ratio is the median over rounds. PyTorch's forms: `loop` (expert by expert with index_add_), `bmm` (sorted, padded, batched
products), `grouped` (sorted, grouped products), and those two under torch.compile. Neither side drops anything.

Without PyTorch it ends with 2 and one line on standard error.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

STEPS = {"nano": ("bench_vit", "nano"), "ti": ("bench_vit", "ti"),  # program and row
         "nano_attack": ("bench_attack", "nano"), "ti_attack": ("bench_attack", "ti")}
BARS = {"nano": 3.0, "ti": 1.5}
LAYER = {"tokens": 4096, "experts": 8, "k": 2, "width": 512, "hidden": 2048}  # of the row `layer` of bench_cpu
QUICK = {"tokens": 256, "experts": 8, "k": 2, "width": 32, "hidden": 64}


class Complaint(Exception):
    """Something the caller can mend; its text is the whole message."""


def run_program(program, *arguments):
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Complaint(f"cannot run '{program}': {error.strerror} (--programs names the folder of bench_cpu, "
                        "bench_vit and bench_attack)") from error
    if done.returncode != 0:
        raise Complaint(f"{pathlib.Path(program).name} ended with {done.returncode}: {done.stderr.strip()}")


def program_times(program, arguments, out_flags):
    """(context, name -> median seconds) of what a benchmark program wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        run_program(program, *arguments, *(flag.format(out=out) for flag in out_flags))
        content = json.loads(out.read_text())
    times = {}
    for entry in content["benchmarks"]:
        if entry.get("run_type", "iteration") == "iteration":
            times.setdefault(entry["name"], []).append(1e-3 * entry["real_time"])
    return content["context"], {name: statistics.median(own) for name, own in times.items()}


def layer_times(programs, threads, quick):
    """Seconds of a forward and of forward and backward."""
    context, times = program_times(programs / "bench_cpu", ["--rows", "^layer$", "--threads", str(threads),
                                                            *(["--quick"] if quick else [])], ["--json={out}"])
    def of(which):
        return next(t for name, t in times.items() if name.startswith("layer/net:layer/") and f"/pass:{which}/" in name)
    return context, {"forward": of("forward"), "both": of("forward") + of("backward")}


def step_times(programs, what, threads):
    program, preset = STEPS[what]
    context, times = program_times(
        programs / program, [f"--benchmark_filter=^{preset}/threads:{threads}/", "--benchmark_repetitions=1"],
        ["--benchmark_out={out}", "--benchmark_out_format=json"])
    (seconds,) = times.values()
    return context, {"step": seconds}


def median_time(f, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def torch_functions(torch_layers, what, quick, say):
    """pass -> form -> function, each called once; a form that does not run here is left out, and said."""
    found = {}
    for compiled in (False, True):
        for name, form in torch_layers.FORMS.items():
            if compiled and (name == "loop" or quick):
                continue
            full_name = "compiled_" + name if compiled else name
            try:
                if what == "layer":
                    forward, both = torch_layers.layer_passes(form, QUICK if quick else LAYER, compiled)
                    own = {"forward": forward, "both": both}
                else:
                    program, preset = STEPS[what]
                    make = torch_layers.train_step if program == "bench_vit" else torch_layers.adversarial_step
                    own = {"step": make(preset, form, compiled, 4 if quick else None)}
                for f in own.values():
                    f()
            except Exception as error:  # whatever a compiler or a missing kernel throws
                say(f"{what}: {full_name} does not run here: {str(error).strip().splitlines()[0][:120]}")
                continue
            for which, f in own.items():
                found.setdefault(which, {})[full_name] = f
    return found


def compare(what, threads, options, torch_layers, say):
    """Results of one thing to be timed, one for each pass."""
    functions = torch_functions(torch_layers, what, options.quick, say)
    moxie, torch_times, context = {}, {}, {}
    for _ in range(options.rounds):
        context, own = (layer_times(options.programs, threads, options.quick) if what == "layer" else
                        step_times(options.programs, what, threads))
        for which, seconds in own.items():
            moxie.setdefault(which, []).append(seconds)
        for which, forms in functions.items():
            for form, f in forms.items():
                torch_times.setdefault(which, {}).setdefault(form, []).append(median_time(f, 2 if options.quick else 5))
    results = []
    for which, own in moxie.items():
        forms = torch_times[which]
        ratios = {form: statistics.median(t / m for t, m in zip(times, own, strict=True)) for form, times in forms.items()}
        eager = {form: ratio for form, ratio in ratios.items() if not form.startswith("compiled_")}
        result = {"what": what, "pass": which, "threads": threads, "moxie_seconds": own, "torch_seconds": forms,
                  "ratios": ratios, "best_eager": min(eager, key=eager.get), "best": min(ratios, key=ratios.get)}
        if what in BARS:
            result |= {"at_least": BARS[what], "ratio": ratios[result["best_eager"]]}
            result["state"] = "met" if result["ratio"] >= BARS[what] else "missed"
        results.append(result)
        say(f"{what} {which}, {threads} threads: PyTorch takes " +
            ", ".join(f"{ratio:.2f}x ({form})" for form, ratio in ratios.items()) +
            (f"; wanted {BARS[what]}x of the fastest eager form: {result['state']}" if what in BARS else ""))
    return context, results


def main(arguments):
    parser = argparse.ArgumentParser(prog="torch_moe.py", description="moxie beside PyTorch on the CPU",
                                     epilog="A ratio is PyTorch's time over moxie's.")
    here = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--programs", type=pathlib.Path, default=here / "build" / "release" / "bin", metavar="DIR",
                        help="folder of the programs (build/release/bin)")
    parser.add_argument("--what", default=",".join(("layer", *STEPS)), help="of layer, %s (all)" % ", ".join(STEPS))
    parser.add_argument("--threads", default="1,2", help="numbers of threads (1,2)")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (5)")
    parser.add_argument("--quick", action="store_true", help="tiny layer: shows that all runs, its ratios mean nothing")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)
    try:
        wanted = options.what.split(",")
        for what in wanted:
            if what not in ("layer", *STEPS):
                raise Complaint(f"--what: there is no '{what}', expected layer, {', '.join(STEPS)}")
        if not all(n.isdecimal() and int(n) > 0 for n in options.threads.split(",")) or options.rounds < 1:
            raise Complaint("--threads and --rounds take whole numbers from 1")
        try:
            import torch
        except ImportError as error:
            raise Complaint("PyTorch is not installed (pip install torch): there is nothing to compare with") from error
        import torch_layers
        torch_layers.check_forms()
        results, context = [], {}
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            for what in wanted:
                context, own = compare(what, threads, options, torch_layers, lambda line: print(line, flush=True))
                results += own
        if options.json:
            keep = {k: v for k, v in context.items() if k not in ("host_name", "executable", "load_avg", "command")}
            keep |= {"torch": torch.__version__, "rounds": options.rounds, "processors": os.cpu_count(),
                     "quick": options.quick}
            options.json.write_text(json.dumps({"context": keep, "results": results}, indent=1) + "\n")
    except (Complaint, OSError) as error:
        print(f"torch_moe.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
