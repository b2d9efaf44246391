"""What experiments of many runs share: they may be stopped at any moment and go on where they were, within a run as well,
and each finished run is written at once."""

import argparse
import fcntl
import pathlib
import signal
import sys
import time

import runs

POLL_SECONDS = 0.1


class Study:
    """The runs of a plan in a work folder.

    options: what `parser` makes of the command line; setting: has `jobs`, the runs at a time. Derived classes say what a
    planned run is (it has a `name`): run_of, seconds_left, record, and said_of for the line that tells its end.
    """

    def __init__(self, options, setting):
        self.options, self.setting = options, setting
        self.results, self.failed = {}, {}
        self.chosen = []  # what is to be run
        self.started = time.monotonic()

    def collect(self, planned):
        """Whether the run is over; its figures are kept."""
        final = self.run_of(planned).result()
        if final is None:
            return False
        self.results[planned.name] = final
        self.learn(planned, final)
        return True

    def learn(self, planned, final):
        """For estimates."""

    def left(self):
        return [p for p in self.chosen if p.name not in self.results and p.name not in self.failed]

    def go(self):
        """Runs what is left of the chosen. Throws KeyboardInterrupt after the programs wrote their checkpoints."""
        waiting, working = self.left(), {}
        try:
            while waiting or working:
                while waiting and len(working) < self.setting.jobs:
                    if not self.fits(waiting):
                        waiting.clear()
                        break
                    planned = waiting.pop(0)
                    working[self.run_of(planned).start()] = planned
                for process in [p for p in working if p.poll() is not None]:
                    self.ended(working.pop(process), process.returncode)
                time.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, runs.TrainerFailed):
            runs.stop(working)
            for planned in working.values():  # one may have come to its end meanwhile
                self.collect(planned)
            self.save()
            raise

    def fits(self, waiting):
        """Whether the first of these is over before the budget is."""
        if self.options.budget is None:
            return True
        used = (time.monotonic() - self.started) / 60
        needed = self.seconds_left(waiting[0]) / 60
        if used + needed <= self.options.budget:
            return True
        print(f"budget: {waiting[0].name} needs about {needed:.1f} min, {used:.1f} of "
              f"{self.options.budget:g} min are used; {len(waiting)} runs are left for another time")
        return False

    def ended(self, planned, code):
        run = self.run_of(planned)
        if code == runs.INTERRUPTED:
            raise KeyboardInterrupt
        if code == runs.USAGE:
            raise runs.TrainerFailed(f"{planned.name}: {run.last_words()}")
        if code != 0 or not self.collect(planned):
            self.failed[planned.name] = f"ended with {code}: {run.last_words()}"
            print(f"FAILED {planned.name} {self.failed[planned.name]}", flush=True)
        else:
            print(f"{planned.name}: {self.said_of(self.results[planned.name])}; {len(self.left())} left", flush=True)
        self.save()

    def said_of(self, final):
        return f"{100 * final['accuracy']:.2f} %, {final['train_seconds']:.0f} s"

    def save(self):
        runs.write_json(self.options.json, self.record())

    def machine(self):
        """As runs.machine; with the program's own commit, if it has one."""
        own = self.options.program_commit
        return {**runs.machine(), **({"program_commit": own} if own else {})}

    def command(self, script, *more):
        """The command line without the machine's paths."""
        words = [script, "--data", self.options.data.name, "--setting", self.options.setting]
        for key in ("epochs", "batch", "threads", "jobs"):
            if getattr(self.options, key) is not None:
                words += [f"--{key}", f"{getattr(self.options, key):g}"]
        return " ".join([*words, *more] + (["--", *self.extra] if self.extra else []))


class Lock:
    """One process at a time works in a folder. Throws ValueError if another does."""

    def __init__(self, work):
        self.work = work

    def __enter__(self):
        self.work.mkdir(parents=True, exist_ok=True)
        self.file = open(self.work / "lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise ValueError(f"another process works on the study in {self.work}") from None

    def __exit__(self, *_):
        self.file.close()


def parser(name, description, settings, settings_help):
    """The flags that studies have in common."""
    flags = argparse.ArgumentParser(prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", type=pathlib.Path, help="CIFAR-10, as vmoe train takes it")
    flags.add_argument("--work", type=pathlib.Path, help="folder of the runs")
    flags.add_argument("--json", type=pathlib.Path, required=True, help="record of the study, rewritten after each run")
    flags.add_argument("--setting", choices=settings, default="small", help=settings_help)
    flags.add_argument("--budget", metavar="MINUTES", type=float, help="begin no run that would end later than this")
    flags.add_argument("--dry-run", action="store_true", help="list the runs and their estimated time")
    flags.add_argument("--epochs", type=float, help="of every run, instead of the setting's")
    flags.add_argument("--batch", type=int, help="likewise")
    flags.add_argument("--threads", type=int, help="of one run, likewise; 0: all cores")
    flags.add_argument("--jobs", type=int, help="runs at a time, likewise")
    flags.add_argument("--program", default=str(runs.ROOT / "build/release/bin/vmoe"))
    flags.add_argument("--program-commit", metavar="COMMIT", help="what --program was built from, if not this checkout")
    flags.add_argument("--report", type=pathlib.Path, metavar="FILE.md", help="write the report of --json")
    flags.add_argument("--figures", type=pathlib.Path, metavar="FOLDER", help="where the report's plots go")
    return flags


def parse(flags, arguments):
    """(options, what follows `--`)."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = flags.parse_args(arguments[:split])
    if (options.report is None) != (options.figures is None):
        flags.error("--report and --figures belong together")
    if options.report is None and (options.data is None or options.work is None):
        flags.error("--data and --work are needed to train, --report and --figures to write the report")
    if options.jobs is not None and options.jobs < 1:
        flags.error("--jobs: expected 1 or more")
    if options.epochs is not None and options.epochs <= 0:
        flags.error("--epochs: expected more than 0")
    return options, arguments[split + 1:]


def record_with_runs(path):
    record = runs.read_json(path)
    if record is None or not record.get("runs"):
        raise ValueError(f"{path}: holds no finished run yet")
    return record


def ended_with(name, work):
    """The exit code of a program that does `work()`, which returns one: interrupted or wrong use have their own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell began this in the background
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped; started again, it goes on here", file=sys.stderr)
        return runs.INTERRUPTED
    except (ValueError, OSError, runs.OtherFlags, runs.TrainerFailed) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2


def main_of(flags, arguments, run_study, write_report):
    """The exit code of a study's program: run_study(options, extra) if there is a work folder, write_report(record, file,
    figures) if one is wanted."""
    options, extra = parse(flags, arguments)

    def work():
        code = run_study(options, extra) if options.work is not None else 0
        if options.report is not None:
            write_report(record_with_runs(options.json), options.report, options.figures)
        return code
    return ended_with(flags.prog, work)
