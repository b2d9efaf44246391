// expert_bias_backward: gathered, scaled, ragged rows in 16-byte accesses and without.
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/expert_bias.hpp"

namespace expert_bias_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twin = Accelerates<ExpertBiasBackward, B, Rows<B>, Matrix<B>>;
static_assert(twin<test::EmulatedBackend<float>> && twin<test::EmulatedBackend<double>>);
static_assert(!twin<ThrustHostBackend<float>>);

/// Experts of so many rows, the first of which is row `before`. Rows of dy begin `shift` elements
/// behind an aligned address and lie `gap` elements further apart than they are long.
struct Case {
  Ints counts;
  Index cols, shift = 0, gap = 0;
  bool gathered = false, scaled = false;
  Index before = 0;

  Index experts() const { return static_cast<Index>(counts.size()); }
  Ints offset() const {
    Ints out{static_cast<std::int32_t>(before)};
    for (const std::int32_t n : counts) out.push_back(out.back() + n);
    return out;
  }
};

/// What the gradient holds before, and what rows that nobody owns and gaps do.
constexpr double start = 0.5;
constexpr double trap = 1e30;

/// The numbers of a case: those of rows that nobody owns must not be read.
struct Numbers {
  Ints offset, source;
  std::vector<double> x, scale;
  Index rows, stride;

  explicit Numbers(const Case& c) : offset(c.offset()), rows(offset.back() + 2) {
    Draw draw(31);
    stride = c.cols + c.gap;
    x.assign(test::to_size(c.shift + rows * stride), trap);
    for (Index r = 0; r < rows; ++r) {
      const bool owned = offset.front() <= r && r < offset.back();
      // 7 r + 3 takes each owned row once where 7 does not divide their number, else some twice
      source.push_back(owned ? static_cast<std::int32_t>(
                                   offset.front() + (7 * r + 3) % (offset.back() - offset.front()))
                             : 1 << 30);
      scale.push_back(owned ? draw.normal() : trap);
      for (Index j = 0; owned && j < c.cols; ++j) x[at(c, r, j)] = draw.normal();
    }
  }
  std::size_t at(const Case& c, Index r, Index j) const {
    return test::to_size(c.shift + r * stride + j);
  }
};

/// All memory of the gradient, whose rows lie 3 elements further apart than they are long.
template <class B>
std::vector<typename B::Scalar> bias_gradient(B& backend, const Case& c) {
  using T = typename B::Scalar;
  const Numbers n(c);
  const test::Buffer<T, B> x(backend, test::scalars<T>(n.x));
  const test::Buffer<T, B> scale(backend, test::scalars<T>(n.scale));
  const test::Buffer<std::int32_t, B> source(backend, n.source);
  const test::Buffer<std::int32_t, B> offset(backend, n.offset);
  const test::Buffer<T, B> d_bias(backend, c.experts() * (c.cols + 3), T(start));
  const Rows<B> dy{ConstMatrix<B>(x.data() + c.shift, n.rows, c.cols, n.stride),
                   c.gathered ? ConstIntVector<B>(source.view()) : ConstIntVector<B>(),
                   c.scaled ? ConstVector<B>(scale.view()) : ConstVector<B>(), offset.view(),
                   n.rows};
  expert_bias_backward(backend, dy, Matrix<B>(d_bias.data(), c.experts(), c.cols, c.cols + 3));
  return d_bias.to_vector();
}

/// The sums in double of the numbers as T holds them.
template <class T>
std::vector<double> wanted(const Case& c) {
  const Numbers n(c);
  std::vector<double> out(test::to_size(c.experts() * (c.cols + 3)), start);
  for (Index e = 0; e < c.experts(); ++e) {
    for (Index j = 0; j < c.cols; ++j) {
      double& sum = out[test::to_size(e * (c.cols + 3) + j)];
      for (Index r = n.offset[test::to_size(e)]; r < n.offset[test::to_size(e + 1)]; ++r) {
        const Index from = c.gathered ? n.source[test::to_size(r)] : r;
        const T factor = c.scaled ? static_cast<T>(n.scale[test::to_size(r)]) : T(1);
        sum += static_cast<double>(factor) *
               static_cast<double>(static_cast<T>(n.x[n.at(c, from, j)]));
      }
    }
  }
  return out;
}

template <class T>
void check(const Case& c) {
  CAPTURE(c.cols);
  CAPTURE(c.shift);
  CAPTURE(c.gap);
  CAPTURE(c.gathered);
  CAPTURE(c.scaled);
  const std::vector<double> sums = wanted<T>(c);
  std::vector<T> first;
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    const std::vector<T> got = bias_gradient(backend, c);
    test::check_near(got, sums);
    if (first.empty()) first = got;
    CHECK(got == first);
    CHECK(backend.leaf().launches() == 1);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("expert bias: sums are those in double for any width, alignment and distance", T,
                   float, double) {
  for (const Index cols : {1, 3, 31, 32, 33, 64, 130, 260}) {
    check<T>({.counts = {5, 1, 40, 16}, .cols = cols});
    check<T>({.counts = {5, 1, 40, 16}, .cols = cols, .shift = 1, .gap = 1});
  }
  check<T>({.counts = {9, 20}, .cols = 512, .gap = 4});  // so wide that lanes have packs
  check<T>({.counts = {9, 20}, .cols = 512, .gap = 2});
  check<T>({.counts = {9, 20}, .cols = 516});
}

TEST_CASE_TEMPLATE("expert bias: rows are gathered and scaled, and those of nobody left alone", T,
                   float, double) {
  for (const bool gathered : {false, true})
    for (const bool scaled : {false, true})
      for (const Index cols : {48, 516})
        check<T>({.counts = {30, 3, 12},
                  .cols = cols,
                  .gathered = gathered,
                  .scaled = scaled,
                  .before = 2});
}

TEST_CASE_TEMPLATE("expert bias: experts without rows, with nearly all of them, and of no columns",
                   T, float, double) {
  for (const Index cols : {20, 640}) {
    check<T>({.counts = {0, 0, 7, 0}, .cols = cols, .gathered = true, .scaled = true});
    check<T>({.counts = {1, 700, 0, 2}, .cols = cols, .gathered = true, .scaled = true});
    check<T>({.counts = {0, 0}, .cols = cols});
  }
  auto backend = test::emulated<T>();
  CHECK(bias_gradient(backend, {.counts = {4}, .cols = 0}) == std::vector<T>(3, T(start)));
  CHECK(backend.leaf().launches() == 0);
}

TEST_CASE_TEMPLATE("expert bias: bits depend neither on the alignment of rows nor on how they lie",
                   T, float, double) {
  const Case aligned{.counts = {100, 37}, .cols = 512, .scaled = true};
  Case shifted = aligned;
  shifted.shift = 1;
  shifted.gap = 3;
  auto backend = test::emulated<T>(4);
  CHECK(bias_gradient(backend, aligned) == bias_gradient(backend, shifted));
}

}  // namespace expert_bias_test
