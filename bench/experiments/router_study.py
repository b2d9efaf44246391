#!/usr/bin/env python3
"""The study of routers of arXiv 2401.15969, small: six routers at equal active compute, and ablations of three of them.

    bench/experiments/router_study.py --data cifar10-jpeg.tar.xz --work runs/router_study \\
        --json bench/results/router-study.json --setting small
    bench/experiments/router_study.py --json bench/results/router-study.json \\
        --report docs/router-study.md --figures docs/images
    bench/experiments/router_study.py --data cifar10-jpeg.tar.xz --work runs/router_study \\
        --json bench/results/router-study.json --setting small --timing

Stopped at any moment (Ctrl-C, kill -9, a lost machine) and started again, it goes on where it was, within a run as well.
Equal active compute: every layer has room for two expert rows per token. Token choice: K = 2, capacity C = K S / E.
Expert choice: C = 2 S / E. Soft: 2 S / E slots of an expert. S is the tokens of one image, E the experts.

--timing trains nothing for the study: it measures how fast each configuration trains, alone (study_timing.py), and adds that
to the record. The report then shows these figures and not the seconds of the runs, which may have shared the machine.

What follows `--` goes to every `vmoe train`. Ends with 0 (done, or stopped by --budget), 1 (a run failed), 2 (wrong use)
or 130 (interrupted).
"""

import dataclasses
import datetime
import fnmatch
import statistics
import sys

import runs
import studies
import study_page
import study_timing

ROUTERS = {  # name: family
    "softmax_token_choice": "token choice", "sinkhorn_token_choice": "token choice",
    "softmax_expert_choice": "expert choice", "sinkhorn_expert_choice": "expert choice",
    "sparse_expert_choice": "expert choice", "soft": "soft"}
ONE_OF_EACH = ("softmax_token_choice", "softmax_expert_choice", "soft")
ROWS = 2.0  # expert rows per token of the comparison at equal compute
TRAIN_IMAGES = 50000  # of CIFAR-10, for estimates
# Share of the time of a step, at ROWS, that grows with the expert rows: a guess, which measured runs correct.
EXPERT_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class Setting:
    """images_per_s: of one run at ROWS, for the first estimates; measured runs correct it."""
    preset: str
    epochs: float
    batch: int
    threads: int
    jobs: int
    seeds: tuple
    other_seeds: tuple  # of E = 32 and of the ablations
    images_per_s: float


SETTINGS = {
    "small": Setting("nano", 5, 64, 1, 2, (0, 1, 2), (0,), 740),
    "gpu": Setting("ti", 30, 256, 0, 1, (0, 1, 2), (0, 1, 2), 2000),
}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """factor: capacity factor; slots of an expert are factor * S / E, of token choice factor * K * S / E."""
    router: str
    experts: int
    factor: float
    k: int = 0  # token choice only

    @property
    def name(self):
        return f"{self.router}-e{self.experts}" + (f"-k{self.k}" if self.k else "") + f"-c{self.factor:g}"

    @property
    def rows(self):
        """Room for expert rows per token: what the experts' compute is proportional to."""
        return self.factor * (self.k or 1)

    def flags(self):
        loss = "0.005" if self.router == "softmax_token_choice" else "0"  # the router's own default, others have none
        noise = "0" if self.router in ("soft", "sparse_expert_choice") else "1"  # as the paper's code: those add none
        factor = f"{self.factor:g}"
        flags = ["--router", self.router, "--experts", str(self.experts), "--capacity-factor", factor,
                 "--eval-capacity-factor", factor, "--capacity-multiple", "1", "--group-images", "1",
                 "--importance", loss, "--load", loss, "--noise", noise]
        return flags + (["--k", str(self.k)] if self.k else [])


def equal_compute(router, experts):
    if ROUTERS[router] == "token choice":
        return Configuration(router, experts, 1.0, 2)
    return Configuration(router, experts, ROWS)


@dataclasses.dataclass(frozen=True)
class Planned:
    configuration: Configuration
    seed: int
    parts: tuple  # of the study, that this run is a point of

    @property
    def name(self):
        return f"{self.configuration.name}-s{self.seed}"


def plan(setting):
    """All runs of a setting, each once, the most wanted first."""
    token, expert, soft = ONE_OF_EACH
    wanted = [("routers, E = 8", equal_compute(r, 8), s) for s in setting.seeds for r in ROUTERS]
    wanted += [("routers, E = 32", equal_compute(r, 32), s) for s in setting.other_seeds for r in ROUTERS]
    for seed in setting.other_seeds:
        wanted += [("experts", equal_compute(r, e), seed) for e in (4, 8, 16, 32, 64) for r in ONE_OF_EACH]
        wanted += [("k", Configuration(token, 8, 1.0, k), seed) for k in (1, 2, 4)]
        wanted += [("capacity", Configuration(token, 8, c, 2), seed) for c in (0.5, 1.0, 2.0)]
        wanted += [("capacity", Configuration(expert, 8, c), seed) for c in (0.5, 1.0, 2.0)]
        wanted += [("slots", Configuration(soft, 8, c), seed) for c in (0.5, 1.0, 2.0)]
    parts = {}
    for part, configuration, seed in wanted:
        parts.setdefault((configuration, seed), []).append(part)
    return [Planned(configuration, seed, tuple(own)) for (configuration, seed), own in parts.items()]


class Estimates:
    """Seconds of a run: from a rate, corrected by what finished runs took (of the same router, where there are some)."""

    def __init__(self, setting):
        self.setting = setting
        self.ratios = {}

    def _first(self, configuration):
        cost = 1 + EXPERT_SHARE * (configuration.rows / ROWS - 1)
        return TRAIN_IMAGES * self.setting.epochs / self.setting.images_per_s * cost

    def learn(self, configuration, seconds):
        self.ratios.setdefault(configuration.router, []).append(seconds / self._first(configuration))

    def seconds(self, configuration):
        known = self.ratios.get(configuration.router) or [r for own in self.ratios.values() for r in own] or [1.0]
        return self._first(configuration) * statistics.median(known)


class Study(studies.Study):
    """The plan in a work folder. One process at a time works on it: it holds a lock."""

    def __init__(self, options, extra_flags):
        super().__init__(options, dataclasses.replace(SETTINGS[options.setting], **{
            key: getattr(options, key) for key in ("epochs", "batch", "threads", "jobs")
            if getattr(options, key) is not None}))
        self.extra = extra_flags
        self.plan = plan(self.setting)
        self.chosen = [p for p in self.plan if fnmatch.fnmatchcase(p.name, f"*{options.only}*")]
        self.estimates = Estimates(self.setting)
        before = runs.read_json(options.json) or {}
        self.timed = {key: before[key] for key in ("timing", "timing_setting") if key in before}
        if not options.timing:  # which needs none of the runs, nor the flags that they were begun with
            for planned in self.plan:
                self.collect(planned)

    def run(self, folder, configuration, epochs, threads, seed):
        s = self.setting
        flags = ["--preset", s.preset, "--patch", "4", "--epochs", f"{epochs:g}", "--batch", str(s.batch),
                 "--label-smoothing", "0.05", "--eval-every", f"{epochs:g}", "--seed", str(seed),
                 "--threads", str(threads), *configuration.flags(), *self.extra]
        return runs.Run(self.options.program, folder, ["--data", str(self.options.data), *flags])

    def run_of(self, planned):
        return self.run(self.options.work / planned.name, planned.configuration, self.setting.epochs, self.setting.threads,
                        planned.seed)

    def time(self):
        """Adds to the record how fast the chosen configurations train, each alone."""
        study_timing.record_of(self.options.json)  # before the work, whose result would have no place
        threads = study_timing.THREADS if self.options.threads is None else self.options.threads
        epochs = study_timing.EPOCHS if self.options.epochs is None else self.options.epochs
        folder = self.options.work / f"timing-{threads}-threads"
        timing = study_timing.measure(
            list(dict.fromkeys(p.configuration for p in self.chosen)),
            lambda c, repeat: self.run(folder / f"{c.name}-r{repeat}", c, epochs, threads, repeat),
            lambda text: print(text, flush=True))
        study_timing.add_to(self.options.json, timing, epochs, threads, self.command())

    def learn(self, planned, final):
        if final.get("train_seconds"):
            self.estimates.learn(planned.configuration, final["train_seconds"])

    def seconds_left(self, planned):
        done = min(1.0, self.run_of(planned).epochs_done() / self.setting.epochs)
        return self.estimates.seconds(planned.configuration) * (1 - done)

    def record(self):
        """Everything known so far, also of runs that --only leaves out now."""
        entries = []
        for planned in self.plan:
            final = self.results.get(planned.name)
            if final is None:
                continue
            c = planned.configuration
            entries.append({
                "name": planned.name, "router": c.router, "family": ROUTERS[c.router], "experts": c.experts, "k": c.k,
                "capacity_factor": c.factor, "rows": c.rows, "seed": planned.seed, "parts": list(planned.parts),
                "model": self.run_of(planned).config().get("model", {}),
                **{key: final.get(key) for key in ("accuracy", "loss", "dropped", "train_seconds", "images_per_s", "step",
                                                   "layers")}})
        return {"what": "test accuracy of six routers at equal active compute, and ablations, after arXiv 2401.15969",
                "command": self.command(), "date": datetime.date.today().isoformat(), "machine": self.machine(),
                "setting": {"name": self.options.setting, **dataclasses.asdict(self.setting)},
                "planned": len(self.plan), "missing": [p.name for p in self.plan if p.name not in self.results],
                "failed": self.failed, "runs": entries, **self.timed}

    def command(self):
        return super().command("bench/experiments/router_study.py", *(["--timing"] if self.options.timing else []))

    def describe(self):
        total = 0.0
        for planned in self.chosen:
            over = planned.name in self.results
            seconds = 0.0 if over else self.seconds_left(planned)
            total += seconds
            state = "done" if over else f"{seconds / 60:6.1f} min" + (" left" if self.run_of(planned).begun() else "")
            print(f"{planned.name:42} {state:16} {'; '.join(planned.parts)}")
        basis = "measured runs" if self.estimates.ratios else "a first guess"
        print(f"{len(self.chosen)} runs, {len(self.left())} to do: about {total / self.setting.jobs / 60:.0f} min "
              f"with {self.setting.jobs} at a time (by {basis})")


def run_study(options, extra):
    study = Study(options, extra)
    if not study.chosen:
        raise ValueError(f"--only {options.only}: no run has such a name (--dry-run lists them)")
    if options.dry_run:
        study.describe()
        return 0
    with studies.Lock(options.work):
        if options.timing:
            study.time()
        else:
            study.go()
            study.save()
    return 1 if study.failed else 0


def parse(arguments):
    flags = studies.parser("router_study.py", __doc__, SETTINGS,
                           "small: about two hours on two cores; gpu: larger model, longer, three seeds of everything")
    flags.add_argument("--only", metavar="PATTERN", default="", help="only runs with this in their name; * matches anything")
    flags.add_argument("--timing", action="store_true",
                       help="train nothing for the study: time each configuration alone, where the machine does nothing else; "
                            "--threads is 2 here and --epochs 0.1, and what was timed before is kept in --work")
    options, extra = studies.parse(flags, arguments)
    if options.timing and (options.dry_run or options.work is None):
        flags.error("--timing needs --data and --work, and is no --dry-run")
    return options, extra


def main(arguments):
    options, extra = parse(arguments)

    def work():
        code = run_study(options, extra) if options.work is not None else 0
        if options.report is not None:
            study_page.write(studies.record_with_runs(options.json), options.report, options.figures)
        return code
    return studies.ended_with("router_study.py", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
