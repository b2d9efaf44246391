#!/usr/bin/env python3
"""Robust mixtures of experts on CIFAR-10, small: RT-ER and JTDMoE against what they are compared with.

    bench/experiments/robust.py --data cifar10-jpeg.tar.xz --work runs/robust --json bench/results/robust.json --setting small
    bench/experiments/robust.py --json bench/results/robust.json --report docs/robust-experiment.md --figures docs/images

Mixtures of whole residual networks (no norm, so that their Lipschitz constants are finite), trained for as many steps each: without
attacks, by adversarial training, TRADES, RT-ER with the second expert and with all, and jointly as a dual model (JTDMoE); the
standard and the RT-ER model of a seed together are the dual model that is trained separately. Each is then measured: SA and RA by
PGD, RA-E and RA-R, AutoAttack, certificates and Lipschitz bounds of the experts, margins; dual models also over alpha.

A fixed part of the images is copied out of the archive first. Stopped at any moment (Ctrl-C, kill -9, a lost machine) and started
again, it goes on where it was, within a run as well. What follows `--` goes to every `vmoe train`, a `--backend NAME` among it to every
command, so that all of the study runs on a GPU by

    bench/experiments/robust.py ... --setting gpu --program build/cuda/bin/vmoe -- --backend cuda

Ends with 0 (done, or stopped by --budget), 1 (a run failed), 2 (wrong use) or 130 (interrupted).
"""

import dataclasses
import datetime
import pathlib
import shutil
import statistics
import sys
import tarfile

import robust_page
import runs
import studies

EPS, STEP = "8/255", "2/255"
# Cost of a training image in forward passes of one model with K = 1: a gradient of the image costs as much again, one of the
# weights once more; n attacks of 10 steps and m passes are 20 n + 3 m.
KINDS = {"standard": 3, "adversarial": 23, "trades": 27, "rt_er": 49, "rt_er_all": 127, "jtdmoe": 55}
DUAL = "separate"  # the standard and the rt_er model of a seed, mixed and not trained further
OBJECTIVES = {"standard": "supervised", "rt_er_all": "rt_er"}  # where it is not the kind's name


@dataclasses.dataclass(frozen=True)
class Setting:
    """train, test: images of each class; forward_per_s: of one run, a first guess for estimates; pgd, auto: images attacked."""
    train: int
    test: int
    widths: str
    stem_stride: int
    epochs: float
    batch: int
    threads: int
    jobs: int
    seeds: tuple
    robust_images: int
    pgd: int
    auto: int
    forward_per_s: float


SETTINGS = {
    "small": Setting(500, 100, "8,16", 2, 15, 64, 1, 2, (0, 1), 192, 500, 96, 5300),
    "gpu": Setting(5000, 1000, "64,128,256", 1, 130, 512, 0, 1, (0, 1), 1024, 10000, 1000, 20000),
}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A training run (step "train"), or what is done with its model."""
    kind: str
    seed: int
    step: str = "train"

    @property
    def run_name(self):
        return f"{self.kind}-s{self.seed}"

    @property
    def name(self):
        return self.run_name + ("" if self.step == "train" else f".{self.step}")


def measured(kind, seed):
    steps = ["pgd", "auto", "certify"]
    if kind in (DUAL, "jtdmoe"):
        steps.insert(0, "sweep")  # which makes the separate dual model
    return [Planned(kind, seed, step) for step in steps]


class Measurement(runs.Run):
    """Another command of the program on a run that is over; its files stand beside the run's. One that was stopped begins anew."""

    def __init__(self, program, folder, step, words, arguments):
        super().__init__(program, folder, arguments)
        self.name += f".{step}"
        self.final, self.log = self._beside("json"), self._beside("log")
        self._words = words

    def begun(self):
        return False

    def words(self):
        return [*self._words, "--json", str(self.final), *self.arguments]


def backend_of(flags):
    """`--backend NAME` of these flags, or nothing: what computes in a training measures its model as well."""
    at = [i for i, flag in enumerate(flags) if flag.split("=")[0] == "--backend"]
    return flags[at[-1]:at[-1] + (1 if "=" in flags[at[-1]] else 2)] if at else []


def usable(name):
    """An image of one of the two splits, whose last folders lead nowhere else."""
    parts = pathlib.PurePosixPath(name).parts
    return (len(parts) >= 3 and parts[-3] in ("train", "test") and ".." not in parts
            and pathlib.PurePosixPath(name).suffix in (".png", ".jpg"))


def subset(source, folder, train, test):
    """Copies the first images of each class, by name, of CIFAR-10 as <split>/<class>/*.png|jpg, in a folder or an archive. Throws
    ValueError, and copies none, where a class has fewer."""
    wanted = f"{source.name}: {train} of each class to train, {test} to test\n"
    done = folder.with_suffix(".done")
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    done.unlink(missing_ok=True)  # it would speak of images that are gone
    shutil.rmtree(folder, ignore_errors=True)
    counts = {"train": train, "test": test}

    def chosen(names):
        classes = {}
        for name in sorted(names):
            split, label, _ = pathlib.PurePosixPath(name).parts[-3:]
            classes.setdefault((split, label), []).append(name)
        if not classes:
            raise ValueError(f"{source}: no images <split>/<class>/*.png or *.jpg in it")
        for label in sorted({label for _, label in classes}):
            for split, expected in counts.items():
                found = len(classes.get((split, label), []))
                if found < expected:
                    raise ValueError(f"{source}: the class '{label}' has {found} images in '{split}', expected at least {expected}")
        return {n: folder.joinpath(*pathlib.PurePosixPath(n).parts[-3:]) for (split, _), own in classes.items()
                for n in own[:counts[split]]}
    if source.is_dir():
        names = [str(p) for p in source.rglob("*") if usable(p)]
        for name, target in chosen(names).items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
    else:
        with tarfile.open(source) as archive:
            files = {m.name: m for m in archive.getmembers() if m.isfile() and usable(m.name)}
            places = chosen(files)
            for member in files.values():  # in the archive's order: it is compressed as one
                if member.name in places:
                    places[member.name].parent.mkdir(parents=True, exist_ok=True)
                    places[member.name].write_bytes(archive.extractfile(member).read())
    done.write_text(wanted, encoding="utf-8")


class Study(studies.Study):
    def __init__(self, options, extra_flags):
        super().__init__(options, dataclasses.replace(SETTINGS[options.setting], **{
            key: getattr(options, key) for key in ("epochs", "batch", "threads", "jobs") if getattr(options, key) is not None}))
        self.extra = extra_flags
        self.ratios = []  # of measured to guessed seconds
        self.training = [Planned(kind, seed) for seed in self.setting.seeds for kind in KINDS]
        self.measuring = [p for seed in self.setting.seeds for kind in (*KINDS, DUAL) for p in measured(kind, seed)]
        for planned in self.training + self.measuring:
            self.collect(planned)

    # --- one run -------------------------------------------------------------------------------------------------------

    def flags(self, planned):
        """Of a training run, without its data."""
        s, kind = self.setting, planned.kind
        flags = ["--model", "image_moe", "--image-expert", "resnet", "--resnet-widths", s.widths, "--resnet-norm", "none",
                 "--resnet-stem-stride", str(s.stem_stride), "--experts", "4", "--k", "1", "--epochs", f"{s.epochs:g}",
                 "--batch", str(s.batch), "--label-smoothing", "0", "--warmup-epochs", f"{min(1.0, s.epochs / 2):g}",
                 "--objective", OBJECTIVES.get(kind, kind), "--eps", EPS, "--attack-step", STEP, "--robust-images",
                 str(s.robust_images), "--seed", str(planned.seed), "--threads", str(s.threads)]
        if kind == "rt_er_all":
            flags += ["--rt-er-experts", "all"]
        return flags + self.extra

    def folder(self, kind, seed):
        return self.options.work / Planned(kind, seed).run_name

    def checkpoint(self, planned):
        """What is measured."""
        folder = self.folder(planned.kind, planned.seed)
        return folder.with_suffix(".safetensors") if planned.kind == DUAL else folder

    def run_of(self, planned):
        s, folder = self.setting, self.folder(planned.kind, planned.seed)
        data = ["--data", str(self.options.work / "images")]
        if planned.step == "train":
            return runs.Run(self.options.program, folder, data + self.flags(planned))
        threads = ["--threads", str(s.threads)]
        model = [str(self.checkpoint(planned))]
        words = {"pgd": ["attack", *model], "auto": ["attack", *model], "certify": ["certify", *model], "sweep": ["dual", *model]}
        arguments = {"pgd": ["--attack", "pgd", "--steps", "50", "--step-size", STEP, "--eps", EPS, "--n", str(s.pgd), *data, *threads],
                     "auto": ["--attack", "auto_attack", "--eps", EPS, "--n", str(s.auto), *data, *threads],
                     "certify": [],
                     "sweep": ["--eps", EPS, "--step-size", STEP, "--n", str(s.pgd), *data, *threads]}[planned.step]
        own = words[planned.step]
        if planned.kind == DUAL and planned.step == "sweep":
            own = ["dual", *(str(self.folder(kind, planned.seed)) for kind in ("standard", "rt_er")), "--out", *model]
        return Measurement(self.options.program, folder, planned.step, own, arguments + backend_of(self.extra))

    # --- estimates -----------------------------------------------------------------------------------------------------

    def guess(self, planned):
        s = self.setting
        cost = {"pgd": 320 * s.pgd, "auto": 9000 * s.auto, "certify": 0, "sweep": 6 * 100 * s.pgd * 2}
        if planned.step != "train":
            return cost[planned.step] * (2 if planned.kind in (DUAL, "jtdmoe") else 1) / s.forward_per_s
        return 10 * s.train * s.epochs * KINDS[planned.kind] / s.forward_per_s

    def learn(self, planned, final):
        if planned.step == "train" and final.get("train_seconds"):
            self.ratios.append(final["train_seconds"] / self.guess(planned))

    def seconds_left(self, planned):
        done = min(1.0, self.run_of(planned).epochs_done() / self.setting.epochs) if planned.step == "train" else 0.0
        return self.guess(planned) * (statistics.median(self.ratios) if self.ratios else 1.0) * (1 - done)

    def said_of(self, final):
        if "train_seconds" in final:
            return super().said_of(final)
        return f"RA {final['ra']:.2f} %" if "ra" in final else "measured"

    # --- the plan ------------------------------------------------------------------------------------------------------

    def stages(self):
        """Lists of runs; those of one may run at the same time. Later ones need what the earlier ones gave."""
        for seed in self.setting.seeds:
            yield [p for p in self.training if p.seed == seed]
            there = {kind for kind in KINDS if Planned(kind, seed).name in self.results}
            if {"standard", "rt_er"} <= there:
                there.add(DUAL)
            own = [p for p in self.measuring if p.seed == seed and p.kind in there]
            yield [p for p in own if p.step == "sweep"]
            yield [p for p in own if p.step != "sweep" and (p.kind != DUAL or Planned(DUAL, seed, "sweep").name in self.results)]

    def go(self):
        subset(self.options.data, self.options.work / "images", self.setting.train, self.setting.test)
        for stage in self.stages():
            self.chosen = stage
            super().go()
            if self.left():  # the budget is used
                return

    def describe(self):
        total = 0.0
        for planned in self.training + self.measuring:
            seconds = 0.0 if planned.name in self.results else self.seconds_left(planned)
            total += seconds
            print(f"{planned.name:28} {'done' if planned.name in self.results else f'{seconds / 60:6.1f} min'}")
        basis = "measured runs" if self.ratios else "a first guess"
        print(f"about {total / self.setting.jobs / 60:.0f} min with {self.setting.jobs} at a time (by {basis})")

    # --- the record ----------------------------------------------------------------------------------------------------

    def curve(self, planned):
        """[epoch, SA, RA] of each evaluation of a run."""
        path = self.folder(planned.kind, planned.seed) / "metrics.jsonl"
        lines = [line for line in map(runs.json_line, path.read_text(encoding="utf-8").splitlines()) if line] if path.exists() else []
        return [[e["epoch"], e["robust"]["sa"], e["robust"]["ra"]] for e in lines if "ra" in e.get("robust", {})]

    def entry(self, kind, seed):
        of = {p.step: self.results.get(p.name) for p in [Planned(kind, seed), *measured(kind, seed)]}
        train, pgd, auto, certify = (of.get(step) or {} for step in ("train", "pgd", "auto", "certify"))
        planned = Planned(kind, seed)
        bounds = [layer["experts_linf"]["experts"] for layer in certify.get("layers", []) if layer.get("experts_linf")]
        return {"name": planned.name, "kind": kind, "seed": seed, "flags": self.flags(planned) if kind != DUAL else [],
                "model": self.run_of(planned).config().get("model", {}) if kind != DUAL else {},
                **{key: train.get(key) for key in ("accuracy", "train_seconds", "images_per_s", "step")},
                "curve": self.curve(planned) if kind != DUAL else [],
                "sa": pgd.get("sa"), "ra": pgd.get("ra"), "ra_e": pgd.get("parts", {}).get("ra_e"),
                "ra_r": pgd.get("parts", {}).get("ra_r"), "auto_sa": auto.get("sa"), "auto_ra": auto.get("ra"),
                "margins": robust_page.margins_of(pgd), "certificate": certify.get("certificate"), "radii": certify.get("radii", []),
                "lipschitz": bounds, "sweep": (of.get("sweep") or {}).get("points", [])}

    def record(self):
        entries = [self.entry(kind, seed) for seed in self.setting.seeds for kind in (*KINDS, DUAL)
                   if any(p.name in self.results for p in [Planned(kind, seed), *measured(kind, seed)])]
        return {"what": "robust mixtures of experts: RT-ER, JTDMoE and what they are compared with",
                "command": self.command("bench/experiments/robust.py"), "date": datetime.date.today().isoformat(),
                "machine": self.machine(), "setting": {"name": self.options.setting, **dataclasses.asdict(self.setting)},
                "eps": EPS, "planned": len(self.training) + len(self.measuring), "done": len(self.results),
                "failed": self.failed, "runs": entries}


def run_study(options, extra):
    study = Study(options, extra)
    if options.dry_run:
        study.describe()
        return 0
    with studies.Lock(options.work):
        study.go()
        study.save()
    return 1 if study.failed else 0


def main(arguments):
    flags = studies.parser("robust.py", __doc__, SETTINGS, "small: about two hours on two cores; gpu: all images, "
                           "larger experts, longer, for a GPU with --program build/cuda/bin/vmoe and -- --backend cuda")
    return studies.main_of(flags, arguments, run_study, robust_page.write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
