#!/usr/bin/env python3
"""check_links.py finds what it says it finds: each case is a small tree of files and the complaint it must cause."""

import pathlib
import tempfile
import unittest

import check_links


def errors_of(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return check_links.check(pathlib.Path(folder))


class CheckLinks(unittest.TestCase):
    def test_accepts_what_is_there(self):
        self.assertEqual([], errors_of({
            "README.md": "[design](docs/design.md#one-layer) ![p](docs/p.png) [me](#top) <a href=\"docs/design.md\">d</a>\n"
                         "[far](https://example.org/x#y) `[code](nowhere.md)`\n# Top\n[label]: docs\n",
            "docs/design.md": "# One layer\n[up](../README.md) [here](/README.md)\n```\n[code](nowhere.md)\n# no heading\n```\n",
            "docs/p.png": "",
            "build/notes.md": "[gone](gone.md)",
        }))

    def test_a_file_that_is_not_there(self):
        self.assertEqual(["a.md:2: there is no b.md"], errors_of({"a.md": "text\n[b](b.md)\n"}))
        self.assertEqual(["a.md:1: there is no b.png"], errors_of({"a.md": "![b](b.png \"title\")\n"}))
        self.assertEqual(["a.md:1: there is no b.md"], errors_of({"a.md": "[label]: b.md\n"}))
        self.assertEqual(["docs/a.md:1: there is no b.md"], errors_of({"docs/a.md": "<a href=\"b.md\">b</a>", "b.md": ""}))

    def test_a_heading_that_is_not_there(self):
        self.assertEqual(["a.md:1: b.md has no heading #two"], errors_of({"a.md": "[b](b.md#two)\n", "b.md": "# One\n"}))
        self.assertEqual(["a.md:2: a.md has no heading #b"], errors_of({"a.md": "# A\n[b](#b)\n"}))

    def test_outside(self):
        self.assertEqual(1, len(errors_of({"a.md": "[b](../..)\n"})))

    def test_anchors_are_those_of_github(self):
        self.assertEqual({"what-is-there", "what-is-there-1", "t--gs-tokens", "a_b-c", "own"},
                         check_links.anchors("# What is there?\n## What is there\n### T = G·S, tokens\n# `a_b` [c](d.md)\n"
                                             "<a id=\"own\"></a>\n"))

    def test_an_empty_folder_is_an_error(self):
        self.assertEqual(1, len(errors_of({"a.txt": ""})))


if __name__ == "__main__":
    unittest.main()
