#!/usr/bin/env python3
"""check_snippets.py finds a block that differs from its program, and mends it."""

import pathlib
import tempfile
import unittest

import check_snippets

PAGE = "text\n<!-- cut: a.cpp one -->\n```c++\n{}```\nmore\n"
PROGRAM = "int main() {\n  // [one]\n  f();\n    g();\n  // [one]\n}\n"


class CheckSnippets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "a.cpp").write_text(PROGRAM, encoding="utf-8")

    def page(self, code):
        (self.root / "a.md").write_text(PAGE.format(code), encoding="utf-8")

    def test_accepts_what_stands_there(self):
        self.page("f();\n  g();\n")
        self.assertEqual(([], 1), check_snippets.check(self.root))

    def test_finds_and_mends_what_differs(self):
        self.page("f();\n")
        errors, _ = check_snippets.check(self.root)
        self.assertIn("a.md: is not [one] of a.cpp", errors[0])
        self.assertEqual(([], 1), check_snippets.check(self.root, write=True))
        self.assertEqual(PAGE.format("f();\n  g();\n"), (self.root / "a.md").read_text(encoding="utf-8"))

    def test_a_section_that_is_not_there(self):
        self.page("f();\n")
        (self.root / "a.cpp").write_text("// [one]\n", encoding="utf-8")
        self.assertEqual(["a.md: a.cpp has no section [one]"], check_snippets.check(self.root)[0])


if __name__ == "__main__":
    unittest.main()
