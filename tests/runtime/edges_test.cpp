// Every router at the edge: numbers that are none, the smallest sizes, no tokens.
#include <doctest/doctest.h>

#include <limits>

#include "runtime/rich_layers.hpp"

using namespace moxie;
using namespace moxie::test;
using Ints = std::vector<std::int32_t>;

TEST_CASE_TEMPLATE("NaN in a token is an error that names it, whatever the router", B,
                   CpuBackend<double>, CpuBackend<float>) {
  B backend;
  for (const std::string& name : all_routers<B>()) {
    if (name == "hash") continue;  // no gate looks at the token
    CAPTURE(name);
    MoeConfig c = rich_config(name);
    c.shape.group = 4;
    const AnyLayer<B> layer = made_layer(backend, c);
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      std::vector<double> x = normals(40, 1);
      x[5 * 5 + 2] = bad;
      x[7 * 5 + 1] = bad;
      const std::string what = message_of<numeric_error>(
          [&] { (void)run(layer, x, normals(40, 2), Pass<B>{.step = 6, .first_token = 100}); });
      CAPTURE(what);
      CHECK(what.starts_with("moxie::MoeLayer::forward: the gate's logits of token 105 (expert "));
      CHECK(what.find("MoE layer 0, step 6) are NaN or infinite") != std::string::npos);
    }
  }
}

TEST_CASE_TEMPLATE("sizes at the edge: one expert, all experts, groups of one token, no token", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  using T = typename B::Scalar;
  for (const std::string& name : all_routers<B>()) {
    CAPTURE(name);
    const bool tokens_choose = !chooses_tokens_or_mixes(name);
    const auto runs = [&](MoeConfig c, Index tokens, const Pass<B>& pass = {.seed = 1}) {
      const auto ran = run(made_layer(backend, c), tokens, pass);
      CHECK(all_finite(ran.y));
      CHECK(all_finite(ran.dx));
      CHECK(all_finite(ran.gradients));
      CHECK(all_finite(ran.losses));
      return ran;
    };
    {  // E = 1: everything goes to the only expert
      MoeConfig c = rich_config(name);
      c.shape.experts = 1;
      c.router.k = 1;
      c.capacity.slots = 7;
      const auto ran = runs(c, 7);
      if (name != "soft") CHECK(ran.token.size() == 7);
    }
    if (tokens_choose) {  // K = E: every token to every expert
      MoeConfig c = rich_config(name);
      c.router.k = 3;
      c.capacity.rule = "dropless";
      const auto ran = runs(c, 7);
      CHECK(ran.offset == Ints{0, 7, 14, 21});
    }
    {  // S = 1
      MoeConfig c = rich_config(name);
      c.shape.group = 1;
      const auto ran = runs(c, 7);
      if (experts_choose(name)) CHECK(ran.offset == Ints{0, 7, 14, 21});
    }
    {  // capacity above S
      MoeConfig c = rich_config(name);
      c.shape.group = 4;
      c.capacity.slots = 9;
      const auto ran = runs(c, 8);
      if (experts_choose(name) && name != "sparse_expert_choice")
        CHECK(ran.offset == Ints{0, 8, 16, 24});
      if (tokens_choose) CHECK(ran.token.size() == 16);
    }
    {  // one token that is no padding: some experts have none; then none at all
      MoeConfig c = rich_config(name);
      c.shape.group = 4;
      c.router.k = 1;
      Ints only(8, 0);
      const test::Buffer<std::int32_t, B> none(backend, only);
      const auto nothing = runs(c, 8, {.seed = 1, .mask = none.view()});
      CHECK(all_zero(nothing.y));
      CHECK(all_zero(nothing.dx));
      CHECK(all_zero(nothing.gradients));
      if (name != "soft") CHECK(nothing.token.empty());
      only[2] = 1;
      const test::Buffer<std::int32_t, B> one(backend, only);
      const auto ran = runs(c, 8, {.seed = 1, .mask = one.view()});
      CHECK_FALSE(all_zero(ran.y));
      if (tokens_choose) CHECK(ran.token == Ints{2});
      if (experts_choose(name)) CHECK(ran.token == Ints{2, 2, 2});
    }
    for (const Index group : {0, 4}) {  // no tokens
      MoeConfig c = rich_config(name);
      c.shape.group = group;
      const auto ran = runs(c, 0);
      CHECK(ran.y.empty());
      CHECK(ran.dx.empty());
      CHECK(all_zero(ran.gradients));
      CHECK(ran.losses == std::vector<T>{0});
      // Also on a tape that has room, after a pass that had tokens.
      const AnyLayer<B> layer = made_layer(backend, c);
      auto tape = make_tape(layer, 8);
      const testing::detail::OwnedMatrix<B> x(backend, 8, 5, normals(40, 1));
      const testing::detail::OwnedMatrix<B> y(backend, 8, 5);
      layer.forward(x.read(), y.view(), tape, {});
      const Ran<T> before = run(layer, 8);
      layer.parameters().zero_gradients();
      layer.forward(x.read().top(0), y.view().top(0), tape, {});
      layer.backward(x.read().top(0), y.view().top(0), tape);
      CHECK(all_zero(
          testing::detail::to_host(backend, ConstVector<B>(layer.parameters().gradients()))));
      CHECK(run(layer, 8) == before);
    }
  }
}
