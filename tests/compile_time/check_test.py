#!/usr/bin/env python3
"""Tests of check.py that compile nothing."""

import unittest

import check


class CompilerKey(unittest.TestCase):
    def test_gcc(self):
        self.assertEqual(check.compiler_key("g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright"), "gcc-12")
        self.assertEqual(check.compiler_key("c++ (GCC) 14.1.1 20240522\n"), "gcc-14")

    def test_clang(self):
        self.assertEqual(check.compiler_key("Debian clang version 14.0.6\nTarget: x86_64"), "clang-14")

    def test_others(self):
        self.assertIsNone(check.compiler_key("icpx 2024\n"))


class Ratios(unittest.TestCase):
    recorded = {"include_only": 0.1, "one_layer": 1.0}

    def test_of_the_least_times(self):
        self.assertEqual(check.ratios({"eigen_only": 4.0, "include_only": 1.0, "one_layer": 2.0}),
                         {"include_only": 0.25, "one_layer": 0.5})

    def test_within_the_margin(self):
        self.assertEqual(check.too_slow({"include_only": 0.119, "one_layer": 1.19}, self.recorded), [])

    def test_above_it(self):
        self.assertEqual(check.too_slow({"include_only": 0.1, "one_layer": 1.21}, self.recorded), ["one_layer"])


if __name__ == "__main__":
    unittest.main()
