#!/usr/bin/env python3
"""Builds the site: the Markdown pages and, by Doxygen, the API. Warnings and links that lead nowhere are errors.

usage: make_site.py --out DIR [--doxygen PROGRAM] [--version V]      (DIR/html/index.html is the first page)

Doxygen reads a copy of the tree (DIR/source) that is written as it wants it, line by line:
* Markdown: headings get the anchors that GitHub gives them, and links to pages become references to them, so that a page
  reads the same there and on the site. Of links to other files of the project only the text stays.
* Headers: what is indented in a comment, behind an empty line or a colon, becomes a block of code; a comment in front of a
  namespace or a directive is that of the file.
"""

import argparse
import html.parser
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import check_links

ROOT = pathlib.Path(__file__).resolve().parent.parent
# a link, whose words may be code, or code, which may look like a link
LINK = re.compile(r"(!?)\[((?:[^\]`]|`[^`]*`)*)\]\(([^)\s]+)\)|`[^`]+`")
CODE = re.compile(r"^(\s*///)(\s{2,}\S.*)$")
COMMENT = re.compile(r"^\s*///(?!<)(.*)$")


def page_id(name):
    """`docs/policies/gates.md` is the page `policies_gates`."""
    parts = pathlib.PurePosixPath(name).with_suffix("").parts
    if parts == ("README",):
        return "index"
    return "_".join(parts[1:] if parts[0] == "docs" and len(parts) > 1 else ("project", *parts))


def stage_page(name, text, pages):
    """The Markdown file `name` (its path in the project) for Doxygen; pages: the names of all."""
    lines, page, seen = text.splitlines(), page_id(name), {}

    def link(match):
        image, words, target = match.groups()
        if target is None or check_links.SCHEME.match(target):
            return match.group(0)
        file, _, anchor = target.partition("#")
        goal = name
        if file:
            parts = []
            for part in (pathlib.PurePosixPath(name).parent / file).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            goal = "/".join(parts)
        if image:
            return f"![{words}]({pathlib.PurePosixPath(goal).name})"
        if goal not in pages:
            return words
        return f"[{words.replace('`', '')}](@ref {page_id(goal)}{'-' + anchor if anchor else ''})"

    for number, line in check_links.outside_of_code(text):
        if line.startswith("    "):
            continue
        heading = check_links.HEADING.match(line)
        line = LINK.sub(link, line)
        if heading:
            slug = check_links.slug(heading.group(1))
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchor = f"{page}-{slug}" + (f"-{count}" if count else "")
            line = f"{line} {{#{page if number == 1 and page != 'index' else anchor}}}"
        lines[number - 1] = line
    return "\n".join("```cpp" if line == "```c++" else line for line in lines) + "\n"  # the name that Doxygen knows


def stage_header(text):
    """A header for Doxygen."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if (not line or line.startswith(("namespace ", "#"))) and at > 0 and lines[at - 1].startswith("///"):
            first = at - 1
            while first > 0 and COMMENT.match(lines[first - 1]):
                first -= 1
            if first > 0 and not lines[first - 1]:
                lines[first - 1] = "/// @file"
    at = 1
    while at < len(lines):
        before = COMMENT.match(lines[at - 1])
        opens = before and (not before.group(1).strip() or before.group(1).rstrip().endswith(":"))
        if not (opens and CODE.match(lines[at])):
            at += 1
            continue
        last = at
        while last + 1 < len(lines) and CODE.match(lines[last + 1]):
            last += 1
        indent = re.match(r" *", CODE.match(lines[at]).group(2)).end()
        lines[at - 1] += " @code{.cpp}"
        for i in range(at, last + 1):
            prefix, code = CODE.match(lines[i]).groups()
            lines[i] = f"{prefix} {code[min(indent, re.match(r' *', code).end()):]}"
        lines[last] += " @endcode"
        at = last + 1
    return "\n".join(lines) + "\n"


def stage(root, out):
    """Copies what Doxygen reads; returns the pages."""
    pages = [p.relative_to(root).as_posix() for p in [root / "README.md", root / "CONTRIBUTING.md", *root.glob("docs/**/*.md")]]
    for name in pages:
        # two files called README.md would be two first pages
        to = out / (name if name == "README.md" else name.replace("README.md", "pages.md"))
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(stage_page(name, (root / name).read_text(encoding="utf-8"), pages), encoding="utf-8")
    for path in root.glob("include/moxie/**/*.hpp"):
        to = out / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(stage_header(path.read_text(encoding="utf-8")), encoding="utf-8")
    if (root / "docs/images").is_dir():
        shutil.copytree(root / "docs/images", out / "docs/images")
    return pages


class Page(html.parser.HTMLParser):
    """Names that can be linked to, and links, of a page of the site."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("id", "name") and value:
                self.names.add(value)
            if value and (key, tag) in {("href", "a"), ("src", "img")}:
                self.links.append(value)


def broken_links(site):
    """Links between pages of the site that lead nowhere, one line each."""
    pages = {path.name: Page(path) for path in sorted(site.glob("*.html"))}
    errors = []
    for name, page in pages.items():
        for target in page.links:
            # Doxygen's own link to a section that it leaves out where all nested classes are private
            if check_links.SCHEME.match(target) or target == "#nested-classes":
                continue
            file, _, anchor = urllib.parse.unquote(target).partition("#")
            file = file or name
            if not (site / file).exists():
                errors.append(f"{name}: there is no {target}")
            elif anchor and file in pages and anchor not in pages[file].names:
                errors.append(f"{name}: {file} has no #{anchor}")
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--doxygen", default="doxygen")
    parser.add_argument("--version", default="")
    options = parser.parse_args()
    out = options.out.resolve()
    for part in ("source", "html"):
        shutil.rmtree(out / part, ignore_errors=True)
    pages = stage(ROOT, out / "source")
    settings = f'@INCLUDE = "{ROOT}/docs/Doxyfile"\nOUTPUT_DIRECTORY = "{out}"\nPROJECT_NUMBER = {options.version}\n'
    ran = subprocess.run([options.doxygen, "-"], input=settings, text=True, cwd=out / "source",
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ran.returncode != 0:
        sys.exit(ran.stdout.replace(f"{out}/source/", "").strip() + f"\nmake_site: Doxygen ended with {ran.returncode}")
    errors = broken_links(out / "html")
    errors += [f"{name}: is no page of the site" for name in pages
               if not any((out / "html" / f"{page}{page_id(name)}.html").exists() for page in ("", "md_"))]
    if errors:
        sys.exit("\n".join(errors))
    print(f"site: {out}/html/index.html: {len(pages)} pages and the API, no warnings, no broken links")


if __name__ == "__main__":
    main()
