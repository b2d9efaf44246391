#!/usr/bin/env python3
"""Checks that code in Markdown which is cut from a program is still what stands there.

usage: check_snippets.py [--write] [ROOT]      (default: this repository)

A block of code behind the line `<!-- cut: FILE SECTION -->` shows the lines of FILE between two comments `// [SECTION]`,
without the indentation that they share. --write puts them there.
"""

import pathlib
import re
import sys
import textwrap

BLOCK = re.compile(r"(<!-- cut: (\S+) (\S+) -->\n```\S*\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)


def section(path, name):
    """The lines between the two comments, or None."""
    parts = re.split(rf"^[ \t]*// \[{re.escape(name)}\].*\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return textwrap.dedent(parts[1]) if len(parts) == 3 else None


def check(root, write=False):
    """(violations, blocks that were looked at)."""
    errors, count = [], 0
    for page in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")]):
        text = page.read_text(encoding="utf-8")

        def renew(match):
            nonlocal count
            count += 1
            head, file, name, code, tail = match.groups()
            wanted = section(root / file, name) if (root / file).is_file() else None
            if wanted is None:
                errors.append(f"{page.relative_to(root)}: {file} has no section [{name}]")
            elif wanted != code and not write:
                errors.append(f"{page.relative_to(root)}: is not [{name}] of {file} as it stands: check_snippets.py --write")
            return head + (code if wanted is None else wanted) + tail

        renewed = BLOCK.sub(renew, text)
        if write and renewed != text:
            page.write_text(renewed, encoding="utf-8")
    return errors, count


def main():
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    root = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).resolve().parent.parent
    errors, count = check(root, "--write" in sys.argv)
    print("\n".join(errors) if errors else f"snippets: {count} as they stand in their programs")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
