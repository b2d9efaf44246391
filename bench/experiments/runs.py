"""Runs of `vmoe train` that may be stopped at any moment and gone on with, for the experiments of this folder.

A run has a folder, made by the trainer, and beside it NAME.json (its final figures, there once it is over), NAME.flags.json
(what it was begun with) and NAME.log.
"""

import ctypes
import fcntl
import functools
import json
import pathlib
import platform
import signal
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INTERRUPTED = 130  # exit code of the trainer when it was asked to stop and wrote a checkpoint
USAGE = 2  # exit code of the trainer for flags that it does not take
FREE_FLAGS = {"--data", "--threads"}  # flags, with one value each, that no result depends on
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def output(*command):
    """What a command prints; "" where there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def cpu_model():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


@functools.cache
def machine():
    """What a result depends on or is timed on: processor, cores, compiler, commit ("" without git) and whether tracked files
    differ from it (None without git), all as they were when it was first asked for."""
    commit = output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    changes = output("git", "-C", str(ROOT), "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return {"cpu": cpu_model(), "cores": int(output("nproc") or 0), "system": platform.system(),
            "compiler": next(iter(output("c++", "--version").splitlines()), ""),
            "commit": commit, "uncommitted_changes": bool(changes) if commit else None}


def summary(values):
    return {"values": values, "mean": statistics.mean(values),
            "standard_deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def write_json(path, content):
    """Replaces the file at once: a reader, or one who stops the writer, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path):
    """The content, or None where there is no file or only a part of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def json_line(text):
    """One line of a file that may end in a part of one; None for that part."""
    try:
        return json.loads(text)
    except ValueError:
        return None


class OtherFlags(Exception):
    """A run was begun with other flags than it should now go on with."""


class TrainerFailed(Exception):
    pass


class Run:
    """One run in `folder`. arguments: flags of `vmoe train`, without --out, --resume and --json."""

    def __init__(self, program, folder, arguments):
        self.program, self.folder, self.arguments = str(program), pathlib.Path(folder), list(arguments)
        self.name = self.folder.name
        self.final = self._beside("json")
        self.log = self._beside("log")

    def _beside(self, ending):  # the trainer makes the folder itself
        return self.folder.parent / f"{self.name}.{ending}"

    def result(self):
        """The final figures; None if the run is not over. Throws OtherFlags."""
        self._check_flags()
        return read_json(self.final)

    def begun(self):
        return (self.folder / "config.json").exists()

    def config(self):
        return read_json(self.folder / "config.json") or {}

    def epochs_done(self):
        """Epochs trained so far, by the run's own record (0 if it has none)."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0.0
        for line in reversed(lines):
            try:
                return float(json.loads(line)["epoch"])
            except (ValueError, KeyError, TypeError):  # the last line may be a part of one
                continue
        return 0.0

    def start(self):
        """Begins or continues the run; the process gets no signal of the terminal: see stop()."""
        self._check_flags()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        wait_until_free(self.folder)
        write_json(self._beside("flags.json"), self.lasting_flags())
        command = [self.program, *self.words()]
        print(" ".join(command), flush=True)
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                    start_new_session=True, preexec_fn=end_with_parent())

    def words(self):
        """What the program is called with."""
        words = ["train", "--json", str(self.final)]
        return words + (["--resume", str(self.folder)] if self.begun() else ["--out", str(self.folder), *self.arguments])

    def last_words(self):
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self.log.exists() else []
        return next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "no output")

    def lasting_flags(self):
        kept, rest = [], iter(self.arguments)
        for word in rest:
            if word in FREE_FLAGS:
                next(rest, None)
            else:
                kept.append(word)
        return kept

    def _check_flags(self):
        if not (self.begun() or self.final.exists()):
            return  # the trainer refused the flags, or was stopped before it made the folder
        before = read_json(self._beside("flags.json"))
        if before is not None and before != self.lasting_flags():
            raise OtherFlags(f"the run {self.name} was begun with other flags ({' '.join(before)}): use another --work folder")


class Measurement(Run):
    """`vmoe stability` of a run that is over; its files stand beside the run's. One that was stopped begins anew."""

    def __init__(self, program, folder, arguments):
        super().__init__(program, folder, arguments)
        self.name += ".stability"
        self.final, self.log = self._beside("json"), self._beside("log")

    def begun(self):
        return False

    def words(self):
        return ["stability", str(self.folder), "--json", str(self.final), *self.arguments]


def wait_until_free(folder):
    """The trainer locks its metrics; one that outlived its parent may still be writing its last checkpoint."""
    metrics = folder / "metrics.jsonl"
    if not metrics.exists():
        return
    with open(metrics, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the process that trains {folder.name}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)


def end_with_parent():
    """For preexec_fn: the kernel asks the child to stop when this process ends, however that ends (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(processes):
    """Asks trainers to write a checkpoint and end, and waits until they have."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def train(program, folder, arguments):
    """The final figures of one run; begun, continued, or read if it is over. Throws OtherFlags, TrainerFailed."""
    run = Run(program, folder, arguments)
    if run.result() is None:
        process = run.start()
        try:
            code = process.wait()
        except KeyboardInterrupt:
            stop([process])
            raise
        if code != 0:
            raise TrainerFailed(f"{run.name} ended with {code}: {run.last_words()}")
    return run.result()
