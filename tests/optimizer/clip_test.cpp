#include "moxie/optimizer/clip.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/ops/first_non_finite.hpp"
#include "optimizer/model.hpp"
#include "support/backends.hpp"

namespace {

using moxie::Index;
using moxie::test::tolerance;

template <class B>
double squared_norm_of(B& backend, const std::vector<typename B::Scalar>& x) {
  moxie::test::Buffer<typename B::Scalar, B> values(backend, x);
  const auto bytes = moxie::squared_norm_bytes(values.size());
  moxie::test::Buffer<double, B> out(backend, 1, 0.0);
  moxie::test::Buffer<double, B> scratch(backend, static_cast<Index>(bytes / sizeof(double)), 0.0);
  moxie::squared_norm(backend, values.view(), out.view(), false,
                      {reinterpret_cast<std::byte*>(scratch.data()), static_cast<Index>(bytes)});
  return out.to_vector()[0];
}

template <class B>
Index first_bad(B& backend, const std::vector<typename B::Scalar>& x) {
  moxie::test::Buffer<typename B::Scalar, B> values(backend, x);
  const auto bytes = moxie::first_non_finite_bytes(values.size());
  moxie::test::Buffer<std::int64_t, B> out(backend, 1, 77);
  moxie::test::Buffer<std::int64_t, B> scratch(backend,
                                               static_cast<Index>(bytes / sizeof(std::int64_t)), 0);
  moxie::first_non_finite(
      backend, values.view(), out.view(),
      {reinterpret_cast<std::byte*>(scratch.data()), static_cast<Index>(bytes)});
  return moxie::read_first_non_finite(backend, {out.data(), 1});
}

}  // namespace

TEST_CASE_TEMPLATE("squared_norm sums squares of any length in double", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  for (const std::size_t n : {0U, 1U, 15U, 16U, 17U, 1023U, 1024U, 1025U, 5000U, 1100000U}) {
    std::vector<T> x(n);
    double expected = 0;
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = static_cast<T>(std::sin(static_cast<double>(i)) + 1.5);
      expected += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    CHECK(squared_norm_of(backend, x) == doctest::Approx(expected).epsilon(1e-12));
  }
  // The square of this one overflows a float.
  CHECK(squared_norm_of(backend, {T(1e30), T(1e30)}) == doctest::Approx(2e60).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("first_non_finite names the first NaN or infinity", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  CHECK(first_bad(backend, {}) == -1);
  CHECK(first_bad(backend, {T(0), T(-0.0), T(1e30)}) == -1);
  for (const T bad : {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                      std::numeric_limits<T>::quiet_NaN()})
    for (const std::size_t at : {0U, 15U, 16U, 1023U, 1024U, 4999U}) {
      std::vector<T> x(5000, T(1));
      x[at] = bad;
      x[4999] = bad;
      CHECK(first_bad(backend, x) == static_cast<Index>(at));
    }
  std::vector<T> large(1100000, (std::numeric_limits<T>::max)());
  CHECK(first_bad(backend, large) == -1);
  large[1099999] = large[1048577] = std::numeric_limits<T>::infinity();
  CHECK(first_bad(backend, large) == 1048577);
}

TEST_CASE("Norms have the same bits for any number of threads") {
  std::vector<float> x(300000);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(std::sin(static_cast<double>(i * i)));
  moxie::CpuBackend<float> one;
  const double expected = squared_norm_of(one, x);
  for (const int threads : {2, 3, 8}) {
    moxie::ThreadPool pool(threads);
    moxie::CpuBackend<float> many(pool);
    CHECK(squared_norm_of(many, x) == expected);
  }
}

TEST_CASE_TEMPLATE("ClipByGlobalNorm scales all gradients by their common norm", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "a", {2, 2});
  moxie::test::add(p, "experts", {3}, true);
  p.initialize(0);
  moxie::ClipByGlobalNorm::State<B> state(p);
  // Of the specification's test vector 24.
  const std::vector<double> in = {2.012, 2.392, -0.634, -2.066, -3.232, 1.479, 2.322};
  const std::vector<double> out = {0.353117963580212,    0.4198102231033137,  -0.11127076983591175,
                                   -0.36259528467033697, -0.5672352178385911, 0.2595732943017563,
                                   0.40752480687537396};
  moxie::test::to_device(backend, p.gradients(), in);
  moxie::ClipByGlobalNorm{.limit = 1}(p, p.range(), state);
  const auto clipped = moxie::test::to_host<B>(backend, p.gradients());
  for (std::size_t i = 0; i < in.size(); ++i)
    CHECK(std::abs(static_cast<double>(clipped[i]) - out[i]) < tolerance<T>);
  CHECK(std::abs(state.read_norm(backend) - 5.697812650482639) < tolerance<T>);
}

TEST_CASE_TEMPLATE("ClipByGlobalNorm changes no bit below its limit", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p(backend);
  moxie::test::add(p, "One/w", {2});
  moxie::test::add(p, "Two/w", {2});
  p.initialize(0);
  moxie::ClipByGlobalNorm::State<B> state(p);
  const auto clipped = [&](const std::vector<double>& g, double limit,
                           const moxie::ParameterRange& range) {
    moxie::test::to_device(backend, p.gradients(), g);
    moxie::ClipByGlobalNorm{.limit = limit}(p, range, state);
    const auto host = moxie::test::to_host<B>(backend, p.gradients());
    return std::vector<double>(host.begin(), host.end());
  };
  const std::vector<double> g = {3, 0, 0, 4};
  CHECK(clipped(g, 5.0000001, p.range()) == g);
  CHECK(clipped(g, 5, p.range()) == g);  // at the limit: times 1
  CHECK(clipped(g, 2.5, p.range()) == std::vector<double>{1.5, 0, 0, 2});
  CHECK(clipped(g, 1, p.range("Two/")) == std::vector<double>{3, 0, 0, 1});
  CHECK(state.read_norm(backend) == 4);
  CHECK(clipped({0, 0, 0, 0}, 1, p.range()) == std::vector<double>(4, 0));
  const auto with_nan = clipped({3, std::nan(""), 0, 4}, 1, p.range());
  CHECK(with_nan[0] == 3);
  CHECK(std::isnan(state.read_norm(backend)));

  CHECK_THROWS_WITH_AS(moxie::ClipByGlobalNorm{.limit = 0}(p, p.range(), state),
                       "moxie::ClipByGlobalNorm: limit must be > 0, got 0", moxie::config_error);
  moxie::ParameterRange outside;
  outside.shared = {3, 2};
  CHECK_THROWS_AS(moxie::ClipByGlobalNorm{}(p, outside, state), moxie::shape_error);
}
