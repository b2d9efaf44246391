// SoftRouter without a layer: the softmaxes over tokens and over slots, and their gradients.
#include "moxie/router/soft.hpp"

#include <limits>

#include "router/soft_fixture.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;

namespace {}  // namespace

TEST_CASE_TEMPLATE("SoftRouter: two tokens and two slots by hand", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  SoftFixture<B> f(backend, {.tokens = 2, .experts = 2, .capacity = 1});
  f.set(f.routing.logits, {std::log(3), 0, 0, std::log(3)});
  SoftRouter{}.route(backend, f.context, f.routing);
  check_near(f.get(f.routing.dispatch), {.75, .25, .25, .75});
  check_near(f.get(f.routing.combine), {.75, .25, .25, .75});
  check_near(f.get(f.routing.probs), {.75, .25, .25, .75});
}

TEST_CASE_TEMPLATE("SoftRouter: probs add up an expert's slots, groups stay apart", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  // Two groups of two tokens, two experts of two slots. exp of the logits: 1 2 3 4 | 3 2 1 4, and
  // the same again for the second group but with its first token's shifted by 5.
  SoftFixture<B> f(backend, {.tokens = 4, .experts = 2, .group = 2, .capacity = 2});
  std::vector<double> logits;
  for (const double v : {1., 2., 3., 4., 3., 2., 1., 4., 1., 2., 3., 4., 3., 2., 1., 4.})
    logits.push_back(std::log(v));
  for (std::size_t i = 8; i < 12; ++i) logits[i] += 5;
  f.set(f.routing.logits, logits);
  SoftRouter{}.route(backend, f.context, f.routing);
  check_near(f.get(f.routing.combine), {.1, .2, .3, .4, .3, .2, .1, .4,  //
                                        .1, .2, .3, .4, .3, .2, .1, .4});
  check_near(f.get(f.routing.probs), {.3, .7, .5, .5, .3, .7, .5, .5});
  const double e = std::exp(5);
  check_near(f.get(f.routing.dispatch), {.25, .5, .75, .5, .75, .5, .25, .5,  //
                                         e / (e + 3), e / (e + 1), 3 * e / (3 * e + 1), e / (e + 1),
                                         3 / (e + 3), 1 / (e + 1), 1 / (3 * e + 1), 1 / (e + 1)});
}

TEST_CASE_TEMPLATE("SoftRouter: slots sum to 1 over tokens and tokens to 1 over slots", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  Draw draw(3);
  for (int number = 0; number < 40; ++number) {
    const Index group = draw.from(1, 9);
    const RoutingShape shape{.tokens = group * draw.from(1, 3),
                             .experts = draw.from(1, 11),
                             .group = group,
                             .capacity = draw.from(1, 4)};
    SoftFixture<B> f(backend, shape);
    CAPTURE(number);
    std::vector<double> logits = draw.normals(shape.tokens * f.columns());
    if (number % 3 == 0)
      for (double& v : logits) v *= 200;  // saturated
    std::vector<std::int32_t> mask;
    if (number % 2 == 0)
      for (Index t = 0; t < shape.tokens; ++t) mask.push_back(draw.chance(0.6) ? 1 : 0);
    f.set(f.routing.logits, logits);
    f.set_mask(mask);
    SoftRouter{}.route(backend, f.context, f.routing);
    const auto dispatch = f.get(f.routing.dispatch);
    const auto combine = f.get(f.routing.combine);
    const auto probs = f.get(f.routing.probs);
    const auto counts = [&](Index t) { return mask.empty() || mask[to_size(t)] != 0; };
    for (Index t = 0; t < shape.tokens; ++t) {
      double sum = 0;
      double mass = 0;
      for (Index c = 0; c < f.columns(); ++c) {
        const T d = dispatch[to_size(t * f.columns() + c)];
        const T w = combine[to_size(t * f.columns() + c)];
        CHECK(d >= 0);
        CHECK(w >= 0);
        if (!counts(t)) CHECK((d == 0 && w == 0));
        sum += static_cast<double>(w);
      }
      for (Index e = 0; e < shape.experts; ++e)
        mass += static_cast<double>(probs[to_size(t * shape.experts + e)]);
      CHECK(testing::near(sum, counts(t) ? 1 : 0, testing::tolerance<T>));
      CHECK(testing::near(mass, counts(t) ? 1 : 0, testing::tolerance<T>));
    }
    for (Index g = 0; g < shape.groups(); ++g) {
      bool any = false;
      for (Index t = g * group; t < (g + 1) * group; ++t) any = any || counts(t);
      for (Index c = 0; c < f.columns(); ++c) {
        double sum = 0;
        for (Index t = g * group; t < (g + 1) * group; ++t)
          sum += static_cast<double>(dispatch[to_size(t * f.columns() + c)]);
        CHECK(testing::near(sum, any ? 1 : 0, testing::tolerance<T>));
      }
    }
  }
}

TEST_CASE("SoftRouter: gradients of dispatch, combine and probs agree with central differences") {
  CpuBackend<double> backend;
  Draw draw(5);
  for (int number = 0; number < 12; ++number) {
    const Index group = draw.from(1, 5);
    const RoutingShape shape{.tokens = 2 * group,
                             .experts = draw.from(1, 9),
                             .group = group,
                             .capacity = draw.from(1, 3)};
    SoftFixture<CpuBackend<double>> f(backend, shape);
    if (number % 2 == 1) {
      std::vector<std::int32_t> mask(to_size(shape.tokens), 1);
      mask[0] = 0;
      f.set_mask(mask);
    }
    const Index n = shape.tokens * f.columns();
    const std::vector<double> logits = draw.normals(n);
    const std::vector<double> a = draw.normals(n);
    const std::vector<double> b = draw.normals(n);
    const std::vector<double> c = draw.normals(shape.tokens * shape.experts);
    const auto loss = [&](const std::vector<double>& from) {
      f.set(f.routing.logits, from);
      SoftRouter{}.route(backend, f.context, f.routing);
      using testing::detail::dot;
      return dot(a, f.get(f.routing.dispatch)) + dot(b, f.get(f.routing.combine)) +
             dot(c, f.get(f.routing.probs));
    };
    loss(logits);
    f.zero_gradients();
    f.set(f.gradients.dispatch, a);
    f.set(f.gradients.combine, b);
    f.set(f.gradients.probs, c);
    f.set(f.gradients.logits, std::vector<double>(to_size(n), 7.0));  // is added to
    SoftRouter{}.route_backward(backend, f.context, f.routing, f.gradients);
    const std::vector<double> d = f.get(f.gradients.logits);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      std::vector<double> up = logits;
      std::vector<double> down = logits;
      up[i] += 1e-5;
      down[i] -= 1e-5;
      CHECK(testing::near(d[i] - 7, (loss(up) - loss(down)) / 2e-5, 1e-8));
    }
  }
}

TEST_CASE_TEMPLATE("SoftRouter: noise has its own deviation, in training only", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const SoftRouter router{.noise = 2};
  const auto draw = [&](Index tokens, Index first, std::uint64_t step, Mode mode) {
    SoftFixture<B> f(backend, {.tokens = tokens, .experts = 8, .capacity = 2});
    f.context.mode = mode;
    f.context.first_token = first;
    f.context.step = step;
    f.set(f.routing.logits, std::vector<double>(to_size(tokens * 16), 3));
    router.route(backend, f.context, f.routing);
    return f.get(f.routing.logits);
  };
  const auto all = draw(2000, 0, 1, Mode::train);
  double squares = 0;
  for (const auto v : all) squares += std::pow(static_cast<double>(v) - 3, 2);
  CHECK(std::sqrt(squares / static_cast<double>(all.size())) == doctest::Approx(2).epsilon(0.02));
  const auto tail = draw(1000, 1000, 1, Mode::train);
  CHECK(std::vector(all.begin() + 16000, all.end()) == tail);
  CHECK(draw(2000, 0, 2, Mode::train) != all);
  for (const auto v : draw(4, 0, 1, Mode::eval)) CHECK(v == 3);
}

TEST_CASE("SoftRouter refuses noise that makes no sense") {
  CHECK_THROWS_WITH_AS(SoftRouter{.noise = -1}.check(4),
                       "moxie::SoftRouter: noise is -1, expected 0 to 1e30", config_error);
  CHECK_THROWS_WITH_AS(SoftRouter{.noise = std::numeric_limits<double>::infinity()}.check(4),
                       "moxie::SoftRouter: noise is inf, expected 0 to 1e30", config_error);
}
