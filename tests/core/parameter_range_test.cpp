#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/parameters.hpp"

namespace parameter_range_test {

using namespace moxie;
using B = CpuBackend<double>;

TEST_CASE("a range is of the scope of that name, not of those that begin alike") {
  B backend;
  Parameters<B> p(backend);
  p.add({.name = "A", .shape = {2}});
  p.add({.name = "A/kernel", .shape = {3}});
  p.add({.name = "A/B/kernel", .shape = {4}});
  p.add({.name = "A2/kernel", .shape = {5}});
  p.add({.name = "AB", .shape = {6}});
  p.add({.name = "A/kernels", .shape = {2, 4}, .expert_axis = true});
  p.add({.name = "A2/kernels", .shape = {2, 5}, .expert_axis = true});
  p.initialize(0);
  const ParameterRange a = p.range("A");
  CHECK(a.shared.first == 0);
  CHECK(a.shared.size == 2 + 3 + 4);
  CHECK(a.experts.first == 20);
  CHECK(a.experts.size == 8);
  const ParameterRange a2 = p.range("A2");
  CHECK(a2.shared.first == 9);
  CHECK(a2.shared.size == 5);
  CHECK(a2.experts.size == 10);
  CHECK(p.range("A/B").shared.size == 4);
  CHECK(p.range("A/kernel").shared.size == 3);
  CHECK(p.range("A/kernel").experts.size == 0);
  CHECK_THROWS_AS((void)p.range("A/k"), config_error);
  CHECK_THROWS_AS((void)p.range("B"), config_error);
}

}  // namespace parameter_range_test
