#!/usr/bin/env python3
"""Trains a vision mixture of experts and its dense twin of equal active FLOPs, several seeds each, and compares them.

Each run is written as it ends; started again, the script goes on where it was, within a run as well. Example:

    bench/experiments/dense_twin.py --data cifar10-jpeg.tar.xz --work runs/dense_twin \
        --json bench/results/dense-twin.json -- --epochs 20 --batch 128

What follows `--` goes to both kinds of `vmoe train`.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "cores": int(output("nproc") or 0), "system": platform.system(),
            "compiler": output("c++", "--version").splitlines()[0],
            "commit": output("git", "-C", str(ROOT), "rev-parse", "HEAD")}


def train(program, run, arguments):
    """The final figures of one run; begun, continued, or read if it is over."""
    final = run.parent / f"{run.name}.json"  # beside the run: the trainer makes its folder
    if not final.exists():
        begun = (run / "config.json").exists()
        command = [program, "train", "--json", str(final)]
        command += ["--resume", str(run)] if begun else ["--out", str(run), *arguments]
        run.parent.mkdir(parents=True, exist_ok=True)
        print(" ".join(command), flush=True)
        with open(run.parent / f"{run.name}.log", "a") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return json.loads(final.read_text())


def summary(values):
    return {"values": values, "mean": statistics.mean(values),
            "standard_deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--json", required=True, type=pathlib.Path, help="where the comparison goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/vmoe"))
    parser.add_argument("flags", nargs="*", help="further flags of vmoe train, after --")
    args = parser.parse_args()

    kinds = {"moe": [], "dense": ["--dense"]}
    results = {"what": "test accuracy of a V-MoE and of its dense twin of equal active FLOPs",
               "command": " ".join(["bench/experiments/dense_twin.py", "--data",
                                    pathlib.Path(args.data).name, "--", *args.flags]),
               "machine": machine(), "seeds": args.seeds, "kinds": {}}
    for seed in args.seeds:  # seed by seed, so that a comparison stands after the first pair
        for kind, extra in kinds.items():
            run = args.work / f"{kind}-{seed}"
            final = train(args.program, run,
                          ["--data", args.data, "--seed", str(seed), *args.flags, *extra])
            config = json.loads((run / "config.json").read_text())
            entry = results["kinds"].setdefault(kind, {"model": config["model"], "runs": []})
            entry["options"] = {k: v for k, v in config["options"].items()
                                if k not in ("data", "out", "seed")}
            entry["runs"].append({"seed": seed, **{k: final[k] for k in (
                "accuracy", "loss", "dropped", "train_seconds", "images_per_s", "step", "layers")}})
        for entry in results["kinds"].values():
            entry["accuracy"] = summary([r["accuracy"] for r in entry["runs"]])
        args.json.parent.mkdir(parents=True, exist_ok=True)
        temporary = args.json.with_suffix(".tmp")
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        temporary.replace(args.json)
    for kind, entry in results["kinds"].items():
        a = entry["accuracy"]
        print(f"{kind:6} {100 * a['mean']:.2f} % +- {100 * a['standard_deviation']:.2f}  "
              f"({', '.join(f'{100 * v:.2f}' for v in a['values'])})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
