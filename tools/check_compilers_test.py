#!/usr/bin/env python3
"""check_compilers.py: what is compiled, and what is said of a compiler that fails or is not there."""

import pathlib
import tempfile
import unittest

import check_compilers


class CheckCompilers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def compiler(self, script):
        path = self.root / "cxx"
        path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def test_headers_that_need_more_than_eigen_are_left_out(self):
        for name in ("moxie/core/view.hpp", "moxie/backend/cpu.hpp", "moxie/backend/thrust_host.hpp",
                     "moxie/backend/cuda/backend.hpp", "moxie/dist/mpi.hpp"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self.assertEqual(["moxie/backend/cpu.hpp", "moxie/core/view.hpp"], check_compilers.plain_headers(self.root))

    def test_each_alone_or_all_in_one(self):
        names = ["a.hpp", "b.hpp"]
        self.assertEqual([("a.hpp", "#include <a.hpp>\n"), ("b.hpp", "#include <b.hpp>\n")],
                         check_compilers.programs(names, alone=True))
        (what, text), layer = check_compilers.programs(names, alone=False)
        self.assertEqual(("all 2 headers", "#include <a.hpp>\n#include <b.hpp>\n"), (what, text))
        self.assertIn("MoeLayer", layer[1])

    def test_the_first_error_is_told(self):
        cxx = self.compiler('echo "x: note: n" >&2; echo "x:1: error: no" >&2; exit 1\n')
        self.assertEqual([f"{cxx}: one: x:1: error: no"], check_compilers.check(cxx, [("one", "")], []))
        self.assertEqual([], check_compilers.check(self.compiler("exit 0\n"), [("one", "")], []))
        self.assertEqual(["no-such-c++: is not there"], check_compilers.check("no-such-c++", [("one", "")], []))


if __name__ == "__main__":
    unittest.main()
