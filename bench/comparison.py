"""Results of Google Benchmark: what a file says, numbers in words, and rows beside a baseline with their noise.

A benchmark is named family/axis:value/axis:value. Rows of two files belong together if family and axes are equal.
The noise of a row is the range (min, max) of its repetitions; a difference is above the noise if the ranges of both rows
do not overlap. Of a file with aggregates only, the range is the median less and plus two standard deviations.

Two times are of equal work only if the rows computed as many rows of experts a token (`rows_per_token`); where they did
not, the sentence on their difference says so.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import statistics

# What Google Benchmark itself writes into an entry; every other number is a counter.
OWN_KEYS = {"name", "run_name", "run_type", "family_index", "per_family_instance_index", "repetitions", "repetition_index",
            "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name", "aggregate_unit", "label",
            "error_occurred", "error_message", "skipped", "skip_message", "big_o", "rms", "cpu_coefficient",
            "real_coefficient"}
# Parts of a name that say how it was measured, not what.
HARNESS_WORDS = {"real_time", "process_time", "manual_time"}
HARNESS_AXES = {"repeats", "iterations", "min_time", "min_warmup_time"}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
# Counters that stand beside the compared metric in Markdown, where a file has them.
SHOWN_COUNTERS = ("rows_per_token", "tokens_per_second", "FLOP/s", "routing_share", "drop_rate", "load_cv", "entropy", "route_change")
SHARES = {"routing_share", "drop_rate", "route_change"}
# Metrics that say little of rows which do other work, and the counter of that work.
TIMES = {"time", "cpu_time", "tokens_per_second"}
WORK = "rows_per_token"
SAME_WORK = 0.005  # relative difference that is left to rounding


class Complaint(Exception):
    """Something the caller can mend; its text is the whole message."""


@dataclasses.dataclass
class Row:
    """One benchmark of one file. metrics: name -> values of the repetitions; ranges: name -> (low, median, high)."""
    file: str
    family: str
    axes: dict
    label: str = ""
    metrics: dict = dataclasses.field(default_factory=dict)
    ranges: dict = dataclasses.field(default_factory=dict)
    aggregates: dict = dataclasses.field(default_factory=dict)

    @property
    def key(self):
        return (self.family, tuple(sorted(self.axes.items())))

    @property
    def name(self):
        return "/".join([self.family, *(f"{k}:{v}" for k, v in self.axes.items())])


@dataclasses.dataclass
class File:
    name: str
    context: dict
    rows: dict
    skipped: list


def split_name(name):
    """Family and axes of a benchmark's name. Parts without a name are called arg1, arg2, ..."""
    family, axes = [], {}
    for part in name.split("/"):
        axis, colon, value = part.partition(":")
        if part in HARNESS_WORDS or (colon and axis in HARNESS_AXES):
            continue
        if colon:
            axes[axis] = value
        elif not axes and not is_number(part):
            family.append(part)
        else:
            axes[f"arg{sum(a.startswith('arg') for a in axes) + 1}"] = part
    return "/".join(family), axes


def is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def metrics_of(entry):
    unit = SECONDS.get(entry.get("time_unit", "ns"))
    if unit is None:
        raise Complaint(f"time_unit is {entry['time_unit']!r}, expected one of {', '.join(SECONDS)}")
    found = {}
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        if key == "real_time":
            found["time"] = value * unit
        elif key == "cpu_time":
            found["cpu_time"] = value * unit
        elif key not in OWN_KEYS:
            found[key] = value
    return found


def finish(row):
    """Ranges from the repetitions, or from the aggregates where a file has nothing else."""
    for metric, values in row.metrics.items():
        row.ranges[metric] = (min(values), statistics.median(values), max(values))
    if row.metrics:
        return
    middle = row.aggregates.get("median") or row.aggregates.get("mean") or {}
    spread = row.aggregates.get("stddev", {})
    for metric, value in middle.items():
        width = 2 * spread.get(metric, 0.0)
        row.ranges[metric] = (value - width, value, value + width)


def read(path, name):
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Complaint(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Complaint(f"{path}: not JSON: {error}") from error
    entries = content.get("benchmarks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
            isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries):
        raise Complaint(f"{path}: no results of Google Benchmark: expected an object with a list 'benchmarks' of named entries")
    rows, skipped = {}, []
    for entry in entries:
        run_name = str(entry.get("run_name", entry["name"]))
        if entry.get("error_occurred") or entry.get("skipped"):
            reason = entry.get("error_message") or entry.get("skip_message") or "no reason given"
            skipped.append(f"{run_name}: {reason}")
            continue
        family, axes = split_name(run_name)
        row = Row(name, family, axes)
        row = rows.setdefault(row.key, row)
        row.label = entry.get("label", row.label)
        try:
            found = metrics_of(entry)
        except Complaint as complaint:
            raise Complaint(f"{path}: {run_name}: {complaint}") from complaint
        if entry.get("run_type") == "aggregate":
            row.aggregates[entry.get("aggregate_name")] = found
        else:
            for metric, value in found.items():
                row.metrics.setdefault(metric, []).append(value)
    for row in rows.values():
        finish(row)
    rows = {key: row for key, row in rows.items() if row.ranges}
    if not rows:
        raise Complaint(f"{path}: holds no measured benchmark")
    context = content.get("context")
    return File(name, context if isinstance(context, dict) else {}, rows, skipped)


def read_all(arguments):
    """The files of the command line, each PATH or NAME=PATH; names are made unique."""
    files = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or pathlib.Path(argument).exists():
            name, path = pathlib.Path(argument).stem, argument
        taken = {f.name for f in files}
        unique = next(n for n in itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2))) if n not in taken)
        files.append(read(path, unique))
    return files


# --- numbers in words -------------------------------------------------------------------------------------------------

def three_digits(value):
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits <= 6 else f"{value:.2e}"


def scaled(value, steps):
    for size, unit in steps:
        if abs(value) >= size:
            return f"{three_digits(value / size)}{unit}"
    return f"{three_digits(value / steps[-1][0])}{steps[-1][1]}" if value else "0"


def show(metric, value):
    if metric in ("time", "cpu_time"):
        return scaled(value, [(1, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns")])
    if metric in SHARES:
        return f"{three_digits(100 * value)} %"
    if abs(value) >= 1e4:
        return scaled(value, [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")])
    return three_digits(value)


def show_range(metric, low_middle_high):
    low, middle, high = low_middle_high
    if low == high:
        return show(metric, middle)
    return f"{show(metric, middle)} ({show(metric, low)} – {show(metric, high)})"


def better_if(metric):
    """-1: lower is better; 1: higher; 0: neither can be said."""
    if metric in ("time", "cpu_time", "drop_rate"):
        return -1
    return 1 if metric.endswith(("per_second", "/s")) else 0


# --- comparison -------------------------------------------------------------------------------------------------------

def repetitions(row, metric):
    """How many values a range comes from; None if the file has aggregates only."""
    return len(row.metrics[metric]) if metric in row.metrics else None


def noise_known(row, metric):
    count = repetitions(row, metric)
    return "stddev" in row.aggregates if count is None else count > 1


def compare(row, base, metric, who):
    """Ratio of a row to its baseline (value, low, high), whether it is above the noise, and a sentence that says so.

    above is None where the noise is not known. who: the baseline's name in the sentence.
    """
    if metric not in row.ranges or metric not in base.ranges:
        return None
    low, middle, high = row.ranges[metric]
    base_low, base_middle, base_high = base.ranges[metric]
    if base_middle == 0 or base_low <= 0:
        ratio = None
        difference = f"{show(metric, middle)} after {show(metric, base_middle)} of {who}"
    else:
        ratio = (middle / base_middle, low / base_high, high / base_low)
        difference = in_words(metric, ratio[0]) + f" {who}"
    if not (noise_known(row, metric) and noise_known(base, metric)):
        above, end = None, "the noise is not known (one repetition)"
    elif low > base_high or high < base_low:
        above, end = True, "above the noise"
    else:
        above, end = False, "within the noise"
    return {"ratio": ratio, "above": above, "sentence": f"{difference}: {end}.{other_work(row, base, metric)}",
            "better": bool(above) and (middle - base_middle) * better_if(metric) > 0,
            "worse": bool(above) and (middle - base_middle) * better_if(metric) < 0}


def other_work(row, base, metric):
    """A sentence where a time is compared with one of other work; else nothing."""
    if metric not in TIMES or WORK not in row.ranges or WORK not in base.ranges:
        return ""
    own, other = row.ranges[WORK][1], base.ranges[WORK][1]
    if abs(own - other) <= SAME_WORK * max(own, other):
        return ""
    return f" Other work: {three_digits(own)} rows per token, not {three_digits(other)}."


def in_words(metric, ratio):
    change = 100 * (ratio - 1)
    amount = f"{abs(change):.1f} %" if ratio < 2 else f"{ratio:.2f} times"
    if abs(change) < 0.05:
        return "As" + (" fast as" if metric in ("time", "cpu_time") else " much as")
    if metric in ("time", "cpu_time"):
        return f"{amount} {'less time than' if change < 0 else 'more time than' if ratio < 2 else 'the time of'}"
    return f"{amount} {'less than' if change < 0 else 'more than' if ratio < 2 else 'that of'}"


def parse_against(text):
    wanted = {}
    for part in text.split(","):
        axis, colon, value = part.partition(":")
        if not (axis and colon and value):
            raise Complaint(f"--against {text}: expected AXIS:VALUE, for example router:dense")
        wanted[axis] = value
    return wanted


def baseline_in_file(row, rows, wanted):
    """The row with the wanted values whose other axes are those of `row`; it may lack axes that mean nothing to it."""
    def fits(base):
        return (base.family == row.family and all(base.axes.get(a) == v for a, v in wanted.items())
                and all(row.axes.get(a) == v for a, v in base.axes.items() if a not in wanted))
    return max((r for r in rows if fits(r)), key=lambda r: len(r.axes), default=None)


@dataclasses.dataclass
class Comparison:
    """One column of ratios: rows of every file against a baseline file, or against rows of their own file."""
    title: str
    base_of: dict  # id of a row -> its baseline row
    who: str


def comparisons(files, baseline, against):
    made = []
    if len(files) > 1:
        names = [f.name for f in files]
        if baseline is not None and baseline not in names:
            raise Complaint(f"--baseline {baseline}: no such file; there are {', '.join(names)}")
        base = files[names.index(baseline)] if baseline else files[0]
        pairs = {id(row): base.rows[key] for f in files for key, row in f.rows.items() if key in base.rows}
        for other in files:
            if not set(other.rows) & set(base.rows):
                raise Complaint(f"{other.name} and {base.name} have no benchmark in common")
        made.append(Comparison(f"to {base.name}", pairs, base.name))
    elif baseline is not None:
        raise Complaint("--baseline needs two files or more; inside one file it is --against AXIS:VALUE")
    if against is not None:
        wanted = parse_against(against)
        pairs = {}
        for f in files:
            for row in f.rows.values():
                base = baseline_in_file(row, f.rows.values(), wanted)
                if base is not None:
                    pairs[id(row)] = base
        if not any(base.axes != r.axes for f in files for r in f.rows.values() if (base := pairs.get(id(r)))):
            raise Complaint(f"--against {against}: no other benchmark has a counterpart with these values")
        made.append(Comparison(f"to {against}", pairs, against))
    return made
