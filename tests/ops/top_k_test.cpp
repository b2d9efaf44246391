// top_k_rows against sorting, and what it does with scores that are no numbers.
#include "moxie/ops/top_k.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"

using namespace moxie;
using testing::detail::Draw;

namespace {

template <class B>
std::vector<std::int32_t> top_k(const std::vector<double>& scores, Index columns, Index k) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  std::vector<T> values;
  for (const double v : scores) values.push_back(static_cast<T>(v));
  const auto rows = static_cast<Index>(scores.size()) / columns;
  test::Buffer<T, B> in(backend, values);
  test::Buffer<std::int32_t, B> out(backend, rows * k, -7);
  top_k_rows(backend, ConstMatrix<B>(in.view(rows, columns)), ConstIntVector<B>(),
             out.view(rows, k));
  return out.to_vector();
}

}  // namespace

TEST_CASE_TEMPLATE("top_k_rows is a stable sort in descending order, cut after k", B,
                   MOXIE_TEST_BACKENDS) {
  Draw draw(3);
  constexpr Index rows = 12;
  for (const Index columns : {1, 2, 7, 8, 9, 16, 23, 24, 40, 65}) {
    std::vector<double> scores;  // of a few values, so that many are equal
    for (Index i = 0; i < rows * columns; ++i)
      scores.push_back(std::round(draw.normal() * (i < columns ? 0.1 : 4)));
    for (const Index most : {Index{1}, Index{2}, Index{5}, columns}) {
      const Index k = std::min(most, columns);
      const auto got = top_k<B>(scores, columns, k);
      for (Index r = 0; r < rows; ++r) {
        std::vector<std::int32_t> order;
        for (Index e = 0; e < columns; ++e) order.push_back(static_cast<std::int32_t>(e));
        const double* row = scores.data() + r * columns;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::int32_t a, std::int32_t b) { return row[a] > row[b]; });
        order.resize(static_cast<std::size_t>(k));
        CHECK((std::vector(got.begin() + r * k, got.begin() + (r + 1) * k) == order));
      }
    }
  }
}

TEST_CASE_TEMPLATE("top_k_rows takes infinite scores, and numbers before NaN", B,
                   MOXIE_TEST_BACKENDS) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK((top_k<B>({-inf, 1, inf, -inf, inf}, 5, 3) == std::vector<std::int32_t>{2, 4, 1}));
  CHECK((top_k<B>({-inf, 1, -inf, -inf}, 4, 3) == std::vector<std::int32_t>{1, 0, 2}));
  CHECK((top_k<B>({nan, 1, 2, nan}, 4, 2) == std::vector<std::int32_t>{2, 1}));
  for (const std::vector<double>& scores :
       {std::vector<double>{nan, nan, nan, nan}, {nan, 1, nan, 2}, {3, nan, nan, nan}}) {
    const auto got = top_k<B>(scores, 4, 3);
    CHECK(std::set<std::int32_t>(got.begin(), got.end()).size() == 3);
    for (const std::int32_t e : got) CHECK((e >= 0 && e < 4));
  }
}
