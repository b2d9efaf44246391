#!/usr/bin/env python3
"""Stands in for `vmoe train`, `stability`, `attack`, `certify` and `dual` in tests: same files, flags, signals, lock and exit codes; made-up
figures, no training.

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


def prc_strength(options):
    return float(options.get("--prc-lambda-d", "0")) * float(options.get("--prc", "0"))


def stability(words):
    folder, flags = pathlib.Path(words[0]), dict(zip(words[1::2], words[2::2]))
    options = json.loads((folder / "config.json").read_text())["options"]
    strength = prc_strength(options)

    def seen(sigma):
        change = sigma * (1 - min(0.5, 100 * strength)) + 0.001 * (int(options["--seed"]) % 3) * (sigma > 0)
        layer = {"block": 1, "top1": change, "set": change, "iou": change}
        return {"sigma": sigma, "accuracy": 0.6 - sigma, "true_class_probability": 0.5 - sigma, "prediction_change": sigma,
                "layers": [layer, layer]}
    count, largest = int(flags["--levels"]), 0.25
    write(pathlib.Path(flags["--json"]), {
        "data": flags["--data"], "images": list(range(int(flags["--images"]))), "seed": int(flags["--seed"]), "levels": count,
        "noise": largest, "models": [{
            "checkpoint": str(folder / "checkpoint"), "crop": seen(0.1), "flip": seen(0.1), "pgd": seen(0.2),
            "noise": {"levels": [seen(largest * j / count) for j in range(count + 1)],
                      "discontinuities": 0.1 if strength else 0.4, "discontinuities_of_images": [0, 1]}}]})
    return 0


def robustness(words):
    """attack, certify, dual."""
    paths = [w for i, w in enumerate(words[1:], 1) if not w.startswith("--") and not words[i - 1].startswith("--")]
    flags = dict(zip(words[1 + len(paths)::2], words[2 + len(paths)::2]))
    kind, _, seed = pathlib.Path(paths[0]).stem.partition("-s")
    for path in paths:
        assert pathlib.Path(path).exists(), path
    if "--out" in flags:
        pathlib.Path(flags["--out"]).write_text("a dual model")
    more = int(seed)
    dual = kind in ("separate", "jtdmoe")
    out = {"attack": {"sa": 80.0 + more, "ra": (50.0 if kind.startswith("rt_er") or dual else 40.0) + more, "margins":
                      [{"clean": 2.0 if kind == "jtdmoe" else 1.0}, {"clean": 1.0}],
                      "parts": {"ra_e": 10.0 + more, "ra_r": 50.0 + more}},
           "certify": {"certificate": "sound", "radii": [{"linf": 1 / 255, "certified": 0.25}],
                       "layers": [{"experts_linf": {"experts": [1.0, 2.5 if kind == "rt_er" else 5.0]}}]},
           "dual": {"points": [{"alpha": a, "images": 10, "sa": 80.0, "ra": 50.0 * a} for a in (0.5, 1)]}}[words[0]]
    write(pathlib.Path(flags["--json"]), out)
    return 0


def main(words):
    if words[0] in ("attack", "certify", "dual"):
        return robustness(words)
    if words[0] == "stability":
        return stability(words[1:])
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
            line = {"event": "train", "step": step, "epoch": float(options["--epochs"]) * step / steps}
            if "--robust-images" in options:
                line["robust"] = {"sa": 50.0, "ra": 20.0 + step}
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            if asked_to_stop or step % 2 == 0:
                write(checkpoint, step)
            if asked_to_stop:
                return 130
    write(pathlib.Path(flags["--json"]), figures(options, step))
    return 0


def figures(options, step):
    router, seed = options.get("--router", "dense"), int(options["--seed"])
    accuracy = 0.65 if prc_strength(options) else next((best for word, best in BEST.items() if word in router), 0.5)
    speed = next((images for word, images in SPEED.items() if word in router), 3000.0) * SPEED_OF_SEED[seed % 3]
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
