// NextChoice where a router's choices are not the first ranks.
#include "moxie/capacity/next_choice.hpp"

#include <algorithm>

#include "moxie/capacity/fixed.hpp"
#include "moxie/router/ensemble.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/capacity_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;
using testing::SparseFixture;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {
const WithOverflow one_slot{NextChoice{}, FixedCapacity{1}};
}

TEST_CASE_TEMPLATE("a router that ranks nothing: the next expert is the first not listed", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 3, .experts = 3, .choices = 1, .capacity = 1});
  f.set_logits(std::vector<double>(9, 0.0));
  f.set_choices({2, 2, 2});
  f.assign(one_slot);
  CHECK(f.choices() == Ints{2, 0, 1});
  CHECK(f.rows() == Ints{2, 0, 1});
}

TEST_CASE_TEMPLATE("a softmax in the plan's place is not what ranks the next choice", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const SinkhornTopKRouter router{.plan_at_eval = false};
  const RoutingShape s{
      .tokens = 2, .experts = 3, .choices = 1, .group = 2, .capacity = 1, .assignments = 2};
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_mode(Mode::eval);
  f.set_logits({0, 2000, 4000, 0, 2000, 4000});  // the softmax is 0, 0, 1
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{2, 2});
  f.assign(one_slot);
  CHECK(f.choices() == Ints{2, 1});
}

TEST_CASE_TEMPLATE("the next choice may lie outside the groups of experts that a token took", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const SigmoidTopKRouter router{.k = 2, .expert_groups = 2};
  const RoutingShape s{.tokens = 2, .experts = 4, .choices = 2, .group = 2, .capacity = 1};
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_logits({3, -9, 2, 1, 3, -9, 2, 1});  // the second group has the larger sum
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{2, 3, 2, 3});
  f.assign(one_slot);
  CHECK(f.choices() == Ints{2, 3, 0, 1});
}

TEST_CASE_TEMPLATE("the next choice stays inside a row's block", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router, RoutingTraits traits) {
    SparseFixture<B> f(backend, {.tokens = 5, .experts = 4, .choices = 1, .capacity = 1}, traits);
    f.set_mask({1, 0, 1, 0, 1});  // all that is left belongs to the first block
    f.set_logits(Draw(1).normals(20));
    router.route(backend, f.context, f.routing);
    f.assign(one_slot);
    int kept = 0;
    for (std::size_t t = 0; t < 5; ++t) {
      CHECK(f.choices()[t] < 2);
      kept += f.rows()[t] >= 0 ? 1 : 0;
    }
    CHECK(kept == 2);
  };
  const EnsembleBlocks blocks{.members = 2};
  check(WithBlocks{blocks, TopKRouter{}}, {});
  check(WithBlocks{blocks, SigmoidTopKRouter{}}, {});
  // A noise so large that it moves the lowest number in float.
  const GaussianNoise noise{.std = 1e30, .per_expert = false};
  check(WithBlocks{blocks, WithNoise{noise, TopKRouter{}}}, {.noisy = true});
  check(WithNoise{noise, WithBlocks{blocks, TopKRouter{}}}, {.noisy = true});
}

TEST_CASE_TEMPLATE("with any choices, drops remain only where all other experts are full", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(6);
  Index lost = 0;
  for (int i = 0; i < 1000; ++i) {
    CAPTURE(i);
    const Index group = draw.from(1, 8);
    RoutingShape s{.tokens = group * draw.from(1, 3),
                   .experts = draw.from(1, 6),
                   .group = group,
                   .capacity = draw.from(1, 3)};
    s.choices = draw.from(1, s.experts);
    SparseFixture<B> f(backend, s);
    f.set_logits(draw.normals(s.tokens * s.experts));
    f.set_choices(testing::detail::draw_choices(draw, s.tokens, s.experts, s.choices, {}));
    const Ints before = f.choices();
    f.assign(WithOverflow{NextChoice{}, FixedCapacity{s.capacity}});
    const Ints choice = f.choices();
    const Ints row = f.rows();
    const auto at = [&](Index t, Index k) { return static_cast<std::size_t>(t * s.choices + k); };
    const auto keeps = [&](Index t, Index e) {
      for (Index k = 0; k < s.choices; ++k)
        if (choice[at(t, k)] == e && row[at(t, k)] >= 0) return true;
      return false;
    };
    REQUIRE(std::count(choice.begin(), choice.end(), -1) ==
            std::count(before.begin(), before.end(), -1));
    for (Index t = 0; t < s.tokens; ++t)
      for (Index k = 0; k < s.choices; ++k) {
        for (Index j = 0; j < k; ++j)
          REQUIRE((choice[at(t, k)] < 0 || choice[at(t, j)] != choice[at(t, k)]));
        if (choice[at(t, k)] < 0 || row[at(t, k)] >= 0) continue;
        ++lost;
        for (Index e = 0; e < s.experts; ++e) {
          if (keeps(t, e)) continue;
          Index held = 0;
          for (Index u = t / group * group; u < (t / group + 1) * group; ++u)
            held += keeps(u, e) ? 1 : 0;
          REQUIRE(held == s.capacity);
        }
      }
  }
  CHECK(lost > 200);
}
