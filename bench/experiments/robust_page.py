"""The report of robust.py: Markdown with tables, plots in SVG, and for each claim of the paper what the record says of it.

Means over seeds are compared; a difference is decided if it exceeds the spread of seeds (study_page.judge).
"""

import os
import statistics

from prc_page import difference_text, enough, spread, with_spread
from study_page import commit_text, curves_plot, judge, table

KINDS = {  # kind: name, colour, marker
    "standard": ("standard", "#6a6f78", "circle"),
    "adversarial": ("adversarial training", "#0072b2", "square"),
    "trades": ("TRADES", "#9a6a00", "diamond"),
    "rt_er": ("RT-ER, second expert", "#b9510a", "triangle"),
    "rt_er_all": ("RT-ER, all experts", "#8a3f8f", "circle"),
    "separate": ("dual, trained separately", "#007a5a", "square"),
    "jtdmoe": ("JTDMoE", "#c2185b", "triangle")}
MARKERS = ("circle", "square", "triangle")
# CIFAR-10, 4 ResNet-18 experts, eps 8/255, in %: what is published of it, and who says so.
PUBLISHED = [
    ("standard mixture: RA-R / RA-E", "> 50 / < 4", "page of the paper"),
    ("adversarial training: RA", "about 54", "page of the paper"),
    ("RT-ER: SA, RA (PGD-50), RA-E, RA-R", "77.81, 69.09, 75.71, 72.28", "an independent audit's reading"),
    ("RT-ER: RA (AutoAttack), with SA 75.92", "54.36", "an independent audit's reading"),
    ("JTDMoE against the separately trained dual model: RA (AutoAttack)", "+ about 20, SA also up", "page of the paper"),
    ("re-run of the released RT-ER script: SA, RA", "34.2, 32.7", "an independent audit")]


def margins_of(figures):
    """Mean clean margin of each class, of one `vmoe attack`."""
    return [m["clean"] if isinstance(m, dict) else m for m in figures.get("margins", [])]


def by_kind(record):
    groups = {}
    for entry in sorted(record["runs"], key=lambda e: e["seed"]):
        groups.setdefault(entry["kind"], []).append(entry)
    return groups


def values(groups, kind, key):
    return [e[key] for e in groups.get(kind, []) if e.get(key) is not None]


def jumps(entry):
    """Mean change of RA from one evaluation to the next, over the second half of the training; None with fewer than three."""
    ra = [point[2] for point in entry["curve"]]
    late = ra[len(ra) // 2:]
    return statistics.mean(abs(b - a) for a, b in zip(late, late[1:])) if len(late) > 2 else None


def largest_bound(entry):
    bounds = [b for layer in entry["lipschitz"] for b in layer]
    return max(bounds) if bounds else None


def derived(groups, kind, value):
    return [v for v in map(value, groups.get(kind, [])) if v is not None]


# --- the claims -------------------------------------------------------------------------------------------------------

def higher(ours, theirs, unit_text=difference_text):
    """Whether ours is higher: verdict and numbers."""
    if missing := enough(ours, theirs):
        return missing
    word, difference, _ = judge(ours, theirs)
    said = ("**Holds.**" if word == "above" else "**Holds in the mean, not decided.**" if difference > 0
            else "**Not seen, not decided.**" if word == "within" else "**Does not hold.**")
    return f"{said} {unit_text(ours, theirs)}."


def lower_text(theirs, ours):
    return f"{statistics.mean(ours):.3g} against {statistics.mean(theirs):.3g}"


def lower(ours, theirs):
    return higher(theirs, ours, lower_text)


def not_lower(ours, theirs):
    if missing := enough(ours, theirs):
        return missing
    word, difference, _ = judge(ours, theirs)
    said = "**Holds.**" if difference >= 0 else "**Lower in the mean, not decided.**" if word == "within" else "**Does not hold.**"
    return f"{said} {difference_text(ours, theirs)}."


def every_margin(groups):
    ours, theirs = ([e["margins"] for e in groups.get(kind, []) if e["margins"]] for kind in ("jtdmoe", "separate"))
    if missing := enough(ours, theirs):
        return missing
    means = [[statistics.mean(column) for column in zip(*own)] for own in (ours, theirs)]
    larger = sum(a > b for a, b in zip(*means))
    return f"{'**Holds.**' if larger == len(means[0]) else '**Does not hold.**'} The margin is larger in {larger} of {len(means[0])} classes."


def claims(record):
    groups = by_kind(record)
    of = lambda kind, key: values(groups, kind, key)
    checks = [
        ("Experts are the weak part of the standard model: RA-E is far below RA-R.", higher(of("standard", "ra_r"), of("standard", "ra_e"))),
        ("RT-ER is above adversarial training in RA (PGD-50).", higher(of("rt_er", "ra"), of("adversarial", "ra"))),
        ("... and under AutoAttack.", higher(of("rt_er", "auto_ra"), of("adversarial", "auto_ra"))),
        ("RT-ER makes the experts robust: RA-E is above that of adversarial training.", higher(of("rt_er", "ra_e"), of("adversarial", "ra_e"))),
        ("RT-ER trains more steadily: RA jumps less between evaluations.",
         lower(derived(groups, "rt_er", jumps), derived(groups, "adversarial", jumps))),
        ("RT-ER lowers the Lipschitz bounds of the experts.",
         lower(derived(groups, "rt_er", largest_bound), derived(groups, "adversarial", largest_bound))),
        ("The same of RT-ER with all experts: RA (PGD-50) above adversarial training,", higher(of("rt_er_all", "ra"), of("adversarial", "ra"))),
        ("... fewer jumps,", lower(derived(groups, "rt_er_all", jumps), derived(groups, "adversarial", jumps))),
        ("... lower Lipschitz bounds.", lower(derived(groups, "rt_er_all", largest_bound), derived(groups, "adversarial", largest_bound))),
        ("JTDMoE is above the separately trained dual model in RA (AutoAttack).", higher(of("jtdmoe", "auto_ra"), of("separate", "auto_ra"))),
        ("... its clean accuracy is not lower,", not_lower(of("jtdmoe", "sa"), of("separate", "sa"))),
        ("... and its margins are larger in every class.", every_margin(groups))]
    return ["## Claims of the paper, and what is seen here", "", *(f"- *{claim}* {verdict}" for claim, verdict in checks), "",
            "A difference counts as decided if it exceeds the spread of seeds, the sum of both sides' standard deviations: with this few "
            "seeds a rule of thumb, not a test of significance.", ""]


# --- tables and plots -------------------------------------------------------------------------------------------------

def certified(entries):
    """Of the smallest radius at which shares were certified, over the seeds."""
    known = [[r for r in e["radii"] if r.get("certified") is not None] for e in entries]
    if not all(known):
        return "–"
    return f"{with_spread([100 * own[0]['certified'] for own in known], 1)} at {255 * known[0][0]['linf']:g}/255"


def results_table(record):
    groups, rows = by_kind(record), []
    for kind, (name, *_) in KINDS.items():
        own = groups.get(kind)
        if not own:
            continue
        columns = [with_spread(values(groups, kind, key)) for key in ("sa", "ra", "ra_e", "ra_r", "auto_sa", "auto_ra")]
        bounds = derived(groups, kind, largest_bound)
        rows.append([name, str(len(own)), *columns, certified(own), f"{statistics.mean(bounds):.3g}" if bounds else "–",
                     with_spread(derived(groups, kind, jumps))])
    return table(["trained by", "seeds", "SA, %", "RA (PGD-50), %", "RA-E, %", "RA-R, %", "SA of AutoAttack's images, %", "RA (AutoAttack), %",
                  "certified, %", "largest Lipschitz bound of an expert", "jumps of RA, points"], rows)


def margins_table(record):
    groups, rows = by_kind(record), []
    for kind, (name, *_) in KINDS.items():
        own = [e["margins"] for e in groups.get(kind, []) if e["margins"]]
        if own:
            rows.append([name, *(f"{statistics.mean(column):.2f}" for column in zip(*own))])
    return table(["mean clean margin of class", *(str(c) for c in range(len(rows[0]) - 1))], rows) if rows else []


def curves(record):
    """RA of the test images that each evaluation attacks, by epoch."""
    drawn, groups = {}, by_kind(record)
    for kind, (name, colour, _) in KINDS.items():
        runs_of = [e["curve"] for e in groups.get(kind, []) if e["curve"]]
        if runs_of:
            points = zip(*runs_of)
            drawn[name] = (colour, MARKERS[len(drawn) % 3], [(p[0][0], spread([own[2] for own in p])) for p in points])
    return drawn


def sweeps(record):
    drawn, groups = {}, by_kind(record)
    for kind in ("separate", "jtdmoe"):
        own = [e["sweep"] for e in groups.get(kind, []) if e["sweep"]]
        for key in ("sa", "ra") if own else ():
            name, colour, _ = KINDS[kind]
            drawn[f"{name}: {key.upper()}"] = (colour, "circle" if key == "sa" else "square", [
                (p[0]["alpha"], spread([point[key] for point in p])) for p in zip(*own)])
    return drawn


def introduction(record):
    s, machine = record["setting"], record["machine"]
    model = next((e["model"] for e in record["runs"] if e.get("model")), {})
    lines = ["# Robust mixtures of experts on CIFAR-10", "",
             "What is trained: [rt_er.md](rt_er.md). This page is written by `bench/experiments/robust.py --report` from its record.", "",
             f"- Model: 4 experts, residual networks of {s['widths']} channels, no norm, K = 1"
             f"{', ' + str(model['parameters']) + ' parameters' if 'parameters' in model else ''}; a dual model has two of them.",
             f"- {s['train']} images of each class to train, {s['test']} to test; {s['epochs']:g} epochs of batches of {s['batch']}, the same "
             "number of steps for every method (the separate dual model has two such trainings, JTDMoE one of both models).",
             f"- ε {record['eps']}; PGD with 10 steps in training, 50 when measured ({s['pgd']} images); AutoAttack on {s['auto']} images. RA-E and "
             "RA-R by their isolated definition.",
             f"- Seeds {', '.join(str(x) for x in s['seeds'])}. Machine: {machine['cpu']}, {machine['cores']} cores, {machine['compiler']}; "
             f"{s['jobs']} run(s) at a time.",
             f"- Date {record['date']}, commit {commit_text(machine)}, command `{record['command']}`.",
             f"- {record['done']} of {record['planned']} planned runs and measurements are done."]
    if record["failed"]:
        lines.append(f"- Failed: {', '.join(f'`{name}`' for name in record['failed'])}.")
    return lines + [""]


def write(record, report, figures):
    """Writes the report and its plots; what has no run yet is left out."""
    figures.mkdir(parents=True, exist_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.relpath(figures, report.parent)
    lines = introduction(record) + claims(record) + ["## Results", "", *results_table(record), *margins_table(record)]
    for name, title, across, drawn in (
            ("curve", "RA of some test images while training", "epoch", curves(record)),
            ("alpha", "SA and RA of dual models", "α, the weight of the robust model", sweeps(record))):
        if drawn:
            (figures / f"robust-{name}.svg").write_text(curves_plot(title, across, "%", drawn), encoding="utf-8")
            lines += [f"![{title}]({folder}/robust-{name}.svg)".replace("](./", "]("), ""]
    lines += ["## Published numbers", "", *table(["CIFAR-10, 4 ResNet-18 experts", "%", "source"], [list(row) for row in PUBLISHED]),
              "The scales differ: here far smaller experts see a small part of CIFAR-10 for a few epochs. Only the sign of a difference "
              "compares, and neither agreement nor disagreement says much about those models.", ""]
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
