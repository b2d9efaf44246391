#!/usr/bin/env python3
"""check_includes.py finds what it says it finds: each case is a small tree of headers and the complaint it must cause."""

import pathlib
import tempfile
import unittest

import check_includes


def errors_of(headers):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in headers.items():
            path = pathlib.Path(folder, "moxie", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#pragma once\n" + text + "\n", encoding="utf-8")
        return check_includes.check(pathlib.Path(folder))


class CheckIncludes(unittest.TestCase):
    def complains(self, headers, text):
        errors = errors_of(headers)
        self.assertEqual(len(errors), 1, errors)
        self.assertIn(text, errors[0])

    def test_accepts_includes_that_point_down(self):
        self.assertEqual([], errors_of({
            "core/view.hpp": "#include <vector>\n#define MOXIE_HD",
            "core/eigen.hpp": "#define EIGEN_NO_CUDA\n#include <Eigen/Core>",
            "backend/concept.hpp": '#include "moxie/core/view.hpp"',
            "backend/cpu.hpp": '#include "moxie/ops/softmax.hpp"\n#include "moxie/backend/cpu_impl.hpp"',
            "backend/cpu_impl.hpp": '#include "moxie/backend/cpu.hpp"',
            "backend/cuda/leaf.hpp": "#include <cuda_runtime.h>\n#include <thrust/sort.h>",
            "ops/softmax.hpp": '#include "moxie/backend/concept.hpp"',
            "router/top_k.hpp": '#include "moxie/ops/softmax.hpp"\n#include "moxie/gate/linear.hpp"',
            "gate/linear.hpp": "",
            "testing/laws.hpp": '#include "moxie/backend/cpu.hpp"\n#include "moxie/router/top_k.hpp"',
            "moxie.hpp": '#include "moxie/router/top_k.hpp"\n#include "moxie/backend/cpu.hpp"',
        }))

    def test_direction(self):
        self.complains({"ops/a.hpp": '#include "moxie/nn/b.hpp"', "nn/b.hpp": ""}, "ops/ stands below nn/")
        self.complains({"backend/a.hpp": "#include <moxie/routing/b.hpp>", "routing/b.hpp": ""}, "core/ and ops/ only")
        self.complains({"nn/a.hpp": '#include "moxie/backend/cpu.hpp"', "backend/cpu.hpp": ""}, "no particular backend")
        self.complains({"nn/a.hpp": '#include "moxie/testing/b.hpp"', "testing/b.hpp": ""}, "only testing/")
        self.complains({"nn/a.hpp": '#include "moxie/moxie.hpp"', "moxie.hpp": ""}, "umbrella")
        self.complains({"new/a.hpp": '#include "moxie/core/b.hpp"', "core/b.hpp": ""}, "'new' has no level")

    def test_circle(self):
        self.complains({"core/a.hpp": '#include "moxie/core/b.hpp"', "core/b.hpp": '#include "moxie/core/a.hpp"'},
                       "circle: moxie/core/a.hpp -> moxie/core/b.hpp -> moxie/core/a.hpp")

    def test_foreign_headers(self):
        self.complains({"nn/a.hpp": "#include <Eigen/Dense>"}, "core/eigen.hpp instead")
        self.complains({"core/a.hpp": "#  include <functional>"}, "compile time")
        self.complains({"ops/a.hpp": "#include <cuda_runtime.h>"}, "backend/cuda/")
        self.complains({"ops/a.hpp": "#include <thrust/sort.h>"}, "belong in backend/")
        self.complains({"core/a.hpp": '#include "view.hpp"'}, "path from include/ on")

    def test_macros_and_guards(self):
        self.complains({"core/a.hpp": "#define EIGEN_NO_CUDA"}, "EIGEN_NO_CUDA does not begin with MOXIE_")
        self.complains({"core/a.hpp": "#define HD"}, "HD does not begin with MOXIE_")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "moxie").mkdir()
            pathlib.Path(folder, "moxie", "a.hpp").write_text("\n", encoding="utf-8")
            self.assertEqual(["moxie/a.hpp: no #pragma once"], check_includes.check(pathlib.Path(folder)))

    def test_an_empty_folder_is_an_error(self):
        self.assertEqual(1, len(errors_of({})))


if __name__ == "__main__":
    unittest.main()
