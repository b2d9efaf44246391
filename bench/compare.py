#!/usr/bin/env python3
"""Compares results of Google Benchmark: a page that opens offline, and a table in Markdown.

    bench_routers --benchmark_repetitions=5 --benchmark_out=new.json --benchmark_out_format=json
    bench/compare.py new.json                                       # one file: its table
    bench/compare.py old.json new.json --html page.html             # the second against the first
    bench/compare.py new.json --against router:dense                # against a row of the same file

What is compared with what, and what noise is: comparison.py.

Ends with 2 and one line on standard error if a file cannot be read or nothing can be compared.
"""

import argparse
import html
import json
import pathlib
import sys

from comparison import (SHOWN_COUNTERS, Complaint, better_if, compare, comparisons, is_number, read_all, repetitions, show,
                        show_range, three_digits)

PAGE = pathlib.Path(__file__).with_name("compare_page.html")

# Of a machine, but no part of a measurement to publish.
PRIVATE_CONTEXT = {"host_name", "load_avg"}

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
