#!/usr/bin/env python3
"""Trains a vision mixture of experts and its dense twin of equal active FLOPs, several seeds each, and compares them.

Each run is written as it ends; started again, the script goes on where it was, within a run as well. Example:

    bench/experiments/dense_twin.py --data cifar10-jpeg.tar.xz --work runs/dense_twin \
        --json bench/results/dense-twin.json -- --epochs 20 --batch 128

What follows `--` goes to both kinds of `vmoe train`.
"""

import argparse
import pathlib
import sys

import runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--json", required=True, type=pathlib.Path, help="where the comparison goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--program", default=str(runs.ROOT / "build/release/bin/vmoe"))
    parser.add_argument("flags", nargs="*", help="further flags of vmoe train, after --")
    args = parser.parse_args()

    kinds = {"moe": [], "dense": ["--dense"]}
    results = {"what": "test accuracy of a V-MoE and of its dense twin of equal active FLOPs",
               "command": " ".join(["bench/experiments/dense_twin.py", "--data",
                                    pathlib.Path(args.data).name, "--", *args.flags]),
               "machine": runs.machine(), "seeds": args.seeds, "kinds": {}}
    for seed in args.seeds:  # seed by seed, so that a comparison stands after the first pair
        for kind, extra in kinds.items():
            run = args.work / f"{kind}-{seed}"
            final = runs.train(args.program, run,
                               ["--data", args.data, "--seed", str(seed), *args.flags, *extra])
            config = runs.read_json(run / "config.json")
            entry = results["kinds"].setdefault(kind, {"model": config["model"], "runs": []})
            entry["options"] = {k: v for k, v in config["options"].items()
                                if k not in ("data", "out", "seed")}
            entry["runs"].append({"seed": seed, **{k: final[k] for k in (
                "accuracy", "loss", "dropped", "train_seconds", "images_per_s", "step", "layers")}})
        for entry in results["kinds"].values():
            entry["accuracy"] = runs.summary([r["accuracy"] for r in entry["runs"]])
        runs.write_json(args.json, results)
    for kind, entry in results["kinds"].items():
        a = entry["accuracy"]
        print(f"{kind:6} {100 * a['mean']:.2f} % +- {100 * a['standard_deviation']:.2f}  "
              f"({', '.join(f'{100 * v:.2f}' for v in a['values'])})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(runs.INTERRUPTED)
    except (runs.OtherFlags, runs.TrainerFailed) as error:
        sys.exit(f"dense_twin.py: error: {error}")
