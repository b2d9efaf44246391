#!/usr/bin/env python3
"""Checks the links of Markdown files that stay inside the project: the file is there, and so is the heading.

usage: check_links.py [ROOT]      (default: this repository)

Looked at are [text](target), ![text](target), [label]: target, and href="…" and src="…", outside of code; anchors are
made of headings as GitHub makes them. Links to other places are left alone. Hidden folders, build/ and runs/ are skipped.
"""

import pathlib
import re
import sys
import urllib.parse

SKIPPED = {"build", "runs"}
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
INLINE_CODE = re.compile(r"(`+).+?\1")
LINKS = [
    re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)"),
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)"),
    re.compile(r"\b(?:href|src)=\"([^\"]+)\""),
]
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
OWN_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*:|//)")


def outside_of_code(text):
    """(number, line) of the lines that are no code block."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if fence is None and found:
            fence = found.group(1)
        elif fence is not None:
            if found and found.group(1).startswith(fence):
                fence = None
        else:
            yield number, line


def slug(heading):
    """The anchor that GitHub gives a heading."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text):
    found, seen = set(), {}
    for _, line in outside_of_code(text):
        found.update(OWN_ANCHOR.findall(line))
        heading = HEADING.match(line)
        if heading:
            name = slug(heading.group(1))
            count = seen.get(name, 0)
            seen[name] = count + 1
            found.add(f"{name}-{count}" if count else name)
    return found


def check_file(path, root, known):
    """Violations in one file; `known` keeps the anchors of files that were looked at."""
    errors = []
    for number, line in outside_of_code(path.read_text(encoding="utf-8")):
        line = INLINE_CODE.sub("", line)
        for target in (match for link in LINKS for match in link.findall(line)):
            if SCHEME.match(target):
                continue
            where = f"{path.relative_to(root)}:{number}"
            name, _, anchor = urllib.parse.unquote(target).partition("#")
            goal = path if not name else (root / name[1:] if name.startswith("/") else path.parent / name)
            goal = goal.resolve()
            if not goal.exists():
                errors.append(f"{where}: there is no {target}")
            elif root not in goal.parents and goal != root:
                errors.append(f"{where}: {target} lies outside of the project")
            elif anchor and goal.suffix == ".md":
                if goal not in known:
                    known[goal] = anchors(goal.read_text(encoding="utf-8"))
                if anchor not in known[goal]:
                    errors.append(f"{where}: {goal.relative_to(root)} has no heading #{anchor}")
    return errors


def check(root):
    """All violations, one line each."""
    root, errors, known = root.resolve(), [], {}
    files = []
    for path in sorted(root.rglob("*.md")):
        parts = path.relative_to(root).parts
        if parts[0] not in SKIPPED and not any(part.startswith(".") for part in parts):
            files.append(path)
    for path in files:
        errors += check_file(path, root, known)
    if not files:
        errors.append(f"no Markdown files found in {root}")
    return errors


def main():
    default = pathlib.Path(__file__).resolve().parent.parent
    errors = check(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default)
    print("\n".join(errors) if errors else "links: no violations")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
