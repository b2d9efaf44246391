#include "moxie/robust/certificate.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "support/errors.hpp"
#include "support/numbers.hpp"

namespace certificate_test {

namespace {

using moxie::Index;
using moxie::MixtureConstants;
using Matrix = moxie::MatrixView<const double>;

constexpr Index width = 6, experts = 3, classes = 3;

/// A mixture of softmax experts, routed softly or by the first expert alone.
struct Mixture {
  std::vector<double> router, router_bias;
  std::array<std::vector<double>, experts> kernel, bias;
  bool hard;

  Mixture(std::uint64_t seed, double scale, bool hard_routing) : hard(hard_routing) {
    const auto draw = [&](Index n) {
      auto v = moxie::test::normals(n, ++seed * 977);
      for (double& x : v) x *= scale;
      return v;
    };
    router = draw(width * experts);
    router_bias = draw(experts);
    for (Index e = 0; e < experts; ++e) {
      kernel[static_cast<std::size_t>(e)] = draw(width * classes);
      bias[static_cast<std::size_t>(e)] = draw(classes);
    }
  }
  /// Steps of plain gradient descent, an image each, on the cross-entropy of the soft mixture.
  void train(int steps, double rate, std::uint64_t seed) {
    const auto images = moxie::test::normals(steps * width, seed);
    for (int t = 0; t < steps; ++t) {
      const std::vector<double> x(images.begin() + t * width, images.begin() + (t + 1) * width);
      const auto y = static_cast<std::size_t>(class_of(x));
      const auto a = softmax(affine(x, router, router_bias));
      std::array<std::vector<double>, experts> p;
      double likely = 0;
      for (std::size_t e = 0; e < experts; ++e) {
        p[e] = softmax(affine(x, kernel[e], bias[e]));
        likely += a[e] * p[e][y];
      }
      std::vector<double> d_router;
      for (std::size_t e = 0; e < experts; ++e) {
        const double share = a[e] * p[e][y] / likely;
        d_router.push_back(a[e] - share);
        for (double& v : p[e]) v *= share;
        p[e][y] -= share;
        step(x, p[e], rate, kernel[e], bias[e]);
      }
      step(x, d_router, rate, router, router_bias);
    }
  }
  static void step(const std::vector<double>& x, const std::vector<double>& d, double rate,
                   std::vector<double>& w, std::vector<double>& b) {
    for (std::size_t o = 0; o < d.size(); ++o) {
      b[o] -= rate * d[o];
      for (std::size_t i = 0; i < x.size(); ++i) w[i * d.size() + o] -= rate * d[o] * x[i];
    }
  }
  /// What they are trained on: the largest of the first pixels, or the smallest where the last is
  /// negative. No affine map knows it, two experts can.
  static Index class_of(const std::vector<double>& x) {
    const auto end = x.begin() + classes;
    return (x.back() > 0 ? std::max_element(x.begin(), end) : std::min_element(x.begin(), end)) -
           x.begin();
  }
  static std::vector<double> affine(const std::vector<double>& x, const std::vector<double>& w,
                                    const std::vector<double>& b) {
    std::vector<double> z = b;
    for (std::size_t i = 0; i < x.size(); ++i)
      for (std::size_t o = 0; o < b.size(); ++o) z[o] += x[i] * w[i * b.size() + o];
    return z;
  }
  static std::vector<double> softmax(std::vector<double> z) {
    const double peak = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (double& v : z) sum += v = std::exp(v - peak);
    for (double& v : z) v /= sum;
    return z;
  }
  std::vector<double> gate(const std::vector<double>& x) const {
    auto z = affine(x, router, router_bias);
    if (!hard) return softmax(z);
    const auto best = std::max_element(z.begin(), z.end()) - z.begin();
    std::fill(z.begin(), z.end(), 0.0);
    z[static_cast<std::size_t>(best)] = 1;
    return z;
  }
  std::vector<double> outputs(const std::vector<double>& x) const {
    const auto a = gate(x);
    std::vector<double> f(classes, 0.0);
    for (std::size_t e = 0; e < experts; ++e) {
      const auto p = softmax(affine(x, kernel[e], bias[e]));
      for (std::size_t k = 0; k < classes; ++k) f[k] += a[e] * p[k];
    }
    return f;
  }
  moxie::Certificate certify(const std::vector<double>& x, Index y) const {
    const auto a = gate(x);
    std::vector<double> r(experts, 0.0), lip;
    for (std::size_t e = 0; e < experts; ++e) {
      if (!hard)
        r[e] = moxie::softmax_coordinate(moxie::linf_bound(Matrix(router.data(), width, experts)))
                   .value;
      lip.push_back(
          moxie::softmax_coordinate(moxie::linf_bound(Matrix(kernel[e].data(), width, classes)))
              .value);
    }
    const MixtureConstants c{.gate = a, .gate_lip = r, .expert_lip = {lip.data(), experts, 1}};
    const auto formula = moxie::certify_mixture(outputs(x), y, c);
    if (!hard) return formula;
    const auto z = affine(x, router, router_bias);
    return moxie::within_route(formula,
                               moxie::route_radius(z, Matrix(router.data(), width, experts), 1));
  }
};

Index argmax(const std::vector<double>& v) {
  return std::max_element(v.begin(), v.end()) - v.begin();
}

}  // namespace

TEST_CASE("certificates by hand") {
  const double gate[] = {.5, .5}, r[] = {.5, .5}, lip[] = {2, 4};
  const MixtureConstants c{.gate = gate, .gate_lip = r, .expert_lip = {lip, 2, 1}};
  const double f[] = {.7, .2, .1};
  CHECK(moxie::mixture_slope(c, 0) == doctest::Approx(4).epsilon(1e-14));
  CHECK(moxie::mixture_slope(c, 0) >= 4);
  CHECK(moxie::certify_mixture(f, 0, c).radius == doctest::Approx(.0625).epsilon(1e-12));
  CHECK(moxie::certify_mixture(f, 0, c).radius <= .0625);
  CHECK(moxie::certify_mixture(f, 1, c).radius == 0);
  CHECK(moxie::published_radius(f, 0, c).radius == doctest::Approx(.125));
  CHECK(moxie::published_radius(f, 0, c).label == moxie::Soundness::diagnostic);
  CHECK(moxie::certify_dual(f, 0, .8, c).radius == doctest::Approx(.03125).epsilon(1e-12));
  CHECK(moxie::certify_dual(f, 0, .6, c).radius == 0);  // the margin .5 is below .4 / .6
  CHECK(moxie::certify_dual(f, 0, .6, c).applicable);
  CHECK_FALSE(moxie::certify_dual(f, 0, .5, c).applicable);
  // Both known and alike: as one of them
  CHECK(moxie::certify_dual_pair(f, 0, .8, c, c).radius == doctest::Approx(.0625).epsilon(1e-12));
  MixtureConstants sampled = c;
  sampled.label = moxie::Soundness::diagnostic;
  CHECK(moxie::certify_dual_pair(f, 0, .8, sampled, c).label == moxie::Soundness::diagnostic);

  const double logits[] = {1, 0};
  const double kernel[] = {1, -1, 2, 0};  // columns (1, 2) and (-1, 0): 4 apart
  CHECK(moxie::route_radius(logits, {kernel, 2, 2}, 1) == doctest::Approx(.25).epsilon(1e-12));
  CHECK(std::isinf(moxie::route_radius(logits, {kernel, 2, 2}, 2)));
  const double tie[] = {1, 1};
  CHECK(moxie::route_radius(tie, {kernel, 2, 2}, 1) == 0);
  const auto inside = moxie::within_route({.radius = .5}, .25);
  CHECK(inside.radius == .25);
  CHECK(inside.limited_by_route);
}

TEST_CASE("Lipschitz bounds by hand, Gram iteration from above, power iteration from below") {
  const double diagonal[] = {2, 0, 0, 1};
  const Matrix d(diagonal, 2, 2);
  const double wanted[] = {2.236068, 2.030543, 2.000975, 2.000002};
  for (int k = 0; k < 4; ++k)
    CHECK(moxie::gram_iteration(d, k) == doctest::Approx(wanted[k]).epsilon(1e-6));
  CHECK(moxie::spectral_bound(d).value == doctest::Approx(2).epsilon(2e-6));
  CHECK(moxie::spectral_bound(d).value >= 2);
  CHECK(moxie::power_iteration(d, 1).label == moxie::Soundness::estimate);
  const double kernel[] = {1, -2, 3, 4};  // columns sum to 4 and 6
  CHECK(moxie::linf_bound({kernel, 2, 2}).value == doctest::Approx(6));
  CHECK(moxie::linf_bound({kernel, 2, 2}).value >= 6);
  // |W1| sums into hidden units 4 and 6, by |W2|: 4 * 1 + 6 * 0.5
  const double second[] = {1, 0.5};
  CHECK(moxie::mlp_linf_bound({kernel, 2, 2}, {second, 2, 1}, moxie::relu_slope).value ==
        doctest::Approx(7));
  CHECK(moxie::residual_bound({2}).value == doctest::Approx(3));
  CHECK(moxie::chain({2}, {3, moxie::Soundness::estimate}).label == moxie::Soundness::estimate);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const auto w = moxie::test::normals(7 * 4, seed);
    const Matrix tall(w.data(), 7, 4), wide(w.data(), 4, 7);
    for (const Matrix& m : {tall, wide}) {
      const double exact = moxie::gram_iteration(m, 45);
      double last = moxie::frobenius_norm(m) * (1 + 1e-15);
      for (int k = 0; k <= 12; ++k) {
        const double bound = moxie::gram_iteration(m, k);
        CHECK(bound <= last * (1 + 1e-14));
        CHECK(bound >= exact * (1 - 1e-13));
        last = bound;
      }
      CHECK(moxie::power_iteration(m, 5).value <= exact * (1 + 1e-13));
      CHECK(moxie::power_iteration(m, 3000).value == doctest::Approx(exact).epsilon(1e-6));
    }
  }
  const double bad[] = {1, NAN};
  CHECK(moxie::test::message_of<moxie::numeric_error>([&] {
          moxie::linf_bound({bad, 1, 2});
        }).starts_with("moxie::linf_bound: element [0, 1] is"));
}

TEST_CASE("what is not known certifies nothing, unless it has no weight") {
  const double gate[] = {1, 0}, hard[] = {0, 0}, soft[] = {.5, .5};
  const double inf = std::numeric_limits<double>::infinity();
  const double f[] = {.7, .2, .1};
  const double known_first[] = {2, inf}, known_second[] = {inf, 2};
  const MixtureConstants first{.gate = gate, .gate_lip = hard, .expert_lip = {known_first, 2, 1}};
  CHECK(moxie::certify_mixture(f, 0, first).radius == doctest::Approx(.125).epsilon(1e-12));
  const MixtureConstants second{.gate = gate, .gate_lip = hard, .expert_lip = {known_second, 2, 1}};
  CHECK(moxie::certify_mixture(f, 0, second).radius == 0);
  // Scores without a bound do not matter to gates that stand still, and are all to others
  MixtureConstants unbounded = first;
  unbounded.most = inf;
  CHECK(moxie::certify_mixture(f, 0, unbounded).radius == doctest::Approx(.125).epsilon(1e-12));
  unbounded.gate_lip = soft;
  CHECK(moxie::certify_mixture(f, 0, unbounded).radius == 0);
  // A part of a dual model that has no weight need not be known
  CHECK(moxie::certify_dual_pair(f, 0, 1, second, first).radius ==
        doctest::Approx(.125).epsilon(1e-12));
  CHECK(moxie::certify_dual_pair(f, 0, .9, second, first).radius == 0);

  for (const double bad : {std::nan(""), -1.0}) {
    const double lip[] = {2, bad};
    const MixtureConstants c{.gate = gate, .gate_lip = hard, .expert_lip = {lip, 2, 1}};
    CHECK(
        moxie::test::message_of<moxie::numeric_error>([&] { moxie::certify_mixture(f, 0, c); })
            .starts_with("moxie::mixture_slope: expert 1 has the gate 0 of constant 0, outputs of "
                         "constant"));
  }
  const double logits[] = {1, 0}, kernel[] = {1, NAN};
  CHECK(moxie::test::message_of<moxie::numeric_error>([&] {
          moxie::route_radius(logits, {kernel, 1, 2}, 1);
        }).starts_with("moxie::route_radius: element [0, 1] is"));
  CHECK(moxie::within_route({.radius = .5}, NAN).radius == 0);
}

TEST_CASE("certificates are rounded down, whatever is added up") {
  // 1 and 4095 times 1e-16, each of which is lost in a sum that begins with 1
  constexpr Index many = 4096;
  std::vector<double> lip(many, 1e-16), ones(many, 1), zeros(many, 0);
  lip[0] = 1;
  const MixtureConstants c{.gate = ones, .gate_lip = zeros, .expert_lip = {lip.data(), many, 1}};
  const double f[] = {1, 0};
  CHECK(moxie::certify_mixture(f, 0, c).radius * 2 * (1 + 4.095e-13) <= 1);
  // alpha 3/4: the robust part has to lead by more than 1/3. It does by 2^-54 / 6, of which rounding
  // makes 2^-54; both outputs move by 2^-56 R
  const double p[] = {0x1.5555555555557p-2, 3 * 0x1p-55};
  const double slope = 0x1p-56;
  const MixtureConstants slow{
      .gate = {ones.data(), 1}, .gate_lip = {zeros.data(), 1}, .expert_lip = {&slope, 1, 1}};
  CHECK(moxie::certify_dual(p, 0, .75, slow).radius <= 1.0 / 3);
}

TEST_CASE("no sampling and no attack succeeds inside a certified radius") {
  Index certified = 0, broken = 0, by_route = 0, outside = 0;
  Index certified_trained = 0, learned = 0;
  for (std::uint64_t model = 0; model < 60; ++model) {
    const bool trained = model % 6 < 2;  // soft and hard ones, of small random weights or of large
    Mixture mixture(model * 100, model % 3 == 0 ? 0.3 : 1.5, model % 2 == 1);
    if (trained) mixture.train(3000, 0.1, 100 + model);
    const auto points = moxie::test::normals(200 * width, 5000 + model);
    const auto signs = moxie::test::normals(200 * width * 4, 9000 + model);
    for (Index n = 0; n < 200; ++n) {
      const std::vector<double> x(points.begin() + n * width, points.begin() + (n + 1) * width);
      const Index y = argmax(mixture.outputs(x));
      learned += trained && y == Mixture::class_of(x) ? 1 : 0;
      const auto c = mixture.certify(x, y);
      REQUIRE(c.applicable);
      if (!(c.radius > 0) || !std::isfinite(c.radius)) continue;
      ++certified;
      certified_trained += trained ? 1 : 0;
      by_route += c.limited_by_route ? 1 : 0;
      const auto survives = [&](const std::vector<double>& d, double radius) {
        auto moved = x;
        for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += std::copysign(radius, d[i]);
        return argmax(mixture.outputs(moved)) == y;
      };
      for (Index s = 0; s < 4; ++s) {
        const auto first = signs.begin() + (n * 4 + s) * width;
        broken += survives({first, first + width}, c.radius) ? 0 : 1;
      }
      // Against the gradient of each margin, by differences
      for (Index j = 0; j < classes; ++j) {
        if (j == y) continue;
        std::vector<double> d;
        for (std::size_t i = 0; i < x.size(); ++i) {
          const auto margin = [&](double shift) {
            auto moved = x;
            moved[i] += shift;
            const auto f = mixture.outputs(moved);
            return f[static_cast<std::size_t>(y)] - f[static_cast<std::size_t>(j)];
          };
          d.push_back(margin(-1e-6) - margin(1e-6));
        }
        broken += survives(d, c.radius) ? 0 : 1;
        outside += survives(d, 40 * c.radius) ? 0 : 1;
      }
    }
  }
  CHECK(certified >= 10000);
  CHECK(certified_trained > 3000);
  CHECK(learned > 3000);  // of 4000; a third by chance
  CHECK(broken == 0);
  CHECK(by_route > 100);
  CHECK(outside > 100);  // the attack is one
}

}  // namespace certificate_test
