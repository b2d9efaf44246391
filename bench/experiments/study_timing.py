"""How fast the configurations of router_study.py train, each alone on the machine.

The study's own runs may share the machine with one another and with other work, so that their seconds compare nothing. Here
every configuration trains a few thousand images with the flags of its runs, one after the other, all of them before any
repeats: a machine that slows down meets all alike. images_per_s is the median of the repeats.
"""

import datetime
import shutil
import statistics

import runs

EPOCHS = 0.1  # of CIFAR-10
THREADS = 2
REPEATS = 3  # each with a seed of its own: 0, 1, 2


def measure(configurations, run_of, say):
    """configuration -> {"images_per_s": median, "repeats": [...]}, in the order given.

    run_of(configuration, repeat) makes the Run. What was measured before is kept, what was only begun begins anew.
    Throws runs.OtherFlags, runs.TrainerFailed; on KeyboardInterrupt the trainer is stopped first.
    """
    speeds = {c: [] for c in configurations}
    for repeat in range(REPEATS):
        for configuration in configurations:
            run = run_of(configuration, repeat)
            if run.result() is None:
                shutil.rmtree(run.folder, ignore_errors=True)  # a run that went on would not have been timed alone
            final = runs.train(run.program, run.folder, run.arguments)
            shutil.rmtree(run.folder, ignore_errors=True)
            speeds[configuration].append(final["images_per_s"])
            say(f"{run.name}: {final['images_per_s']:.0f} images/s")
    return {c.name: {"images_per_s": statistics.median(own), "repeats": own} for c, own in speeds.items()}


def record_of(path):
    """The study's record, which timing belongs into."""
    record = runs.read_json(path)
    if record is None:
        raise ValueError(f"{path}: no record of a study, which timing is written into; train first")
    return record


def add_to(path, timing, epochs, threads, command):
    """Writes timing and how it was taken into the study's record; everything else there stays as it is.

    Configurations that were timed before and are not now stay too, if they were timed with as many epochs and threads.
    """
    record = record_of(path)
    about = record.get("timing_setting") or {}
    kept = record.get("timing") or {} if (about.get("epochs"), about.get("threads")) == (epochs, threads) else {}
    record["timing"] = {**kept, **timing}
    record["timing_setting"] = {"epochs": epochs, "threads": threads, "repeats": REPEATS, "command": command,
                                "date": datetime.date.today().isoformat(), "machine": runs.machine()}
    runs.write_json(path, record)
