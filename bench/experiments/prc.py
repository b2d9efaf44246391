#!/usr/bin/env python3
"""Pairwise Router Consistency on CIFAR-10, small: does it hold routes under noise, and what does it do to accuracy?

    bench/experiments/prc.py --data cifar10-jpeg.tar.xz --work runs/prc --json bench/results/prc.json --setting small
    bench/experiments/prc.py --json bench/results/prc.json --report docs/prc-experiment.md --figures docs/images

A V-MoE with K = 1 and with K = 2, trained in five ways: no auxiliary loss; importance and load losses, as V-MoE; two views of
each image without a loss on them; PRC with the diagonal of the matrix; PRC with the diagonal by position, as its released code.
All see as many inputs: two views of an image are two inputs, so that runs with views have half of the batch and half of the
epochs, and each image half as often. What PRC's loss does is its difference to the views alone. First short runs with other seeds
choose PRC's weights (see `choose`), then the final runs are trained and measured with `vmoe stability`, seed by seed.

Stopped at any moment (Ctrl-C, kill -9, a lost machine) and started again, it goes on where it was, within a run as well.
What follows `--` goes to every `vmoe train`. Ends with 0 (done, or stopped by --budget), 1 (a run failed), 2 (wrong use)
or 130 (interrupted).
"""

import dataclasses
import datetime
import statistics
import sys

import prc_page
import runs
import studies

TRAIN_IMAGES = 50000  # of CIFAR-10, for estimates
KS = (1, 2)
EXPERTS = 8
PGD_EPS = 2 / 255
LAMBDA_O = 5e-2  # the trainer's default
EVALUATION_SPEED = 3.0  # inputs measured in the time of one that is trained, for estimates; a PGD step is as training


@dataclasses.dataclass(frozen=True)
class Setting:
    """epochs: of inputs, of a final run; images, levels, pgd_steps: of a measurement; images_per_s: of a run, a first guess."""
    preset: str
    epochs: float
    sweep_epochs: float
    batch: int
    threads: int
    jobs: int
    seeds: tuple
    sweep_seeds: tuple
    images: int
    levels: int
    pgd_steps: int
    images_per_s: float


SETTINGS = {
    "small": Setting("nano", 6, 2, 64, 1, 2, (0, 1, 2), (10, 11), 500, 10, 10, 780),
    "gpu": Setting("ti", 60, 10, 256, 0, 1, (0, 1, 2), (10, 11), 10000, 100, 40, 2000),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of the losses. prc multiplies both weights of PRC (if it is not 0, there are two views); balance: of importance and load."""
    diagonal: str = ""
    prc: float = 0
    lambda_d: float = 0
    lambda_o: float = LAMBDA_O
    balance: float = 0

    @property
    def name(self):
        return f"{self.diagonal}-d{self.lambda_d:g}-x{self.prc:g}"

    def flags(self):
        balance = f"{self.balance:g}"
        flags = ["--importance", balance, "--load", balance]
        if self.prc:
            flags += ["--prc", f"{self.prc:g}", "--prc-diagonal", self.diagonal, "--prc-lambda-d", f"{self.lambda_d:g}"]
        if self.lambda_o != LAMBDA_O:
            flags += ["--prc-lambda-o", f"{self.lambda_o:g}"]
        return flags


BASELINES = {"none": Weights(), "balance": Weights(balance=0.005),  # V-MoE's weights
             "views": Weights("matrix", 1, 0, 0)}
CANDIDATES = {  # diagonal: what is tried; 5e-3 is the released code's, which is by position
    "matrix": [Weights("matrix", 1, d) for d in (1e-4, 5e-4)] + [Weights("matrix", prc, 5e-3) for prc in (1, 10, 100)],
    "position": [Weights("position", prc, 5e-3) for prc in (1, 10, 100)]}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run, or what is measured of it (`measured`)."""
    stage: str  # sweep, final
    kind: str
    weights: Weights
    k: int
    seed: int
    measured: bool = False

    @property
    def run_name(self):
        kind = self.weights.name if self.stage == "sweep" else self.kind
        return f"{self.stage}-{kind}-k{self.k}-s{self.seed}"

    @property
    def name(self):
        return self.run_name + (".stability" if self.measured else "")


def sweep(setting):
    return [Planned("sweep", diagonal, weights, k, seed) for seed in setting.sweep_seeds for k in KS
            for diagonal, candidates in CANDIDATES.items() for weights in candidates]


def finals(setting, chosen):
    kinds = {**BASELINES, **chosen}
    return [Planned("final", kind, weights, k, seed) for seed in setting.seeds for k in KS
            for kind, weights in kinds.items()]


def measurements(planned):
    return [dataclasses.replace(p, measured=True) for p in planned]


def layer_mean(figures, key):
    return statistics.fmean(layer[key] for layer in figures["layers"])


def summary_of(measured):
    """What the record keeps of one `vmoe stability`: means of the layers."""
    def of(figures):
        kept = {key: figures[key] for key in ("sigma", "accuracy", "true_class_probability", "prediction_change", "matched")
                if key in figures}
        return {**kept, **{key: layer_mean(figures, key) for key in ("top1", "set", "iou")}}
    model = measured["models"][0]
    return {"levels": [of(level) for level in model["noise"]["levels"]],
            "discontinuities": model["noise"]["discontinuities"],
            **{view: of(model[view]) for view in ("crop", "flip", "pgd")}}


def change_of(stability):
    """Routing change, mean of the levels with noise."""
    return statistics.fmean(level["iou"] for level in stability["levels"][1:])


def choose(candidates):
    """The weights of one diagonal. candidates: name -> [(accuracy, routing change)] of its runs, in the same order.

    Of those whose mean accuracy is not below the best by more than a standard deviation over the seeds (mean of the
    candidates'), the one whose routes change least; {"tolerance", "chosen", "candidates"}.
    """
    means = {name: {"accuracy": statistics.mean(a for a, _ in own), "change": statistics.mean(c for _, c in own)}
             for name, own in candidates.items()}
    spreads = [statistics.stdev(column[i] for column in pairs)
               for own in candidates.values() for pairs in [by_seed(own)] if len(pairs) > 1 for i in range(len(pairs[0]))]
    tolerance = statistics.mean(spreads) if spreads else 0.0
    best = max(m["accuracy"] for m in means.values())
    good = [name for name, m in means.items() if m["accuracy"] >= best - tolerance]
    return {"tolerance": tolerance, "chosen": min(good, key=lambda name: means[name]["change"]), "candidates": means}


def by_seed(own):
    """Accuracies of the runs of one candidate, a list for each seed with its values by K."""
    accuracies = [a for a, _ in own]
    return [accuracies[i:i + len(KS)] for i in range(0, len(accuracies), len(KS))]


class Study(studies.Study):
    def __init__(self, options, extra_flags):
        super().__init__(options, dataclasses.replace(SETTINGS[options.setting], **{
            key: getattr(options, key) for key in ("epochs", "sweep_epochs", "batch", "threads", "jobs", "images")
            if getattr(options, key) is not None}))
        self.extra = extra_flags
        self.ratios = []  # of measured to guessed seconds
        self.sweep = sweep(self.setting)
        for planned in self.sweep + measurements(self.sweep):
            self.collect(planned)

    # --- one run -------------------------------------------------------------------------------------------------------

    def flags(self, planned):
        s, views = self.setting, 2 if planned.weights.prc else 1
        epochs = (s.sweep_epochs if planned.stage == "sweep" else s.epochs) / views
        return ["--preset", s.preset, "--patch", "4", "--experts", str(EXPERTS), "--k", str(planned.k), "--epochs", f"{epochs:g}",
                "--batch", str(s.batch // views), "--warmup-epochs", f"{min(1.0, epochs * views) / views:g}", "--label-smoothing", "0.05",
                "--eval-every", f"{epochs:g}", "--seed", str(planned.seed), *planned.weights.flags(), *self.extra]

    def run_of(self, planned):
        s, folder = self.setting, self.options.work / planned.run_name
        own = ["--data", str(self.options.data), "--threads", str(s.threads)]
        if planned.measured:
            return runs.Measurement(self.options.program, folder, [
                *own, "--images", str(s.images), "--levels", str(s.levels), "--seed", "0",
                "--pgd", f"{PGD_EPS:.6f}", "--pgd-steps", str(s.pgd_steps)])
        return runs.Run(self.options.program, folder, [*own, *self.flags(planned)])

    def guess(self, planned):
        """Seconds, before anything is known."""
        s = self.setting
        if planned.measured:
            return s.images * ((s.levels + 3) / EVALUATION_SPEED + s.pgd_steps) / s.images_per_s
        return TRAIN_IMAGES * (s.sweep_epochs if planned.stage == "sweep" else s.epochs) / s.images_per_s

    def learn(self, planned, final):
        if final.get("train_seconds"):
            self.ratios.append(final["train_seconds"] / self.guess(planned))

    def seconds_left(self, planned):
        views, done = 2 if planned.weights.prc else 1, 0.0
        if not planned.measured:
            epochs = self.setting.sweep_epochs if planned.stage == "sweep" else self.setting.epochs
            done = min(1.0, self.run_of(planned).epochs_done() * views / epochs)
        return self.guess(planned) * (statistics.median(self.ratios) if self.ratios else 1.0) * (1 - done)

    def said_of(self, final):
        if "models" not in final:
            return super().said_of(final)
        return f"routing change {100 * change_of(summary_of(final)):.2f} %, mean of the levels"

    # --- the plan ------------------------------------------------------------------------------------------------------

    def chosen_weights(self):
        """diagonal -> {"tolerance", "chosen", "candidates"}; None until the whole sweep is measured, or if one diagonal has no
        weights whose runs all came to an end."""
        found = {}
        for diagonal, candidates in CANDIDATES.items():
            of = {}
            for weights in candidates:
                own = [(p.name, measurements([p])[0].name) for p in self.sweep if p.weights == weights]
                if any(name in self.failed for pair in own for name in pair):
                    continue
                if any(name not in self.results for pair in own for name in pair):
                    return None
                of[weights.name] = [(self.results[run]["accuracy"], change_of(summary_of(self.results[measured])))
                                    for run, measured in own]
            if not of:
                return None
            found[diagonal] = choose(of)
        return found

    def finals(self):
        """The final runs; None until the weights are chosen."""
        found = self.chosen_weights()
        if found is None:
            return None
        by_name = {w.name: w for own in CANDIDATES.values() for w in own}
        return finals(self.setting, {diagonal: by_name[own["chosen"]] for diagonal, own in found.items()})

    def stages(self):
        """Lists of runs; those of one may run at the same time. Later ones depend on what the earlier ones gave."""
        yield self.sweep
        yield measurements([p for p in self.sweep if p.name in self.results])
        final = self.finals()
        for seed in self.setting.seeds if final is not None else ():
            own = [p for p in final if p.seed == seed]
            yield own
            yield measurements([p for p in own if p.name in self.results])

    def go(self):
        for stage in self.stages():
            for planned in stage:
                self.collect(planned)
            self.chosen = stage
            super().go()
            if self.left():  # the budget is used
                return
        if self.finals() is None:
            self.save()
            raise runs.TrainerFailed("of one diagonal all weights failed in the sweep, none can be chosen")

    def describe(self):
        final = self.finals() or finals(self.setting, {d: own[0] for d, own in CANDIDATES.items()})
        total = 0.0
        for planned in self.sweep + measurements(self.sweep) + final + measurements(final):
            over = planned.name in self.results or self.run_of(planned).result() is not None
            seconds = 0.0 if over else self.seconds_left(planned)
            total += seconds
            print(f"{planned.name:48} {'done' if over else f'{seconds / 60:6.1f} min'}")
        basis = "measured runs" if self.ratios else "a first guess"
        print(f"about {total / self.setting.jobs / 60:.0f} min with {self.setting.jobs} at a time (by {basis})")

    # --- the record ----------------------------------------------------------------------------------------------------

    def entry(self, planned):
        final = self.results[planned.name]
        measured = self.results.get(measurements([planned])[0].name)
        return {"name": planned.name, "stage": planned.stage, "kind": planned.kind, "k": planned.k, "seed": planned.seed,
                "weights": dataclasses.asdict(planned.weights), "flags": self.flags(planned),
                "model": self.run_of(planned).config().get("model", {}),
                **{key: final.get(key) for key in ("accuracy", "loss", "dropped", "train_seconds", "images_per_s", "step",
                                                   "layers")},
                "stability": None if measured is None else summary_of(measured)}

    def record(self):
        found = self.chosen_weights()
        planned = self.sweep + (self.finals() or [])
        measure = self.run_of(measurements(self.sweep)[0]).lasting_flags()
        return {"what": "Pairwise Router Consistency: accuracy and routing change under noise, K = 1 and 2",
                "command": self.command("bench/experiments/prc.py"), "date": datetime.date.today().isoformat(),
                "machine": self.machine(), "setting": {"name": self.options.setting, **dataclasses.asdict(self.setting)},
                "stability_flags": measure, "pgd_eps": PGD_EPS, "choice": found,
                "planned": len(self.sweep) + (len(CANDIDATES) + len(BASELINES)) * len(KS) * len(self.setting.seeds),
                "failed": self.failed, "runs": [self.entry(p) for p in planned if p.name in self.results]}


def run_study(options, extra):
    study = Study(options, extra)
    if options.dry_run:
        study.describe()
        return 0
    with studies.Lock(options.work):
        study.go()
        study.save()
    return 1 if study.failed else 0


def parser():
    flags = studies.parser("prc.py", __doc__, SETTINGS, "small: about two and a quarter hours on two cores; gpu: larger model, longer")
    flags.add_argument("--sweep-epochs", type=float, help="of every run of the sweep, instead of the setting's")
    flags.add_argument("--images", type=int, help="that are measured, likewise")
    return flags


def main(arguments):
    return studies.main_of(parser(), arguments, run_study, prc_page.write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
