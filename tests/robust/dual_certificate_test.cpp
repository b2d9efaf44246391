// Radii of dual models whose parts route each input to one gated expert, put together as `vmoe
// certify` does.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "moxie/robust/certificate.hpp"
#include "support/numbers.hpp"

namespace dual_certificate_test {

namespace {

using moxie::Index;
using Matrix = moxie::MatrixView<const double>;
using Numbers = std::vector<double>;

constexpr Index width = 6, experts = 3, classes = 3;

Index best_of(const Numbers& v) { return std::max_element(v.begin(), v.end()) - v.begin(); }
std::size_t at(Index i) { return static_cast<std::size_t>(i); }

Numbers affine(const Numbers& x, const Numbers& w, Index outputs) {
  Numbers z(at(outputs), 0.0);
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t o = 0; o < z.size(); ++o) z[o] += x[i] * w[i * z.size() + o];
  return z;
}
Numbers softmax(Numbers z) {
  const double peak = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v - peak);
  for (double& v : z) v /= sum;
  return z;
}

/// a_e(x) f_e(x) of the best expert e alone, f affine and a the softmax of an affine router.
struct Mixture {
  Numbers router;
  std::vector<Numbers> expert;

  Mixture(std::uint64_t seed, double scale) {
    const auto draw = [&](Index n) {
      auto v = moxie::test::normals(n, seed++);
      for (double& x : v) x *= scale;
      return v;
    };
    router = draw(width * experts);
    for (Index e = 0; e < experts; ++e) expert.push_back(draw(width * classes));
  }
  /// Steps of plain gradient descent, an image each, on the cross-entropy of the scores.
  void train(int steps, double rate, std::uint64_t seed) {
    const Numbers images = moxie::test::normals(steps * width, seed);
    for (int t = 0; t < steps; ++t) {
      const Numbers x(images.begin() + t * width, images.begin() + (t + 1) * width);
      const Numbers gates = softmax(affine(x, router, experts));
      const Index e = best_of(gates);
      const Numbers f = affine(x, expert[at(e)], classes);
      Numbers d = softmax(scores(x));
      d[at(class_of(x))] -= 1;
      double d_gate = 0;
      for (Index k = 0; k < classes; ++k) d_gate += d[at(k)] * f[at(k)];
      for (Index i = 0; i < width; ++i) {
        for (Index k = 0; k < classes; ++k)
          expert[at(e)][at(i * classes + k)] -= rate * gates[at(e)] * d[at(k)] * x[at(i)];
        for (Index o = 0; o < experts; ++o)
          router[at(i * experts + o)] -=
              rate * d_gate * gates[at(e)] * ((o == e ? 1 : 0) - gates[at(o)]) * x[at(i)];
      }
    }
  }
  /// What they are trained on: the largest of the first pixels, or the smallest where the last is
  /// negative. No linear map knows it, two experts can.
  static Index class_of(const Numbers& x) {
    const auto end = x.begin() + classes;
    return (x.back() > 0 ? std::max_element(x.begin(), end) : std::min_element(x.begin(), end)) -
           x.begin();
  }
  Numbers scores(const Numbers& x) const {
    const Numbers z = affine(x, router, experts);
    const Index e = best_of(z);
    Numbers f = affine(x, expert[at(e)], classes);
    for (double& v : f) v *= softmax(z)[at(e)];
    return f;
  }
  double route(const Numbers& x) const {
    return moxie::route_radius(affine(x, router, experts), Matrix(router.data(), width, experts),
                               1);
  }
  /// How fast each score can move while the expert stays.
  Numbers slopes(const Numbers& x) const {
    const Index e = best_of(affine(x, router, experts));
    const Numbers f = affine(x, expert[at(e)], classes);
    const double gate =
        moxie::softmax_coordinate(moxie::linf_bound(Matrix(router.data(), width, experts))).value;
    Numbers out;
    for (Index k = 0; k < classes; ++k) {
      Numbers column;
      for (Index i = 0; i < width; ++i) column.push_back(expert[at(e)][at(i * classes + k)]);
      out.push_back(moxie::gated_slope(f[at(k)], gate,
                                       moxie::linf_bound(Matrix(column.data(), width, 1)).value));
    }
    return out;
  }
};

struct Dual {
  Mixture standard, robust;
  double alpha;
  bool probabilities;

  Numbers part(const Mixture& m, const Numbers& x) const {
    return probabilities ? softmax(m.scores(x)) : m.scores(x);
  }
  Numbers outputs(const Numbers& x) const {
    const Numbers s = part(standard, x), r = part(robust, x);
    Numbers out;
    for (std::size_t k = 0; k < s.size(); ++k) out.push_back((1 - alpha) * s[k] + alpha * r[k]);
    return out;
  }
  Numbers slopes(const Mixture& m, const Numbers& x) const {
    const Numbers of_scores = m.slopes(x);
    if (!probabilities) return of_scores;
    const double fastest = *std::max_element(of_scores.begin(), of_scores.end());
    return Numbers(classes, moxie::softmax_coordinate({fastest}).value);
  }
  struct Radii {
    moxie::Certificate alone{}, pair{};
  };
  Radii certify(const Numbers& x, Index y) const {
    const double one = 1, none = 0;
    const Numbers s = slopes(standard, x), r = slopes(robust, x);
    const auto constants = [&](const Numbers& of) -> moxie::MixtureConstants {
      return {.gate = {&one, 1}, .gate_lip = {&none, 1}, .expert_lip = {of.data(), 1, classes}};
    };
    Radii out;
    out.pair = moxie::within_route(
        moxie::certify_dual_pair(outputs(x), y, alpha, constants(s), constants(r)),
        std::fmin(standard.route(x), robust.route(x)));
    out.alone = {.applicable = false};
    if (probabilities)
      out.alone = moxie::within_route(moxie::certify_dual(part(robust, x), y, alpha, constants(r)),
                                      robust.route(x));
    return out;
  }
};

}  // namespace

TEST_CASE("the slope of a gated expert by hand") {
  CHECK(moxie::gated_slope(-3, 0.5, 2) == doctest::Approx(3.5));
  CHECK(moxie::gated_slope(-3, 0.5, 2) >= 3.5);
  CHECK(moxie::gated_slope(7, 0, 2) == doctest::Approx(2));
}

TEST_CASE("nothing breaks a dual model of routed parts inside its radii") {
  Index certified = 0, alone_larger = 0, by_route = 0, broken = 0, outside = 0;
  Index certified_trained = 0, learned = 0;
  for (std::uint64_t n = 0; n < 60; ++n) {
    const double scale = n % 3 == 0 ? 0.3 : 1.2;
    const bool trained = n % 7 < 3;
    Dual dual{{n * 100 + 1, n % 5 == 0 ? 4.0 : scale},
              {n * 100 + 51, scale},
              n % 4 < 2 ? 0.7 : 0.9,
              n % 2 == 1};
    if (trained) {
      dual.standard.train(3000, 0.1, 100 + n);
      dual.robust.train(3000, 0.1, 200 + n);
    }
    const auto points = moxie::test::normals(240 * width, 5000 + n);
    const auto signs = moxie::test::normals(240 * width * 4, 9000 + n);
    for (Index i = 0; i < 240; ++i) {
      const Numbers x(points.begin() + i * width, points.begin() + (i + 1) * width);
      const Index y = best_of(dual.outputs(x));
      learned += trained && y == Mixture::class_of(x) ? 1 : 0;
      const Dual::Radii radii = dual.certify(x, y);
      REQUIRE(radii.alone.applicable == dual.probabilities);
      const bool larger = radii.alone.applicable && radii.alone.radius > radii.pair.radius;
      const moxie::Certificate c = larger ? radii.alone : radii.pair;
      if (!(c.radius > 0) || !std::isfinite(c.radius)) continue;
      ++certified;
      certified_trained += trained ? 1 : 0;
      alone_larger += larger ? 1 : 0;
      by_route += c.limited_by_route ? 1 : 0;
      const auto survives = [&](const Numbers& d, double radius) {
        Numbers moved = x;
        // A route's radius is exact, but the sums here are not: their numbers are below 100 and lose
        // at most a few 1e-14, which at the very end of the radius would cross it.
        const double by = radius - 1e-13;
        for (std::size_t j = 0; j < moved.size(); ++j) moved[j] += std::copysign(by, d[j]);
        return best_of(dual.outputs(moved)) == y;
      };
      for (Index s = 0; s < 4; ++s) {
        const auto first = signs.begin() + (i * 4 + s) * width;
        broken += survives({first, first + width}, c.radius) ? 0 : 1;
      }
      for (Index j = 0; j < classes; ++j) {  // against the gradient of each margin
        if (j == y) continue;
        Numbers d;
        for (std::size_t v = 0; v < x.size(); ++v) {
          const auto margin = [&](double shift) {
            Numbers moved = x;
            moved[v] += shift;
            const Numbers f = dual.outputs(moved);
            return f[at(y)] - f[at(j)];
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
  CHECK(learned > 3000);
  CHECK(broken == 0);
  CHECK(alone_larger > 100);
  CHECK(by_route > 100);
  CHECK(outside > 100);  // the attack is one
}

}  // namespace dual_certificate_test
