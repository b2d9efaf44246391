"""The report of prc.py: Markdown with tables, plots in SVG, and for each goal whether it was met, all from the record.

Means over seeds are compared. A difference is said to exceed the spread of seeds where it exceeds the sum of the sample standard
deviations of both sides. With fewer than two seeds on a side nothing is said.
"""

import os
import statistics

from study_page import commit_text, curves_plot, judge, layer_mean, mean_of, number, table

KINDS = {  # kind: name, colour, marker; told apart without colour too
    "none": ("no auxiliary loss", "#6a6f78", "circle"),
    "balance": ("importance + load losses", "#0072b2", "square"),
    "views": ("two views, no auxiliary loss", "#8a4f9e", "square"),
    "matrix": ("PRC, diagonal of the matrix", "#b9510a", "triangle"),
    "position": ("PRC, diagonal by position", "#007a5a", "circle")}
BASELINES, PRC = ("views", "none", "balance"), ("matrix", "position")
ONE_EXPERT = 1.5  # load CV from which few experts have most of the tokens; all on one of E: sqrt(E - 1)
# V-MoE-S/32, E = 8, pre-trained on ImageNet-1k and fine-tuned; accuracy in %, from the page of the paper. Columns: K; ImageNet-1k,
# CIFAR-10, CIFAR-100, Flowers-102.
PUBLISHED = {("V-MoE-S", 2): (75.84, 95.20, 81.38, 89.30), ("V-MoE-S + PRC", 2): (76.27, 95.36, 82.27, 90.18),
             ("V-MoE-S", 1): (75.23, 94.81, 81.18, 90.21), ("V-MoE-S + PRC", 1): (75.92, 95.12, 82.12, 91.24)}


def finals(record):
    """(kind, k) -> its final runs by seed."""
    groups = {}
    for entry in sorted(record["runs"], key=lambda e: e["seed"]):
        if entry["stage"] == "final":
            groups.setdefault((entry["kind"], entry["k"]), []).append(entry)
    return groups


def measured(entries):
    return [e["stability"] for e in entries if e["stability"]]


def percents(values):
    return [100 * v for v in values]


def accuracies(entries):
    return percents(e["accuracy"] for e in entries)


def changes(entries, level):
    """Routing change in % at a level of noise, one for each run that was measured."""
    return percents(s["levels"][level]["iou"] for s in measured(entries))


def mean_changes(entries):
    """The mean of the levels with noise, likewise."""
    return percents(statistics.mean(level["iou"] for level in s["levels"][1:]) for s in measured(entries))


def spread(values):
    middle, half = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    return max(0.0, middle - half), middle, middle + half  # of shares: none is below 0


def with_spread(values, digits=2):
    values = list(values)
    if not values:
        return "–"
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


# --- the goals --------------------------------------------------------------------------------------------------------

def enough(*groups):
    """What is missing for a verdict, or "" ."""
    fewest = min(len(g) for g in groups)
    return "" if fewest > 1 else f"No verdict: {fewest} seed{'s' if fewest != 1 else ''} of one side, and a spread needs two or more."


def difference_text(above, below):
    word, difference, seeds = judge(above, below)
    relation = "not more than" if word == "within" else "more than"
    return f"{difference:+.2f} points, {relation} the spread of seeds ({seeds:.2f})"


def routes_verdict(groups, prc, baseline, k):
    """PRC lowers the routing change at every noise level."""
    ours, theirs = groups.get((prc, k), []), groups.get((baseline, k), [])
    if missing := enough(measured(ours), measured(theirs)):
        return missing
    levels = range(1, len(measured(ours)[0]["levels"]))
    judged = [judge(changes(theirs, j), changes(ours, j)) for j in levels]
    lower = sum(difference > 0 for _, difference, _ in judged)
    beyond = sum(word == "above" for word, *_ in judged)
    said = ("**Not met.**" if lower < len(judged) else
            "**Met.**" if beyond == len(judged) else "**Met in the mean, not decided.**")
    load = layer_mean(ours, "load_cv")
    few = (f" But most tokens go to few experts (load CV {load:.2f}), so there is little that could change."
           if load is not None and load > ONE_EXPERT else "")
    return (f"{said} The routing change is lower at {lower} of {len(judged)} levels, at {beyond} by more than the spread of "
            f"seeds; mean of the levels {statistics.mean(mean_changes(ours)):.2f} % against {statistics.mean(mean_changes(theirs)):.2f} %.{few}")


def accuracy_verdict(groups, prc, baseline, k):
    """Accuracy is higher."""
    ours, theirs = groups.get((prc, k), []), groups.get((baseline, k), [])
    if missing := enough(ours, theirs):
        return missing
    word, difference, _ = judge(accuracies(ours), accuracies(theirs))
    said = "**Met.**" if word == "above" else "**Met in the mean, not decided.**" if difference > 0 else "**Not met.**"
    return f"{said} {difference_text(accuracies(ours), accuracies(theirs))}."


def one_expert_verdict(groups, prc, baseline):
    """K = 1 with PRC at least equals K = 2 without."""
    ours, theirs = groups.get((prc, 1), []), groups.get((baseline, 2), [])
    if missing := enough(ours, theirs):
        return missing
    word, difference, _ = judge(accuracies(ours), accuracies(theirs))
    said = "**Not met.**" if difference < 0 else "**Met in the mean, not decided.**" if word == "within" else "**Met.**"
    return f"{said} {difference_text(accuracies(ours), accuracies(theirs))}."


def name_of(kind):
    return KINDS[kind][0]


def goals(record):
    groups = finals(record)
    lines = ["## Goals, and what is seen here", ""]
    for title, verdict in (("PRC lowers the routing change at every noise level.", routes_verdict),
                           ("Accuracy is higher with PRC.", accuracy_verdict)):
        lines.append(f"- *{title}*")
        lines += [f"  - K = {k}, {name_of(prc)}, against {name_of(baseline)}: {verdict(groups, prc, baseline, k)}"
                  for k in (1, 2) for prc in PRC for baseline in BASELINES]
    lines.append("- *K = 1 with PRC at least equals K = 2 without.*")
    lines += [f"  - {name_of(prc)}, against {name_of(baseline)}: {one_expert_verdict(groups, prc, baseline)}"
              for prc in PRC for baseline in BASELINES]
    return lines + ["", "A difference counts as decided if it exceeds the spread of seeds, the sum of both sides' standard "
                    "deviations: a rule of thumb, not a test of significance. Routes that went to one expert would not change "
                    "either: the load CV below tells (0: balance; at most √(E - 1)).", ""]


# --- tables and plots -------------------------------------------------------------------------------------------------

def results_table(record):
    rows = []
    for (kind, k), own in sorted(finals(record).items(), key=lambda g: (g[0][1], list(KINDS).index(g[0][0]))):
        seen = measured(own)
        views = [with_spread(percents(s[view]["iou"] for s in seen)) for view in ("crop", "flip", "pgd")]
        rows.append([name_of(kind), str(k), str(len(own)), with_spread(accuracies(own)), with_spread(mean_changes(own)),
                     with_spread(changes(own, -1)), *views, with_spread((s["discontinuities"] for s in seen), 3),
                     with_spread(percents(s["pgd"]["accuracy"] for s in seen)),
                     number(layer_mean(own, "load_cv"), 3), number(mean_of(own, "dropped"), 2, 100)])
    return table(["trained with", "K", "seeds", "accuracy, %", "routing change, mean of levels, %", "... at the last level, %",
                  "... crop, %", "... flip, %", "... PGD, %", "discontinuities of an image", "accuracy under PGD, %", "load CV",
                  "dropped, %"], rows)


def curves(record, k, value):
    """Of the kinds at this K: value(level) in %, by the level's sigma."""
    drawn = {}
    for kind, (name, colour, kind_marker) in KINDS.items():
        seen = measured(finals(record).get((kind, k), []))
        if seen:
            drawn[name] = (colour, kind_marker, [
                (level["sigma"], spread(percents(value(s["levels"][j]) for s in seen)))
                for j, level in enumerate(seen[0]["levels"])])
    return drawn


def sweep_section(record):
    lines = ["## The choice of weights", "",
             f"Short runs ({record['setting']['sweep_epochs']:g} epochs of inputs, seeds "
             f"{', '.join(str(s) for s in record['setting']['sweep_seeds'])}, K = 1 and 2). Of those whose mean accuracy is not below "
             "the best by more than a standard deviation over the seeds, the one whose routes change least was taken; the load has no say in it. "
             "The archive has "
             "no images to validate with, so both were measured on test images; the final runs have other seeds.", ""]
    if record["choice"] is None:
        return lines + ["The sweep is not done yet.", ""]
    rows = []
    for diagonal, own in record["choice"].items():
        for name, means in own["candidates"].items():
            chosen = name == own["chosen"]
            entries = [e for e in record["runs"] if e["stage"] == "sweep" and weights_name(e) == name]
            of = entries[0]["weights"]
            rows.append([diagonal, f"{of['prc'] * of['lambda_d']:g}", f"{of['prc'] * of['lambda_o']:g}", number(means["accuracy"], 2, 100),
                         number(means["change"], 2, 100), number(layer_mean(entries, "load_cv"), 2),
                         number(own["tolerance"], 2, 100), "**yes**" if chosen else ""])
    return lines + table(["diagonal", "λ_d", "λ_o", "accuracy, %", "routing change, %", "load CV", "tolerance, points", "taken"], rows)


def weights_name(entry):
    return entry["name"].removeprefix("sweep-").rpartition("-k")[0]


def published_table(record):
    groups, rows = finals(record), []
    for (model, k), values in PUBLISHED.items():
        rows.append([model, str(k), *(f"{v:.2f}" for v in values), "–"])
    for k in (2, 1):
        rows += [[f"here: {name_of(kind)}", str(k), "–", "–", "–", "–", with_spread(accuracies(groups[kind, k]))]
                 for kind in KINDS if (kind, k) in groups]
    return table(["model", "K", "ImageNet-1k", "CIFAR-10", "CIFAR-100", "Flowers-102", "CIFAR-10 from scratch, here"], rows)


def introduction(record):
    setting, machine = record["setting"], record["machine"]
    model = next((e["model"] for e in record["runs"] if e.get("model")), {})
    size = ", ".join(f"{key} {model[key]}" for key in ("width", "blocks", "tokens", "parameters") if key in model)
    done = sum(e["stage"] == "final" for e in record["runs"])
    lines = ["# Pairwise Router Consistency on CIFAR-10", "",
             "What it is: [prc.md](prc.md). This page is written by `bench/experiments/prc.py --report` from its record.", "",
             f"- Model: {setting['preset']}{f' ({size})' if size else ''}, E = 8; {setting['epochs']:g} epochs of inputs, "
             f"{setting['batch']} inputs a step. Two views of an image are two inputs, so all runs have seen as many inputs and taken as "
             "many steps, those with views each image half as often. What the loss itself does is the difference of PRC to the views "
             "without it.",
             f"- Seeds {', '.join(str(s) for s in setting['seeds'])}. Machine: {machine['cpu']}, {machine['cores']} cores, "
             f"{machine['compiler']}; {setting['jobs']} run(s) at a time.",
             f"- Measured on {setting['images']} test images: Gaussian noise up to σ = 0.25 (pixels from 0 to 1) in {setting['levels']} "
             f"levels, one direction an image; a crop, a flip, and PGD (ε = {255 * record['pgd_eps']:g}/255, {setting['pgd_steps']} "
             "steps). Nothing is dropped then.",
             f"- Date {record['date']}, commit {commit_text(machine)}, command `{record['command']}`.",
             f"- {len(record['runs'])} of {record['planned']} planned runs are done, {done} of them final."]
    if record["failed"]:
        lines.append(f"- Failed: {', '.join(f'`{name}`' for name in record['failed'])}.")
    return lines + [""]


def write(record, report, figures):
    """Writes the report and its plots; what has no run yet is left out and said to be."""
    figures.mkdir(parents=True, exist_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.relpath(figures, report.parent)
    lines = introduction(record) + goals(record)
    lines += ["## Results", ""]
    if finals(record):
        lines += results_table(record)
        lines += ["Routing change: 1 - intersection over union of the experts that serve a token, mean of tokens, images and MoE layers "
                  "(V-MoE's definition), against the image without noise. ±: standard deviation over the seeds.", ""]
    else:
        lines += ["No final run is done yet.", ""]
    for k in (1, 2):
        for name, title, value in (("routes", "Routing change", lambda level: level["iou"]),
                                   ("probability", "Probability of the true class", lambda level: level["true_class_probability"])):
            if drawn := curves(record, k, value):
                file = f"prc-{name}-k{k}.svg"
                svg = curves_plot(f"{title} along Gaussian noise, K = {k}", "standard deviation of the noise", f"{title.lower()}, %", drawn)
                (figures / file).write_text(svg, encoding="utf-8")
                lines += [f"![{title} along Gaussian noise, K = {k}]({folder}/{file})".replace("](./", "]("), ""]
    lines += sweep_section(record)
    lines += ["## The published table", "", *published_table(record),
              "The scales differ: the published models (V-MoE-S/32, 8 blocks, width 512) were pre-trained on ImageNet-1k at 224 pixels for "
              "300 epochs with RandAugment and then fine-tuned at 384 or 128 pixels, with seeds that are not stated. Here a far smaller "
              "model is trained on CIFAR-10 alone, at 32 pixels, for a few epochs. So only the sign of a difference compares, and "
              "neither agreement nor disagreement here says much about those models.", ""]
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
