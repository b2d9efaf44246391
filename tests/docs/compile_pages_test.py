#!/usr/bin/env python3
"""compile_pages.py: which code of a page is compiled, and as what."""

import pathlib
import unittest

import compile_pages

TEXT = """# A
Header: `core/a.hpp`. Or
Headers: `io/b.hpp`, `io/c.hpp`.
```c++
#include <vector>
int a;
```
```cmake
add()
```
<!-- cut: x.cpp s -->
```c++
not_compiled
```
```cpp
int b;
```
"""


class CompilePages(unittest.TestCase):
    def test_blocks_with_their_lines(self):
        self.assertEqual([(5, ["#include <vector>", "int a;"]), (16, ["int b;"])], compile_pages.blocks(TEXT))

    def test_a_page_is_one_file(self):
        source = compile_pages.program(pathlib.Path("docs/a.md"), TEXT).splitlines()
        self.assertEqual(["#include <moxie/moxie.hpp>", "#include <moxie/core/a.hpp>", "#include <moxie/io/b.hpp>",
                          "#include <moxie/io/c.hpp>"], source[:4])
        self.assertIn("common.hpp", source[4])
        self.assertEqual(["#include <vector>", "int block_0() {", '#line 5 "docs/a.md"', "", "int a;", "return 0; }",
                          "int block_1() {", '#line 16 "docs/a.md"', "int b;", "return 0; }"], source[5:])

    def test_a_page_without_code(self):
        self.assertIsNone(compile_pages.program(pathlib.Path("a.md"), "# A\n```cmake\n```\n"))


if __name__ == "__main__":
    unittest.main()
