// softmax_top_k_rows and top_k_rows by a warp a row.
#include <cmath>
#include <limits>
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/softmax_top_k.hpp"

namespace ranking_kernels_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twins = Accelerates<TopKRows, B, ConstMatrix<B>, ConstIntVector<B>, IntMatrix<B>>&&
    Accelerates<SoftmaxTopKRows, B, ConstMatrix<B>, ConstIntVector<B>, Matrix<B>, IntMatrix<B>>;
static_assert(twins<test::EmulatedBackend<float>> && twins<test::EmulatedBackend<double>>);
static_assert(!twins<ThrustHostBackend<float>>);

struct Case {
  Index columns, k;
  std::vector<double> scores;
  Ints mask;
};
template <class T>
struct Ranked {
  Ints choice, choice_alone;
  std::vector<T> probability;
};

/// Both operations, in rows that are further apart than they are long.
template <class B>
Ranked<typename B::Scalar> rank(B& backend, const Case& c) {
  using T = typename B::Scalar;
  const auto rows = static_cast<Index>(c.scores.size()) / c.columns;
  const Index stride = c.columns + 3;
  std::vector<double> apart(static_cast<std::size_t>(rows * stride), 1e30);
  for (Index r = 0; r < rows; ++r)
    for (Index e = 0; e < c.columns; ++e)
      apart[static_cast<std::size_t>(r * stride + e)] =
          c.scores[static_cast<std::size_t>(r * c.columns + e)];
  test::Buffer<T, B> in(backend, test::scalars<T>(apart));
  test::Buffer<T, B> out(backend, rows * c.columns, T(-7));
  test::Buffer<std::int32_t, B> choice(backend, rows * c.k, -7);
  test::Buffer<std::int32_t, B> alone(backend, rows * c.k, -7);
  test::Buffer<std::int32_t, B> mask(backend, c.mask);
  const ConstMatrix<B> scores = in.view(rows, c.columns, stride);
  softmax_top_k_rows(backend, scores, test::view_of(mask), out.view(rows, c.columns),
                     choice.view(rows, c.k));
  top_k_rows(backend, scores, test::view_of(mask), alone.view(rows, c.k));
  return {choice.to_vector(), alone.to_vector(), out.to_vector()};
}

template <class T>
void check_equal(const Ranked<T>& got, const Ranked<T>& wanted) {
  CHECK(got.choice == wanted.choice);
  CHECK(got.choice_alone == wanted.choice);
  REQUIRE(got.probability.size() == wanted.probability.size());
  for (std::size_t i = 0; i < got.probability.size(); ++i) {
    if (std::isnan(wanted.probability[i])) {
      CHECK(std::isnan(got.probability[i]));
    } else {
      CHECK(testing::near(static_cast<double>(got.probability[i]),
                          static_cast<double>(wanted.probability[i]), 8e-7));
    }
  }
}

template <class T>
void check_kernels(const Case& c, bool by_kernel = true) {
  CAPTURE(c.columns);
  CAPTURE(c.k);
  ThrustHostBackend<T> host;
  CpuBackend<T> cpu;
  const auto wanted = rank(host, c);
  CHECK(rank(cpu, c).choice == wanted.choice);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    check_equal(rank(backend, c), wanted);
    CHECK((backend.leaf().launches() == 2) == by_kernel);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("ranking kernels: choices are those of the generic form for any width", T, float,
                   double) {
  Draw draw(11);
  for (const Index columns : {1, 7, 32, 33, 77, 130, 300, 600}) {
    const Index rows = columns < 100 ? 6 : 3;  // not a multiple of a block's warps
    for (const Index most : {Index{1}, Index{2}, Index{6}}) {
      Case c{columns, most < columns ? most : columns, {}, test::random_mask(draw, rows, most)};
      if (most == 1) c.mask.clear();
      for (Index i = 0; i < rows * columns; ++i)  // of a few values, so that many are equal
        c.scores.push_back(std::round(draw.normal() * (i < columns ? 0.1 : 4)) / 2);
      check_kernels<T>(c);
    }
  }
}

TEST_CASE_TEMPLATE("ranking kernels: a row of 1024 columns is a warp's, a longer one generic", T,
                   float, double) {
  Draw draw(12);
  check_kernels<T>({1024, 3, draw.normals(3 * 1024), {}});
  check_kernels<T>({1025, 3, draw.normals(2 * 1025), {}}, false);
}

TEST_CASE_TEMPLATE("ranking kernels: equal scores go to the lower column in every place", T, float,
                   double) {
  check_kernels<T>({70, 70, std::vector<double>(140, 0.25), {}});
  auto backend = test::emulated<T>(5);
  CHECK((rank(backend, {40, 3, std::vector<double>(40, -1), {}}).choice == Ints{0, 1, 2}));
}

TEST_CASE_TEMPLATE(
    "ranking kernels: infinite scores, zeros of both signs and NaN rank as in the generic form", T,
    float, double) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double least = -std::numeric_limits<float>::max();
  for (const Index columns : {5, 40}) {
    Draw draw(13);
    for (const std::vector<double>& few : {std::vector<double>{-inf, 1, inf, -inf, inf},
                                           {-inf, 1, -inf, -inf, -inf},
                                           {nan, 1, 2, nan, 0},
                                           {nan, nan, nan, nan, nan},
                                           {3, nan, nan, -inf, nan},
                                           {-0.0, 0.0, -0.0, 0.0, -1},
                                           {-inf, -inf, -inf, -inf, -inf},
                                           {least, -inf, least, nan, 1}}) {
      for (const Index k : {Index{1}, Index{2}, Index{5}}) {
        std::vector<double> scores(static_cast<std::size_t>(columns), -inf);
        for (std::size_t i = 0; i < few.size(); ++i)  // spread over lanes and registers
          scores[i * (columns == 5 ? 1 : 9)] = few[i];
        check_kernels<T>({columns, k, scores, {}});
      }
    }
  }
}

TEST_CASE_TEMPLATE("ranking kernels: a NaN makes its whole row of probabilities NaN, and no other",
                   T, float, double) {
  Draw draw(14);
  std::vector<double> scores = draw.normals(3 * 50);
  scores[50 + 37] = std::numeric_limits<double>::quiet_NaN();
  auto backend = test::emulated<T>(1);
  const auto got = rank(backend, {50, 2, scores, {}});
  for (std::size_t i = 0; i < got.probability.size(); ++i)
    CHECK(std::isnan(got.probability[i]) == (i / 50 == 1));
}

}  // namespace ranking_kernels_test
