#!/usr/bin/env python3
"""Compares results of Google Benchmark: a page that opens offline, and a table in Markdown.

    bench_routers --benchmark_repetitions=5 --benchmark_out=new.json --benchmark_out_format=json
    bench/compare.py new.json                                       # one file: its table
    bench/compare.py old.json new.json --html page.html             # the second against the first
    bench/compare.py new.json --against router:dense                # against a row of the same file

A benchmark is named family/axis:value/axis:value. Rows of two files belong together if family and axes are equal.
The noise of a row is the range (min, max) of its repetitions; a difference is above the noise if the ranges of both rows
do not overlap. Of a file with aggregates only, the range is the median less and plus two standard deviations.

Ends with 2 and one line on standard error if a file cannot be read or nothing can be compared.
"""

import argparse
import dataclasses
import html
import itertools
import json
import math
import pathlib
import statistics
import sys

PAGE = pathlib.Path(__file__).with_name("compare_page.html")

# What Google Benchmark itself writes into an entry; every other number is a counter.
OWN_KEYS = {"name", "run_name", "run_type", "family_index", "per_family_instance_index", "repetitions", "repetition_index",
            "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name", "aggregate_unit", "label",
            "error_occurred", "error_message", "skipped", "skip_message", "big_o", "rms", "cpu_coefficient",
            "real_coefficient"}
# Parts of a name that say how it was measured, not what.
HARNESS_WORDS = {"real_time", "process_time", "manual_time"}
HARNESS_AXES = {"repeats", "iterations", "min_time", "min_warmup_time"}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
# Of a machine, but no part of a measurement to publish.
PRIVATE_CONTEXT = {"host_name", "load_avg"}
# Counters that stand beside the compared metric in Markdown, where a file has them.
SHOWN_COUNTERS = ("tokens_per_second", "FLOP/s", "routing_share", "drop_rate", "load_cv", "entropy", "route_change")
SHARES = {"routing_share", "drop_rate", "route_change"}


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
    return {"ratio": ratio, "above": above, "sentence": f"{difference}: {end}.",
            "better": bool(above) and (middle - base_middle) * better_if(metric) > 0,
            "worse": bool(above) and (middle - base_middle) * better_if(metric) < 0}


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


# --- what both outputs show -------------------------------------------------------------------------------------------

def sort_values(values):
    """Each value once: numbers by size, then the others in the order in which they came."""
    return sorted(dict.fromkeys(values), key=lambda v: (0, float(v)) if is_number(v) else (1, 0.0))


def axes_of(rows):
    """Axis -> its values, in the order of the names; rows without an axis count as having none there."""
    axes = {"family": [r.family for r in rows]}
    for row in rows:
        for axis in row.axes:
            axes.setdefault(axis, [])
    for axis, values in axes.items():
        if axis != "family":
            values.extend(r.axes.get(axis, "") for r in rows)
    return {axis: sort_values(values) for axis, values in axes.items()}


def axis_value(row, axis):
    return row.family if axis == "family" else row.file if axis == "file" else row.axes.get(axis, "")


def context_lines(file):
    """What the file says of the machine and the command, without paths and the machine's name."""
    lines = []
    for key, value in file.context.items():
        if key in PRIVATE_CONTEXT:
            continue
        if key == "executable":
            value = pathlib.PurePath(str(value)).name
        if key == "caches" and isinstance(value, list):
            value = ", ".join(f"L{c.get('level')} {str(c.get('type', '')).lower()} {c.get('size', 0) // 1024} KiB"
                              for c in value if isinstance(c, dict))
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if isinstance(value, (str, int, float)) and value != "":
            lines.append((key.replace("_", " "), str(value)))
    return lines


def metrics_in(rows):
    found = list(dict.fromkeys(m for r in rows for m in r.ranges))
    return sorted(found, key=lambda m: (m not in ("time", "cpu_time"), m not in SHOWN_COUNTERS))


def repetitions_text(row, metric):
    count = repetitions(row, metric)
    return "aggregate" if count is None else str(count)


def markdown_cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def markdown(files, rows, axes, compared, metric, command):
    lines = [f"Compared: {metric}, median (min – max) of the repetitions. Made by `{command}`.", ""]
    for f in files:
        facts = "; ".join(f"{k} {v}" for k, v in context_lines(f))
        lines.append(f"- {f.name}: {facts or 'no context'}")
    constant = [f"{a} {v[0]}" for a, v in axes.items() if len(v) == 1 and v[0]]
    if constant:
        lines += ["", "Of all rows: " + ", ".join(constant) + "."]
    columns = [a for a, v in axes.items() if len(v) > 1]
    if len(files) > 1:
        columns.append("file")
    counters = [c for c in SHOWN_COUNTERS if c != metric and any(c in r.ranges for r in rows)]
    head = [*columns, metric, "repetitions", *counters]
    for c in compared:
        head += [f"ratio {c.title}", "difference"]
    lines += ["", "| " + " | ".join(map(markdown_cell, head)) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if metric not in row.ranges:
            continue
        cells = [*(axis_value(row, a) for a in columns), show_range(metric, row.ranges[metric]),
                 repetitions_text(row, metric), *(show(c, row.ranges[c][1]) if c in row.ranges else "" for c in counters)]
        for c in compared:
            cells += ratio_cells(row, c, metric)[:2]
        lines.append("| " + " | ".join(map(markdown_cell, cells)) + " |")
    for f in files:
        lines += ["", *(f"Not measured in {f.name}: {s}" for s in f.skipped)] if f.skipped else []
    return "\n".join(lines) + "\n"


def ratio_cells(row, compared, metric):
    """Ratio, sentence and the comparison itself (None for the baseline and for a row without one)."""
    base = compared.base_of.get(id(row))
    if base is row:
        return "1", "baseline", None
    result = compare(row, base, metric, compared.who) if base else None
    if result is None:
        return "", "no counterpart", None
    ratio = result["ratio"]
    if ratio is None:
        return "", result["sentence"], result
    text = three_digits(ratio[0]) + (f" ({three_digits(ratio[1])} – {three_digits(ratio[2])})" if ratio[1] != ratio[2] else "")
    return text, result["sentence"], result


def table_bodies(rows, columns, metrics, compared, chosen):
    """One <tbody> for each metric; the page shows one of them. data-row leads to the row's data."""
    bodies = []
    for metric in metrics:
        lines = []
        for i, row in enumerate(rows):
            if metric not in row.ranges:
                continue
            low, middle, high = row.ranges[metric]
            cells = [f"<td>{html.escape(axis_value(row, a))}</td>" for a in columns]
            noise = f"{show(metric, low)} – {show(metric, high)}" if low != high else "–"
            cells += [f'<td class="number" data-value="{middle!r}">{html.escape(show(metric, middle))}</td>',
                      f'<td class="number">{html.escape(noise)}</td>',
                      f'<td class="number">{repetitions_text(row, metric)}</td>']
            for c in compared:
                ratio, sentence, result = ratio_cells(row, c, metric)
                kind = "" if result is None else ("better" if result["better"] else "worse" if result["worse"]
                                                  else "above" if result["above"] else "")
                value = repr(result["ratio"][0]) if result and result["ratio"] else ""
                cells += [f'<td class="number" data-value="{value}">{html.escape(ratio)}</td>',
                          f'<td class="verdict {kind}">{html.escape(sentence)}</td>']
            lines.append(f'<tr data-row="{i}">{"".join(cells)}</tr>')
        hidden = "" if metric == chosen else " hidden"
        bodies.append(f'<tbody data-metric="{html.escape(metric)}"{hidden}>\n' + "\n".join(lines) + "\n</tbody>")
    return "\n".join(bodies)


def table_head(columns, compared):
    titles = [*((c, False) for c in columns), ("median", True), ("min – max", True), ("repetitions", True)]
    for c in compared:
        titles += [(f"ratio {c.title}", True), (f"difference {c.title}", False)]
    return "".join(f'<th scope="col"{" class=number" if number else ""}><button type="button">{html.escape(title)}'
                   "</button></th>" for title, number in titles)


def context_html(files):
    parts = []
    for f in files:
        facts = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in context_lines(f))
        skipped = "".join(f"<li>{html.escape(s)}</li>" for s in f.skipped)
        parts.append(f'<section class="card"><h3>{html.escape(f.name)}</h3><dl>{facts}</dl>'
                     + (f"<p>Not measured:</p><ul>{skipped}</ul>" if skipped else "") + "</section>")
    return "\n".join(parts)


def page(files, rows, axes, compared, metric, command, title):
    metrics = metrics_in(rows)
    all_axes = dict(axes)
    if len(files) > 1:
        all_axes["file"] = [f.name for f in files]
    columns = [a for a, v in all_axes.items() if len(v) > 1] or ["family"]
    data = {
        "axes": [{"name": a, "values": v} for a, v in all_axes.items() if len(v) > 1],
        "metrics": [{"name": m, "better": better_if(m)} for m in metrics],
        "metric": metric,
        "rows": [{"at": {a: axis_value(r, a) for a in all_axes}, "ranges": r.ranges,
                  "text": {m: show_range(m, v) for m, v in r.ranges.items()}} for r in rows]}
    constant = ", ".join(f"{a} {v[0]}" for a, v in all_axes.items() if len(v) == 1 and v[0])
    filled = PAGE.read_text(encoding="utf-8")
    for key, value in {
            "title": html.escape(title), "command": html.escape(command),
            "constant": f"Of all rows: {html.escape(constant)}." if constant else "",
            "context": context_html(files), "head": table_head(columns, compared),
            "bodies": table_bodies(rows, columns, metrics, compared, metric),
            "data": json.dumps(data).replace("<", "\\u003c")}.items():
        filled = filled.replace("{{" + key + "}}", value)
    return filled


def write(path, text):
    try:
        pathlib.Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Complaint(f"{path}: cannot be written: {error.strerror}") from error


def short_command(arguments):
    """The command without the folders of its files."""
    def short(argument):
        prefix, equals, path = argument.rpartition("=")
        folder = pathlib.PurePath(path).parent
        return prefix + equals + pathlib.PurePath(path).name if "/" in path and pathlib.Path(folder).is_dir() else argument
    return " ".join(["bench/compare.py", *(short(a) for a in arguments)])


def main(arguments):
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="[NAME=]FILE", help="JSON of Google Benchmark")
    parser.add_argument("--html", metavar="FILE", help="write the page")
    parser.add_argument("--markdown", metavar="FILE", help="write the table; without it, it goes to standard output")
    parser.add_argument("--baseline", metavar="NAME", help="file to compare with (the first)")
    parser.add_argument("--against", metavar="AXIS:VALUE[,...]", help="compare with this row of the same file")
    parser.add_argument("--metric", default="time", help="what is compared: time, cpu_time or a counter (time)")
    parser.add_argument("--title", default="Benchmarks", help="of the page")
    options = parser.parse_args(arguments)
    try:
        files = read_all(options.files)
        rows = [row for f in files for row in f.rows.values()]
        if options.metric not in metrics_in(rows):
            raise Complaint(f"--metric {options.metric}: not measured; there are {', '.join(metrics_in(rows))}")
        compared = comparisons(files, options.baseline, options.against)
        axes = axes_of(rows)
        command = short_command(arguments)
        table = markdown(files, rows, axes, compared, options.metric, command)
        if options.html:
            write(options.html, page(files, rows, axes, compared, options.metric, command, options.title))
        if options.markdown:
            write(options.markdown, table)
        else:
            sys.stdout.write(table)
    except Complaint as complaint:
        print(f"compare.py: error: {complaint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
