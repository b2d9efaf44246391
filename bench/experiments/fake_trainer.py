#!/usr/bin/env python3
"""Stands in for `vmoe train` in tests: same files, flags, signals, lock and exit codes; made-up figures, no training.

FAKE_STEPS (3) steps of FAKE_SECONDS (0) each; FAKE_FAIL: a word among the flags that makes a run fail.
"""

import fcntl
import json
import os
import pathlib
import signal
import sys
import time

SPEED = {"token": 2500.0, "expert": 2000.0, "soft": 1250.0}
SPEED_OF_SEED = (1.0, 1.3, 1.1)  # of what SPEED says
BEST = {"token": 0.60, "expert": 0.62, "soft": 0.64}
asked_to_stop = []


def write(path, content):
    path.with_suffix(".part").write_text(json.dumps(content))
    path.with_suffix(".part").replace(path)


def main(words):
    assert words[0] == "train", words
    flags = dict(zip(words[1::2], words[2::2]))
    folder = pathlib.Path(flags.get("--resume") or flags["--out"])
    config, checkpoint = folder / "config.json", folder / "checkpoint.json"
    if "--router-that-is-not" in flags:
        print("error: vmoe: --router-that-is-not: no such flag")
        return 2
    if os.environ.get("FAKE_FAIL", "nothing") in words:
        print("error: loss is not finite")
        return 1
    if "--out" in flags and config.exists():
        print("error: already holds a run")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "a") as metrics:
        fcntl.flock(metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if "--out" in flags:
            write(config, {"options": flags, "model": {"width": 64, "blocks": 4, "tokens": 64}})
        options = json.loads(config.read_text())["options"]
        step = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
        steps = int(os.environ.get("FAKE_STEPS", "3"))
        while step < steps:
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
            step += 1
            metrics.write(json.dumps({"event": "train", "step": step, "epoch": float(options["--epochs"]) * step / steps}) + "\n")
            metrics.flush()
            if asked_to_stop or step % 2 == 0:
                write(checkpoint, step)
            if asked_to_stop:
                return 130
    write(pathlib.Path(flags["--json"]), figures(options, step))
    return 0


def figures(options, step):
    router, seed = options.get("--router", "dense"), int(options["--seed"])
    accuracy = next((best for word, best in BEST.items() if word in router), 0.5)
    speed = next((images for word, images in SPEED.items() if word in router), 3000.0) * SPEED_OF_SEED[seed]
    token = "token" in router
    layer = {"block": 1, "load": [0.5, 0.5], "dropped": 0.1 if token else 0.0, "load_cv": 0.2, "unrouted": 0.05}
    if router == "soft":
        layer = {"block": 1, "load": None, "dropped": 0.0, "load_cv": None}
    return {"accuracy": accuracy + 0.001 * seed, "loss": 1.0, "dropped": layer["dropped"], "train_seconds": 100.0,
            "images_per_s": speed, "step": step, "layers": [layer, layer]}


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.append(True))
    sys.exit(main(sys.argv[1:]))
