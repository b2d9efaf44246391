// The kernels of sums over groups of rows against loops in double, and against the generic form in its own order.
#include <doctest/doctest.h>

#include <vector>

#include "moxie/ops/accelerate.hpp"
#include "moxie/testing/law_report.hpp"
#include "nn_matrix.hpp"

namespace group_sums_kernels_test {

using namespace moxie;
using moxie::test::emulated;
using moxie::test::EmulatedBackend;
using moxie::test::NnMatrix;
using moxie::test::to_size;

namespace {

/// Squares of a row that counts: every `skip`-th does not.
template <class T, bool Whole>
struct SquareTerm {
  static constexpr bool whole_rows = Whole;
  MatrixView<const T> x;
  Index skip;

  struct Row {
    const T* x;

    explicit operator bool() const { return x != nullptr; }
    T operator()(Index c) const { return x[c] * x[c]; }
  };
  Row of(Index r) const { return {skip > 0 && r % skip == 0 ? nullptr : x.row(r)}; }
};
// A changed signature must not fall back to the generic form in silence.
template <class T, bool Whole, class B = EmulatedBackend<T>>
constexpr bool twin = Accelerates<GroupSums, B, GroupShape, SquareTerm<T, Whole>, Vector<B>>;
static_assert(twin<float, true> && twin<float, false> && twin<double, true> && twin<double, false>);

struct GroupSumsCase {
  GroupShape shape;
  Index skip;
  int launches;
};
const std::vector<GroupSumsCase> cases{
    {{50, 1, 3}, 0, 1},   {{7, 1, 40}, 2, 1},    {{3, 255, 32}, 3, 1}, {{1, 256, 1}, 0, 1},
    {{1, 257, 33}, 5, 2}, {{2, 513, 64}, 7, 2},  {{1, 5000, 6}, 4, 2}, {{1, 70000, 2}, 9, 2},
    {{0, 0, 4}, 0, 0},    {{2, 300, 100}, 1, 2},
};

}  // namespace

TEST_CASE_TEMPLATE("group sums: kernels are near loops in double, the same from run to run", T,
                   float, double) {
  const auto check = [](const GroupSumsCase& c, auto whole) {
    using Term = SquareTerm<T, decltype(whole)::value>;
    const GroupShape& s = c.shape;
    CAPTURE(s.groups);
    CAPTURE(s.group);
    CAPTURE(s.cols);
    NnMatrix<T> x(s.groups * s.group, s.cols, 3, 1);
    const Term term{x.read(), c.skip};
    std::vector<double> expected(to_size(s.groups * s.cols));
    for (Index r = 0; r < s.groups * s.group; ++r)
      for (Index e = 0; e < s.cols && term.of(r); ++e)
        expected[to_size(r / s.group * s.cols + e)] +=
            static_cast<double>(x(r, e)) * static_cast<double>(x(r, e));
    const Index size = group_sums_size(s, decltype(whole)::value);
    std::vector<T> first;
    for (const std::uint64_t schedule : {0U, 1U}) {
      auto b = emulated<T>(schedule);
      std::vector<T> sums(to_size(size), T(-1));
      group_sums(b, s, term, VectorView<T>(sums.data(), size));
      CHECK(b.leaf().launches() == c.launches);
      for (const T sum : sums) CHECK(sum >= 0);  // all of it is written
      if (schedule == 0) first = sums;
      CHECK(sums == first);
    }
    first.resize(expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(static_cast<double>(first[i]) ==
            doctest::Approx(expected[i]).epsilon(100 * testing::tolerance<T>));
  };
  for (const GroupSumsCase& c : cases) {
    check(c, std::false_type());
    check(c, std::true_type());
  }
}

TEST_CASE_TEMPLATE("group sums: a group within a chunk is added in the order of the generic form",
                   T, float, double) {
  const GroupShape s{3, 200, 45};
  NnMatrix<T> x(s.groups * s.group, s.cols, 1, 4);
  const SquareTerm<T, false> term{x.read(), 6};
  auto b = emulated<T>();
  std::vector<T> sums(to_size(group_sums_size(s))), expected(sums.size());
  GroupSums::generic(b, s, term, VectorView<T>(expected.data(), group_sums_size(s)));
  CHECK(b.leaf().launches() == 0);
  group_sums(b, s, term, VectorView<T>(sums.data(), group_sums_size(s)));
  CHECK(sums == expected);
}

TEST_CASE("group sums: room of another size is refused") {
  auto b = emulated<float>();
  const GroupShape s{1, 600, 2};
  NnMatrix<float> x(600, 2, 0, 1);
  const SquareTerm<float, false> term{x.read(), 0};
  std::vector<float> sums(to_size(group_sums_size(s)) - 1);
  CHECK_THROWS_AS(group_sums(b, s, term, VectorView<float>(sums.data(), group_sums_size(s) - 1)),
                  shape_error);
}

}  // namespace group_sums_kernels_test
