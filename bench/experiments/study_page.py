"""The report of router_study.py: Markdown with tables, plots in SVG, and a verdict on each claim of the paper.

A verdict compares means over seeds. A difference counts only if it exceeds the spread of seeds: the sum of the sample
standard deviations of both sides. With fewer than two seeds on a side nothing is said.
"""

import html
import os
import statistics

FAMILIES = ("token choice", "expert choice", "soft")
STYLES = {  # family: colour and marker, told apart without colour too
    "token choice": ("#0072b2", "circle"), "expert choice": ("#b9510a", "square"), "soft": ("#007a5a", "triangle")}
BASELINE = "softmax_token_choice-e{experts}-k2-c1"  # configuration that speeds are compared with
DASHES = ("", "7 3", "2 3", "9 3 2 3")


# --- figures of a configuration ---------------------------------------------------------------------------------------

def by_configuration(entries):
    """(router, experts, k, capacity_factor) -> its runs, ordered by seed."""
    groups = {}
    for entry in sorted(entries, key=lambda e: e["seed"]):
        key = (entry["router"], entry["experts"], entry["k"], entry["capacity_factor"])
        groups.setdefault(key, []).append(entry)
    return groups


def in_part(record, part):
    return by_configuration([e for e in record["runs"] if part in e["parts"]])


def accuracies(entries):
    return [100 * e["accuracy"] for e in entries]


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else None


def mean_of(entries, key):
    values = [e[key] for e in entries if e.get(key) is not None]
    return statistics.mean(values) if values else None


def layer_mean(entries, key):
    values = [layer[key] for e in entries for layer in e.get("layers") or [] if isinstance(layer.get(key), (int, float))]
    return statistics.mean(values) if values else None


def number(value, digits, factor=1.0, end=""):
    return "–" if value is None else f"{factor * value:.{digits}f}{end}"


def accuracy_text(entries):
    values = accuracies(entries)
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {deviation(values):.2f}"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in rows), ""]


def speed_of(record, entry):
    """Images per second of the configuration of a run, timed alone; None if it was not."""
    return (record.get("timing") or {}).get(entry["name"].rpartition("-s")[0], {}).get("images_per_s")


def speed_text(record, entry):
    """With the ratio to BASELINE at the same number of experts and equal compute."""
    speed = speed_of(record, entry)
    if speed is None:
        return "–"
    base = speed_of(record, {"name": BASELINE.format(experts=entry["experts"]) + "-s0"})
    return f"{speed:.0f}" + (f" ({speed / base:.2f})" if base else "")


def time_columns(record):
    """Heads of the columns that say how long training takes, and the cells of a configuration's runs.

    Where configurations were timed alone, nothing is said of the runs' own seconds.
    """
    if record.get("timing"):
        return ["images/s"], lambda entries: [speed_text(record, entries[0])]
    return (["training, s", "images/s"],
            lambda entries: [number(mean_of(entries, "train_seconds"), 0), number(mean_of(entries, "images_per_s"), 0)])


def routers_table(record, groups):
    heads, cells = time_columns(record)
    rows = []
    for (router, *_), entries in sorted(groups.items(), key=lambda g: -statistics.mean(accuracies(g[1]))):
        values = accuracies(entries)
        rows.append([f"`{router}`", entries[0]["family"], str(len(values)), accuracy_text(entries),
                     f"{min(values):.2f} – {max(values):.2f}" if len(values) > 1 else "–", *cells(entries),
                     number(mean_of(entries, "dropped"), 2, 100), number(layer_mean(entries, "unrouted"), 2, 100),
                     number(layer_mean(entries, "load_cv"), 3)])
    return table(["router", "family", "seeds", "accuracy, %", "lowest – highest", *heads, "dropped, %", "unrouted, %",
                  "load CV"], rows)


def ablation_table(record, groups):
    heads, cells = time_columns(record)
    rows = []
    for (router, experts, k, factor), entries in sorted(groups.items()):
        rows.append([f"`{router}`", str(experts), str(k) if k else "–", f"{factor:g}", f"{entries[0]['rows']:g}",
                     str(len(entries)), accuracy_text(entries), *cells(entries),
                     number(mean_of(entries, "dropped"), 2, 100), number(layer_mean(entries, "load_cv"), 3)])
    return table(["router", "E", "K", "capacity factor", "rows per token", "seeds", "accuracy, %", *heads, "dropped, %",
                  "load CV"], rows)


def about_times(record):
    """What the time columns are."""
    if not record.get("timing"):
        return "Training times are of runs that may have shared the machine: they compare little."
    setting = record["timing_setting"]
    return (f"Images/s: of training alone on the machine, {setting['threads']} threads, {setting['epochs']:g} epochs, median of "
            f"{setting['repeats']} repeats taken in turn; in brackets the ratio to `softmax_token_choice` (K = 2) at the same "
            f"E. {setting['machine']['cpu']}, {setting['machine']['cores']} cores, {setting['date']}, "
            f"command `{setting['command']}`.")


# --- verdicts ---------------------------------------------------------------------------------------------------------

def judge(above, below):
    """'above', 'below' or 'within' the spread of seeds, with the difference of means and that spread; values in points."""
    difference = statistics.mean(above) - statistics.mean(below)
    spread = statistics.stdev(above) + statistics.stdev(below)
    return ("within" if abs(difference) <= spread else "above" if difference > 0 else "below"), difference, spread


def class_means(groups, families):
    """seed -> mean accuracy of the routers of these families, for the seeds that all of them have."""
    chosen = [{e["seed"]: 100 * e["accuracy"] for e in entries} for entries in groups.values()
              if entries[0]["family"] in families]
    seeds = set.intersection(*(set(c) for c in chosen)) if chosen else set()
    return {seed: statistics.mean(c[seed] for c in chosen) for seed in sorted(seeds)}


def verdict(groups, expected, above, below):
    """One paragraph: do the families `above` beat the families `below` here? expected: routers that a whole study has."""
    found = {router for router, *_ in groups}
    missing = [router for router in expected if router not in found]
    if missing:
        return f"No verdict yet: {', '.join(f'`{r}`' for r in missing)} not run."
    first, second = class_means(groups, above), class_means(groups, below)
    seeds = sorted(set(first) & set(second))
    if len(seeds) < 2:
        return f"No verdict: {len(seeds)} seed{'s' if len(seeds) != 1 else ''} of all routers, and a spread needs two or more."
    word, difference, spread = judge([first[s] for s in seeds], [second[s] for s in seeds])
    said = {"above": "**Seen here too.**", "below": "**The opposite is seen here.**", "within": "**Not decided here.**"}[word]
    relation = "more than" if word != "within" else "not more than"
    pairs = {"above": 0, "below": 0, "within": 0}
    for a in groups.values():
        for b in groups.values():
            if a[0]["family"] in above and b[0]["family"] in below and min(len(a), len(b)) > 1:
                pairs[judge(accuracies(a), accuracies(b))[0]] += 1
    return (f"{said} The means of the two groups differ by {difference:+.2f} points, {relation} the spread of seeds "
            f"({spread:.2f} points; {len(seeds)} seeds). Router by router: {pairs['above']} of {sum(pairs.values())} pairs "
            f"as the paper says beyond the spread, {pairs['below']} the other way round, {pairs['within']} within it.")


CLAIMS = (
    ("Among sparse routers, expert choice is generally better than token choice.", ("expert choice",), ("token choice",)),
    ("Soft MoE is generally better than sparse MoE at a fixed compute budget.", ("soft",), ("expert choice", "token choice")),
)


# --- plots ------------------------------------------------------------------------------------------------------------

def marker(kind, x, y, size, colour, filled=True):
    fill = colour if filled else "#ffffff"
    style = f'fill="{fill}" stroke="{colour}" stroke-width="1.4"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {style}/>'
    if kind == "square":
        return f'<path d="M{x - size:.1f},{y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}Z" {style}/>'
    return f'<path d="M{x:.1f},{y - size - 1:.1f}l{size + 1},{2 * size + 1}h{-2 * size - 2}Z" {style}/>'


def label(x, y, text, anchor="middle", bold=False):
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{html.escape(text)}</text>'


def drawing(width, height, title, description, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{html.escape(title)}" font-family="system-ui, sans-serif" font-size="13" fill="#20242a">\n'
            f"<title>{html.escape(title)}</title>\n<desc>{html.escape(description)}</desc>\n"
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")


def bounds(values):
    """Ends and step of an axis of percentages around the values."""
    low, high = min(values), max(values)
    step = next(s for s in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 6)
    return (low // step) * step, -((-high // step) * step) if high > low else (low // step + 1) * step, step


def steps(low, high, step):
    return [low + i * step for i in range(round((high - low) / step) + 1)]


def spread_of(entries):
    values = accuracies(entries)
    middle, half = statistics.mean(values), deviation(values) or 0.0
    return middle - half, middle, middle + half


def routers_plot(parts_of_study):
    """Every seed hollow, the mean filled with a bar of a standard deviation; one block for each number of experts."""
    entries = [e for groups in parts_of_study.values() for own in groups.values() for e in own]
    ends = [v for groups in parts_of_study.values() for own in groups.values() for v in (*spread_of(own), *accuracies(own))]
    low, high, step = bounds(ends)
    width, left, right, y = 720, 200, 30, 20
    def x(value):
        return left + (value - low) / (high - low) * (width - left - right)
    drawn = []
    for title, groups in parts_of_study.items():
        drawn.append(label(12, y + 10, title, "start", bold=True))
        y += 20
        for (router, *_), own in sorted(groups.items(), key=lambda g: -statistics.mean(accuracies(g[1]))):
            colour, kind = STYLES[own[0]["family"]]
            y += 12
            drawn.append(f'<path d="M{left},{y}H{width - right}" stroke="#eeebe5"/>')
            drawn.append(label(left - 12, y + 4, router, "end"))
            below, middle, above = spread_of(own)
            if len(own) > 1:
                drawn.append(f'<path d="M{x(below):.1f},{y}H{x(above):.1f}" stroke="{colour}" stroke-width="2"/>')
                drawn += [marker(kind, x(v), y + 7, 2.5, colour, filled=False) for v in accuracies(own)]
            drawn.append(marker(kind, x(middle), y, 5, colour))
            y += 16
        y += 12
    grid = [f'<path d="M{x(t):.1f},24V{y}" stroke="#e2dfd8"/>' for t in steps(low, high, step)]
    drawn = grid + drawn + [label(x(t), y + 16, f"{t:g}") for t in steps(low, high, step)]
    drawn.append(label((left + width - right) / 2, y + 36, "test accuracy, %"))
    across = left
    for family in FAMILIES:
        drawn += [marker(STYLES[family][1], across, y + 56, 5, STYLES[family][0]), label(across + 10, y + 60, family, "start")]
        across += 130
    return drawing(width, y + 74, "Test accuracy of the six routers",
                   f"{len(entries)} runs. Filled marks are means, bars a standard deviation, hollow marks single seeds.", drawn)


def curves_plot(title, across, upward, curves):
    """curves: name -> (colour, marker, [(x, (below, middle, above))]); the values of x stand evenly, as doublings should."""
    xs = sorted({value for *_, points in curves.values() for value, _ in points})
    low, high, step = bounds([v for *_, points in curves.values() for _, own in points for v in own])
    width, height, left, right, top = 720, 396 + 22 * len(curves), 60, 30, 36
    bottom = 64 + 22 * len(curves)
    def x(value):
        return left + 30 + (xs.index(value) / max(1, len(xs) - 1)) * (width - left - right - 60)
    def y(value):
        return height - bottom - (value - low) / (high - low) * (height - bottom - top)
    drawn = []
    for t in steps(low, high, step):
        drawn += [f'<path d="M{left},{y(t):.1f}H{width - right}" stroke="#e2dfd8"/>', label(left - 8, y(t) + 4, f"{t:g}", "end")]
    every = -(-len(xs) // 12)  # more labels than that would touch
    drawn += [label(x(v), height - bottom + 20, f"{v:g}") for v in xs[::every]]
    drawn.append(label((left + width - right) / 2, height - bottom + 42, across))
    drawn.append(label(12, 14, upward, "start"))
    for i, (name, (colour, kind, points)) in enumerate(curves.items()):
        stroke = f'stroke="{colour}" stroke-width="2" fill="none" stroke-dasharray="{DASHES[i % 4]}"'
        path = "L".join(f"{x(v):.1f},{y(middle):.1f}" for v, (_, middle, _) in points)
        drawn.append(f'<path d="M{path}" {stroke}/>')
        for j, (v, (below, middle, above)) in enumerate(points):
            if j % every == 0:
                drawn.append(f'<path d="M{x(v):.1f},{y(below):.1f}V{y(above):.1f}" stroke="{colour}" stroke-width="1.5"/>')
                drawn.append(marker(kind, x(v), y(middle), 5, colour))
        key = height - bottom + 64 + 22 * i
        drawn += [f'<path d="M{left},{key}h44" {stroke}/>', marker(kind, left + 22, key, 5, colour),
                  label(left + 54, key + 4, name, "start")]
    return drawing(width, height, title, "; ".join(
        f"{name}: " + ", ".join(f"{v:g} {middle:.1f} %" for v, (_, middle, _) in points)
        for name, (*_, points) in curves.items()), drawn)


def lines_plot(title, across, lines):
    """lines: name -> (family, [(x, runs)])."""
    return curves_plot(title, across, "test accuracy, %", {
        name: (*STYLES[family], [(value, spread_of(own)) for value, own in points])
        for name, (family, points) in lines.items()})


def lines_of(groups, x_of, name_of):
    lines = {}
    for key, own in sorted(groups.items(), key=lambda g: x_of(g[1][0])):
        lines.setdefault(name_of(key), (own[0]["family"], []))[1].append((x_of(own[0]), own))
    return lines


# --- the document -----------------------------------------------------------------------------------------------------

def seeds_text(groups):
    counts = sorted({len(own) for own in groups.values()})
    if counts == [1]:
        return "One seed each: differences may be chance, and nothing is concluded."
    return f"{' to '.join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))} seeds each; ± is the standard deviation over them."


def commit_text(machine):
    if not machine["commit"]:
        return "not known"
    changes = " with uncommitted changes" if machine.get("uncommitted_changes") else ""
    program = f" (`vmoe` built from `{machine['program_commit'][:12]}`)" if machine.get("program_commit") else ""
    return f"`{machine['commit'][:12]}`{changes}{program}"


def introduction(record):
    setting, machine = record["setting"], record["machine"]
    model = next((e["model"] for e in record["runs"] if e.get("model")), {})
    size = ", ".join(f"{key} {model[key]}" for key in ("width", "blocks", "tokens") if key in model)
    lines = ["# Six routers at equal active compute", "",
             "The study of arXiv 2401.15969 (Liu, Blondel, Riquelme, Puigcerver) run again, small, on CIFAR-10. "
             "This page is written by `bench/experiments/router_study.py --report` from its record.", "",
             "Every router has room for two expert rows per token: token choice K = 2 with C = K S / E, expert choice "
             "C = 2 S / E, soft 2 S / E slots of an expert; the same in evaluation. S: tokens of one image, which share a "
             "capacity; E: experts.", "",
             f"- Model: {setting['preset']}{f' ({size})' if size else ''}; {setting['epochs']:g} epochs, batch {setting['batch']}.",
             f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['compiler']}; {setting['jobs']} run(s) at a time.",
             f"- Date {record['date']}, commit {commit_text(machine)}, command `{record['command']}`.",
             f"- {len(record['runs'])} of {record['planned']} planned runs are done."]
    if record["failed"]:
        lines.append(f"- Failed: {', '.join(f'`{name}`' for name in record['failed'])}.")
    return lines + [""]


def write(record, report, figures):
    """Writes the report and its plots; what has no run yet is left out and said to be."""
    figures.mkdir(parents=True, exist_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.relpath(figures, report.parent)

    def figure(name, svg, alternative):
        (figures / name).write_text(svg, encoding="utf-8")
        return [f"![{alternative}]({folder}/{name})".replace("](./", "]("), ""]

    lines = introduction(record)
    mains = {f"E = {e}": groups for e in (8, 32) if (groups := in_part(record, f"routers, E = {e}"))}
    expected = ("softmax_token_choice", "sinkhorn_token_choice", "softmax_expert_choice", "sinkhorn_expert_choice",
                "sparse_expert_choice", "soft")
    lines += ["## What the paper says, and what is seen here", ""]
    for claim, above, below in CLAIMS:
        lines += [f"- *{claim}*"]
        lines += [f"  - {title}: {verdict(groups, expected, above, below)}" for title, groups in mains.items()]
        if not mains:
            lines += ["  - No verdict yet: none of the runs that are compared is done."]
    lines += ["- *Many routers made for language models do well in vision.* Not tested here: there is no language model, "
              "and no comparison with other work's accuracy.", "",
              "A difference counts if it exceeds the spread of seeds, the sum of both sides' "
              "standard deviations: a rule of thumb, not a test of significance. The paper trains far larger models on "
              "JFT, so neither agreement nor disagreement here says much about those.", ""]
    if mains:
        lines += ["## Routers", ""] + figure("router-study-routers.svg", routers_plot(mains), "Test accuracy of the six routers")
        for title, groups in mains.items():
            lines += [f"### {title}", "", seeds_text(groups), "", *routers_table(record, groups)]
        lines += ["Dropped: share of the routes that found no slot (token choice). Unrouted: share of tokens that no expert "
                  "took. Load CV: standard deviation of the experts' load over its mean, mean of the layers.", "",
                  about_times(record), ""]
    ablations = (
        ("experts", "Number of experts", "experts of a layer", lambda e: e["experts"], lambda key: key[0]),
        ("capacity", "Capacity", "room for expert rows per token", lambda e: e["rows"],
         lambda key: f"{key[0]}, capacity factor" + (f" at K = {key[2]}" if key[2] else "")),
        ("k", "Experts of a token", "experts of a token (K)", lambda e: e["k"], lambda key: key[0]),
        ("slots", "Slots of soft routing", "slots per token", lambda e: e["rows"], lambda key: key[0]))
    for part, title, across, x_of, name_of in ablations:
        groups = in_part(record, part)
        if not groups:
            continue
        lines += [f"## {title}", ""]
        if len({x_of(own[0]) for own in groups.values()}) > 1:
            lines += figure(f"router-study-{part}.svg", lines_plot(f"Test accuracy by {across}", across,
                                                                   lines_of(groups, x_of, name_of)), f"Test accuracy by {across}")
        lines += [seeds_text(groups), "", *ablation_table(record, groups)]
    if record["missing"]:
        lines += [f"Not run yet: {', '.join(f'`{name}`' for name in record['missing'])}.", ""]
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
