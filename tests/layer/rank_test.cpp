// Routes by rank: the ranking is that by which the router selects.
#include <doctest/doctest.h>

#include <cmath>

#include "moxie/capacity/dropless.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/router/hash.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_router.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/testing/pass_through.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"
#include "support/parameters.hpp"

namespace moxie::test::rank_test {

namespace {

using Ints = std::vector<std::int32_t>;

/// A layer whose logits are its input, and whose router has its type at run time.
template <class B>
struct Bench {
  using L = MoeLayer<B, WithGate<AnyGate<B>, AnyRouter<B>>, Dropless, testing::PassThrough>;
  B& backend;
  L layer;

  Bench(B& b, Index experts, AnyRouter<B> router, const std::vector<double>& bias = {})
      : backend(b),
        layer(b, MoeShape{.width = experts, .experts = experts},
              WithGate{AnyGate<B>(LinearGate{}), std::move(router)}, Dropless{},
              testing::PassThrough{}) {
    Parameters<B>& p = layer.parameters();
    std::vector<double> identity(static_cast<std::size_t>(experts * experts));
    for (Index e = 0; e < experts; ++e) identity[static_cast<std::size_t>(e * (experts + 1))] = 1;
    set_parameter(p, "Router/kernel", identity);
    for (std::size_t i = 0; i < p.entries().size(); ++i)
      if (p.entry(i).name == "Router/bias") testing::detail::from_host(b, p.buffer(i), bias);
  }
  /// The first column of choices, or another.
  Ints choices(const std::vector<double>& logits, const Routes<B>& routes, Index column = 0) {
    const Index experts = layer.input_width();
    const Index tokens = static_cast<Index>(logits.size()) / experts;
    const testing::detail::OwnedMatrix<B> x(backend, tokens, experts, logits);
    testing::detail::OwnedMatrix<B> y(backend, tokens, experts);
    auto tape = layer.make_tape(tokens);
    Pass<B> pass{.mode = Mode::eval};
    if (!routes.empty()) pass.routes = {&routes, 1};
    layer.forward(x.read(), y.view(), tape, pass);
    const Ints all = testing::detail::to_host(backend, tape->routing.choice);
    const auto k = all.size() / static_cast<std::size_t>(tokens);
    Ints out;
    for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t)
      out.push_back(all[t * k + static_cast<std::size_t>(column)]);
    return out;
  }
  Ints of_rank(const std::vector<double>& logits, Index rank) {
    return choices(logits, {.rank = rank});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("ranks are those of scores and bias", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const std::vector<double> logits{std::log(.50), std::log(.45), std::log(.05)};
  Bench<B> bench(backend, 3, AnyRouter<B>(WithBias{BiasBalance{}, TopKRouter{}}), {-.1, 0, 0});
  CHECK(bench.choices(logits, {}) == Ints{1});  // .40 .45 .05
  CHECK(bench.of_rank(logits, 0) == Ints{1});
  CHECK(bench.of_rank(logits, 1) == Ints{0});
  CHECK(bench.of_rank(logits, 2) == Ints{2});
  Bench<B> plain(backend, 3, AnyRouter<B>(TopKRouter{}));
  CHECK(plain.of_rank(logits, 0) == Ints{0});
  CHECK(plain.of_rank(logits, 1) == Ints{1});
}

TEST_CASE_TEMPLATE("ranks go through a token's groups first", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  // Scores .95 .05 | .88 .88: the second group has the larger sum, 1.76
  const std::vector<double> logits{3, -3, 2, 2};
  Bench<B> bench(backend, 4, AnyRouter<B>(SigmoidTopKRouter{.expert_groups = 2}));
  CHECK(bench.choices(logits, {}) == Ints{2});
  const std::int32_t wanted[] = {2, 3, 0, 1};
  for (Index rank = 0; rank < 4; ++rank) CHECK(bench.of_rank(logits, rank) == Ints{wanted[rank]});
}

TEST_CASE_TEMPLATE("ranks are those of the plan where a router makes one", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  constexpr Index tokens = 12, experts = 4;
  std::vector<double> logits = normals(tokens * experts, 3);
  for (std::size_t i = 0; i < logits.size(); i += experts) logits[i] += 1;  // all like the first
  const auto check = [&](AnyRouter<B> router) {
    Bench<B> bench(backend, experts, std::move(router));
    for (const Index rank : {0, 1})
      CHECK(bench.of_rank(logits, rank) == bench.choices(logits, {}, rank));
    Bench<B> plain(backend, experts, AnyRouter<B>(TopKRouter{}));
    CHECK(bench.of_rank(logits, 0) != plain.of_rank(logits, 0));
  };
  check(AnyRouter<B>(SinkhornTopKRouter{.k = 2}));
  check(AnyRouter<B>(SparseTopKRouter{.k = 2, .max_iterations = 300, .learning_rate = 0.1}));
}

TEST_CASE_TEMPLATE("behind the choices of a sparse plan ranks are those of similarities", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  // Of one choice each row of the plan has one number, and the rest of it says nothing
  const std::vector<double> logits{0, 1, 2, 3, 3, 0, 1, 2, 2, 3, 0, 1};
  Bench<B> bench(backend, 4, AnyRouter<B>(SparseTopKRouter{.k = 1}));
  CHECK(bench.choices(logits, {}) == Ints{3, 0, 1});
  CHECK(bench.of_rank(logits, 0) == Ints{3, 0, 1});
  CHECK(bench.of_rank(logits, 1) == Ints{2, 3, 0});
  CHECK(bench.of_rank(logits, 2) == Ints{1, 2, 3});
  CHECK(bench.of_rank(logits, 3) == Ints{0, 1, 2});
}

TEST_CASE("a router that selects by no scores has no ranks") {
  using B = CpuBackend<double>;
  B backend;
  CHECK(AnyRouter<B>(TopKRouter{}).ranks());
  const AnyRouter<B> hash(HashRouter{});
  CHECK(hash.composed());
  CHECK_FALSE(hash.ranks());
  Bench<B> bench(backend, 3, hash);
  CHECK(
      message_of<config_error>([&] {
        bench.of_rank({1, 2, 3}, 1);
      }) ==
      "moxie::MoeLayer::forward: pass.routes: rank is 1, expected choices: this router selects "
      "by no scores, or shows none (a member `ranked`, router/concept.hpp), so its experts have no "
      "ranks");
}

}  // namespace moxie::test::rank_test
