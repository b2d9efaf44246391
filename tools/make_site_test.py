#!/usr/bin/env python3
"""make_site.py: what Doxygen gets to read, and links of a site that lead nowhere."""

import pathlib
import tempfile
import unittest

import make_site

PAGES = ["README.md", "docs/a.md", "docs/policies/README.md", "docs/policies/b.md"]


class StagePage(unittest.TestCase):
    def staged(self, text, name="docs/policies/b.md"):
        return make_site.stage_page(name, text, PAGES)

    def test_headings_have_the_anchors_of_github(self):
        self.assertEqual("# B {#policies_b}\n## `X`, or y {#policies_b-x-or-y}\n## Z {#policies_b-z}\n## Z {#policies_b-z-1}\n",
                         self.staged("# B\n## `X`, or y\n## Z\n## Z\n"))
        self.assertEqual("# moxie {#index-moxie}\n", self.staged("# moxie\n", "README.md"))

    def test_links_to_pages_are_references(self):
        self.assertEqual("[A](@ref a), [X](@ref policies_b-x) [up](@ref index)\n",
                         self.staged("[A](../a.md), [`X`](#x) [up](../../README.md)\n"))
        self.assertEqual("[all](@ref policies_README)\n", self.staged("[all](docs/policies/README.md)\n", "README.md"))

    def test_links_to_other_places(self):
        self.assertEqual("test, [w](https://x.y/z.md#q)\n", self.staged("[test](../../tests/t.cpp), [w](https://x.y/z.md#q)\n"))
        self.assertEqual("![p](i.png)\n", self.staged("![p](../images/i.png)\n"))

    def test_code_stays(self):
        text = "    [a](a.md)\n`x[i](a.md)` b\n```cpp\n# [a](a.md)\n```\n"
        self.assertEqual(text, self.staged(text))
        self.assertEqual("```cpp\n```\n", self.staged("```c++\n```\n"))


class StageHeader(unittest.TestCase):
    def test_indented_lines_are_code(self):
        self.assertEqual("/// Use: @code{.cpp}\n/// f();\n///   g(); @endcode\n/// end\n",
                         make_site.stage_header("/// Use:\n///   f();\n///     g();\n/// end\n"))

    def test_items_go_on_in_their_next_line(self):
        text = "/// Laws\n///  * one\n///    goes on\nint x;  ///< what\n"
        self.assertEqual(text, make_site.stage_header(text))

    def test_a_comment_before_a_directive_is_of_the_file(self):
        self.assertEqual("#pragma once\n/// @file\n/// Text.\n#if X\n",
                         make_site.stage_header("#pragma once\n\n/// Text.\n#if X\n"))

    def test_a_comment_before_a_namespace_is_of_the_file(self):
        self.assertEqual("#pragma once\n/// @file\n/// Text.\nnamespace m {\n",
                         make_site.stage_header("#pragma once\n\n/// Text.\nnamespace m {\n"))


class BrokenLinks(unittest.TestCase):
    def test_finds_files_and_anchors(self):
        with tempfile.TemporaryDirectory() as folder:
            site = pathlib.Path(folder)
            (site / "a.html").write_text('<h1 id="one"><a href="b.html#two">b</a><a href="#one">1</a>', encoding="utf-8")
            (site / "b.html").write_text('<a name="two"></a><a href="a.html#six">a</a><img src="c.png">', encoding="utf-8")
            self.assertEqual(["b.html: a.html has no #six", "b.html: there is no c.png"], make_site.broken_links(site))


if __name__ == "__main__":
    unittest.main()
