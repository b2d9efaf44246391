#include "moxie/ops/cross_entropy.hpp"

#include <cmath>
#include <vector>

#include "moxie/ops/argmax.hpp"
#include "moxie/ops/kl_divergence.hpp"
#include "support/backends.hpp"

namespace cross_entropy_test {

using namespace moxie;
using moxie::test::Buffer;
using moxie::test::make_backend;

namespace {

template <class T>
inline constexpr double tolerance = sizeof(T) == sizeof(float) ? 2e-6 : 1e-12;

template <class T>
void check_near(const std::vector<T>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(static_cast<double>(a[i]) - b[i]) <=
          tolerance<T> * std::fmax(1.0, std::fabs(b[i])));
  }
}

/// Scores and labels of `rows` images and `classes` classes, without order.
template <class T>
std::vector<T> waves(Index n, double from, double size) {
  std::vector<T> out;
  for (Index i = 0; i < n; ++i)
    out.push_back(static_cast<T>(size * std::sin(from + 1.7 * static_cast<double>(i))));
  return out;
}

/// The gradient of mean(losses), by central differences of `loss(scores)`, which gives its sum.
template <class Loss>
std::vector<double> differences(std::vector<double> at, Index rows, const Loss& loss) {
  std::vector<double> out;
  for (double& v : at) {
    const double old = v, step = 1e-6;
    v = old + step;
    const double up = loss(at);
    v = old - step;
    const double down = loss(at);
    v = old;
    out.push_back((up - down) / (2 * step) / static_cast<double>(rows));
  }
  return out;
}

template <class T>
double total(const std::vector<T>& v) {
  double sum = 0;
  for (const T x : v) sum += static_cast<double>(x);
  return sum;
}

}  // namespace

TEST_CASE_TEMPLATE("softmax_cross_entropy of numbers made by hand", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const test::Buffer<T, B> scores(backend, {0, 0, 0, 0, 1000, 0});
  const test::Buffer<T, B> labels(backend, {0, 1, 0, T(0.5), T(0.25), T(0.25)});
  const test::Buffer<T, B> losses(backend, 2, T(9));
  const test::Buffer<T, B> d(backend, 6, T(9));
  softmax_cross_entropy(backend, scores.view(2, 3), labels.view(2, 3), losses.view(), d.view(2, 3));
  check_near(losses.to_vector(), {std::log(3.0), 750});
  check_near(d.to_vector(), {1 / 6.0, -1 / 3.0, 1 / 6.0, -0.25, 0.375, -0.125});

  softmax_cross_entropy(backend, scores.view(2, 3), labels.view(2, 3), losses.view(), d.view(2, 3),
                        4);
  check_near(losses.to_vector(), {std::log(3.0), 750});
  check_near(d.to_vector(), {4 / 6.0, -4 / 3.0, 4 / 6.0, -1, 1.5, -0.5});
}

TEST_CASE_TEMPLATE("sigmoid_cross_entropy gives the reference's numbers", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const test::Buffer<T, B> scores(backend, {T(3.58), T(-0.797), T(-0.815), T(3.41), T(-3.442),
                                            T(-4.223), T(-4.314), T(-2.096)});
  const test::Buffer<T, B> labels(backend, {0, 1, 0, 0, T(0.3), 0, 0, T(0.7)});
  const test::Buffer<T, B> losses(backend, 2, T(0));
  sigmoid_cross_entropy(backend, scores.view(2, 4), labels.view(2, 4), losses.view(), {});
  check_near(losses.to_vector(), {8.585507324792397, 2.675095432223861});

  const test::Buffer<T, B> extreme(backend, {200, -200});
  const test::Buffer<T, B> target(backend, {0, 1});
  const test::Buffer<T, B> d(backend, 2, T(0));
  sigmoid_cross_entropy(backend, extreme.view(1, 2), target.view(1, 2), losses.view().middle(0, 1),
                        d.view(1, 2));
  check_near(losses.to_vector(), {400, 2.675095432223861});
  check_near(d.to_vector(), {1, -1});
}

TEST_CASE_TEMPLATE("Losses of scores have the gradients of central differences", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Index rows = 3, classes = 19;
  const std::vector<double> z = waves<double>(rows * classes, 0.3, 2),
                            q = waves<double>(rows * classes, 2, 3);
  std::vector<double> y = waves<double>(rows * classes, 1, 0.1);
  for (double& v : y) v = std::fabs(v);
  const auto from = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };

  // The losses in double, written out.
  const auto log_softmax = [&](const std::vector<double>& v, Index r, Index c) {
    double sum = 0;
    for (Index j = 0; j < classes; ++j)
      sum += std::exp(v[static_cast<std::size_t>(r * classes + j)]);
    return v[static_cast<std::size_t>(r * classes + c)] - std::log(sum);
  };
  const auto each = [&](const auto& term) {
    double sum = 0;
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < classes; ++c)
        sum += term(r, c, static_cast<std::size_t>(r * classes + c));
    return sum;
  };
  const auto softmax_loss = [&](const std::vector<double>& v) {
    return each([&](Index r, Index c, std::size_t i) { return -y[i] * log_softmax(v, r, c); });
  };
  const auto sigmoid_loss = [&](const std::vector<double>& v) {
    return each(
        [&](Index, Index, std::size_t i) { return std::log1p(std::exp(v[i])) - y[i] * v[i]; });
  };
  const auto kl = [&](const std::vector<double>& a, const std::vector<double>& b) {
    return each([&](Index r, Index c, std::size_t) {
      return std::exp(log_softmax(a, r, c)) * (log_softmax(a, r, c) - log_softmax(b, r, c));
    });
  };
  const auto near = [](const std::vector<T>& a, const std::vector<double>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
      CHECK(std::fabs(static_cast<double>(a[i]) - b[i]) <=
            (sizeof(T) == sizeof(float) ? 1e-5 : 1e-8));
  };

  const test::Buffer<T, B> scores(backend, from(z)), other(backend, from(q)),
      labels(backend, from(y));
  const test::Buffer<T, B> losses(backend, rows, T(0)), d(backend, rows * classes, T(0)),
      d_other(backend, rows * classes, T(0));
  const auto view = [&](const test::Buffer<T, B>& b) { return b.view(rows, classes); };

  softmax_cross_entropy(backend, view(scores), view(labels), losses.view(), view(d));
  CHECK(total(losses.to_vector()) == doctest::Approx(softmax_loss(z)).epsilon(1e-6));
  near(d.to_vector(), differences(z, rows, softmax_loss));

  sigmoid_cross_entropy(backend, view(scores), view(labels), losses.view(), view(d));
  CHECK(total(losses.to_vector()) == doctest::Approx(sigmoid_loss(z)).epsilon(1e-6));
  near(d.to_vector(), differences(z, rows, sigmoid_loss));

  kl_divergence(backend, view(scores), view(other), losses.view(), view(d), view(d_other));
  CHECK(total(losses.to_vector()) == doctest::Approx(kl(z, q)).epsilon(1e-6));
  near(d.to_vector(), differences(z, rows, [&](const auto& v) { return kl(v, q); }));
  near(d_other.to_vector(), differences(q, rows, [&](const auto& v) { return kl(z, v); }));

  // The factor scales gradients, not losses; what is empty is left out.
  const std::vector<T> plain = d.to_vector(), kept = losses.to_vector();
  kl_divergence(backend, view(scores), view(other), losses.view(), view(d), {}, 6);
  CHECK(losses.to_vector() == kept);
  for (std::size_t i = 0; i < plain.size(); ++i)
    CHECK(static_cast<double>(d.to_vector()[i]) ==
          doctest::Approx(6 * static_cast<double>(plain[i])));
}

TEST_CASE_TEMPLATE("kl_divergence of equal scores is 0 without gradient, also shifted", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const test::Buffer<T, B> p(backend, {1, 2, -3});
  const test::Buffer<T, B> q(backend, {11, 12, 7});
  const test::Buffer<T, B> losses(backend, 1, T(9));
  const test::Buffer<T, B> dp(backend, 3, T(9)), dq(backend, 3, T(9));
  kl_divergence(backend, p.view(1, 3), q.view(1, 3), losses.view(), dp.view(1, 3), dq.view(1, 3));
  check_near(losses.to_vector(), {0});
  check_near(dp.to_vector(), {0, 0, 0});
  check_near(dq.to_vector(), {0, 0, 0});
}

TEST_CASE_TEMPLATE("argmax_rows and correct_rows give ties to the lower column", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const test::Buffer<T, B> scores(backend, {1, 3, 3, 2, 2, 2, -1, -2, 0, 5, 4, 5});
  const test::Buffer<T, B> labels(backend, {0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1});
  const test::Buffer<std::int32_t, B> best(backend, 4, 9);
  const test::Buffer<T, B> hits(backend, 4, T(9));
  argmax_rows(backend, scores.view(4, 3), best.view());
  correct_rows(backend, scores.view(4, 3), labels.view(4, 3), hits.view());
  CHECK(best.to_vector() == std::vector<std::int32_t>{1, 0, 2, 0});
  CHECK(hits.to_vector() == std::vector<T>{1, 0, 1, 0});
}

}  // namespace cross_entropy_test
