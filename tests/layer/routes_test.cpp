// Routes from outside: recorded ones, a rank instead of choices, and what their weights mean.
#include "layer/layers.hpp"

using namespace moxie;
using namespace moxie::test;
using Ints = std::vector<std::int32_t>;

namespace {

/// What a pass decided, in memory of its own: what `record` gives.
template <class L>
struct Recorded {
  using B = typename L::BackendType;
  test::Buffer<std::int32_t, B> choice;
  test::Buffer<typename B::Scalar, B> weight;
  Index tokens, k;

  Recorded(const L& layer, Runner<L>& runner)
      : choice(layer.parameters().backend(), runner.tape().routing.choice.size(), -7),
        weight(layer.parameters().backend(), runner.tape().routing.choice.size(), -7),
        tokens(runner.tape().routing.choice.rows),
        k(runner.tape().routing.choice.cols) {
    layer.record(runner.tape(), choice.view(tokens, k), weight.view(tokens, k));
  }
  Routes<B> routes(typename Routes<B>::Weights weights) const {
    return {.choice = choice.view(tokens, k), .weight = weight.view(tokens, k), .weights = weights};
  }
};

}  // namespace

TEST_CASE_TEMPLATE("recorded routes replay a pass bit for bit, drops included", B,
                   MOXIE_TEST_BACKENDS) {
  using Weights = typename Routes<B>::Weights;
  B backend = make_backend<B>();
  const Config<B> c{.priority = "bpr", .capacity = CapacityFactor{.factor = 1}};
  const Moe<B> layer = make_moe(backend, c);
  Runner<Moe<B>> runner(layer, 16);
  const std::vector<double> x = normals(16 * 5, 1);
  const std::vector<double> dy = normals(16 * 5, 2);
  const auto first = runner.run(x, dy);
  const Recorded<Moe<B>> recorded(layer, runner);
  const Ints choice = recorded.choice.to_vector();
  REQUIRE(std::count(first.row.begin(), first.row.end(), -1) > 0);  // there are drops to replay
  for (std::size_t a = 0; a < choice.size(); ++a)
    CHECK(choice[a] == (first.row[a] < 0 ? -2 - first.choice[a] : first.choice[a]));
  CHECK(recorded.weight.to_vector() == first.weight);

  const auto replayed = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(replayed.y == first.y);
  CHECK(replayed.dx == first.dx);
  CHECK(replayed.gradients == first.gradients);
  CHECK(replayed.choice == first.choice);
  CHECK(runner.run(x, dy, along<B>(recorded.routes(Weights::given))).y == first.y);

  // On another input the routes hold, though its own would differ.
  const std::vector<double> other = normals(16 * 5, 3);
  CHECK(runner.run(other, dy).choice != first.choice);
  const auto held = runner.run(other, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(held.choice == first.choice);
  for (std::size_t a = 0; a < choice.size(); ++a) CHECK((held.row[a] < 0) == (choice[a] < 0));
}

TEST_CASE_TEMPLATE("the tape that dropped replays what it recorded", B, MOXIE_TEST_BACKENDS) {
  using Weights = typename Routes<B>::Weights;
  B backend = make_backend<B>();
  const Config<B> c{
      .experts = 3, .router = {.k = 2, .renormalize = true}, .capacity = FixedCapacity{1}};
  const Moe<B> layer = make_moe(backend, c);
  Runner<Moe<B>> runner(layer, 3);  // room for 3 rows, one an expert
  const std::vector<double> x = normals(15, 1);
  const std::vector<double> dy = normals(15, 2);
  const auto first = runner.run(x, dy);
  REQUIRE(std::count(first.row.begin(), first.row.end(), -1) >= 3);
  const Recorded<Moe<B>> recorded(layer, runner);
  // Weights are shares of all choices of a token, dropped ones included.
  const auto replayed = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(replayed.weight == first.weight);
  CHECK(replayed.y == first.y);
  CHECK(replayed.dx == first.dx);
  CHECK(replayed.gradients == first.gradients);
  // Without the drops there is not room enough.
  const test::Buffer<std::int32_t, B> all(backend, {0, 1, 0, 1, -1, 2});
  const Routes<B> routes{.choice = all.view(3, 2)};
  CHECK(message_of<shape_error>([&] { runner.forward(x, along<B>(routes)); })
            .starts_with("moxie::MoeLayer::forward: pass.routes may fill 5 rows, the tape has room "
                         "for 3: "));
}

TEST_CASE("a replay returns the weight of recorded drops as the pass did") {
  using B = CpuBackend<double>;
  using Weights = Routes<B>::Weights;
  B backend;
  const MoeLayer layer{backend, MoeShape{.width = 2, .experts = 2, .seed = 1}, TopKRouter{.k = 2},
                       WithOverflow{IdentityOverflow{}, FixedCapacity{1}},
                       FeedForward<Gelu>{.hidden = 3}};
  using L = std::remove_cv_t<decltype(layer)>;
  Runner<L> runner(layer, 3);
  const std::vector<double> x = normals(6, 1);
  const std::vector<double> dy = normals(6, 2);
  const auto first = runner.run(x, dy);
  const Recorded<L> recorded(layer, runner);
  const auto gated = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(gated.y == first.y);
  CHECK(gated.dx == first.dx);
  CHECK(gated.gradients == first.gradients);
  const auto given = runner.run(x, dy, along<B>(recorded.routes(Weights::given)));
  CHECK(given.y == first.y);
  const ParameterEntry& gate = entry_of(layer.parameters(), "Router/kernel");
  CHECK_FALSE(all_zero(part_of(first.gradients, gate)));
  CHECK(all_zero(part_of(given.gradients, gate)));  // returned weights are constants, too
}

TEST_CASE_TEMPLATE("a rank instead of choices takes that expert alone", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Moe<B> layer = make_moe(backend, Config<B>{.router = {.k = 2}});
  Runner<Moe<B>> runner(layer, 9);
  const std::vector<double> x = normals(45, 1);
  const std::vector<double> dy = normals(45, 2);
  const auto both = runner.run(x, dy);
  for (const Index rank : {0, 1}) {
    const auto alone = runner.run(x, dy, along<B>({.rank = rank}));
    for (std::size_t t = 0; t < 9; ++t) {
      CHECK(alone.choice[2 * t] == both.choice[2 * t + static_cast<std::size_t>(rank)]);
      CHECK(alone.weight[2 * t] == both.weight[2 * t + static_cast<std::size_t>(rank)]);
      CHECK(alone.choice[2 * t + 1] == -1);
      CHECK(alone.row[2 * t] >= 0);
    }
  }
  const auto last = runner.run(x, dy, along<B>({.rank = 3}));
  for (std::size_t t = 0; t < 9; ++t) {
    CHECK(last.choice[2 * t] != both.choice[2 * t]);
    CHECK(last.choice[2 * t] != both.choice[2 * t + 1]);
  }
}

TEST_CASE_TEMPLATE("unit and given weights give the router no gradient", B, MOXIE_TEST_BACKENDS) {
  using Weights = typename Routes<B>::Weights;
  B backend = make_backend<B>();
  const Moe<B> layer = make_moe(backend, Config<B>{});
  const ParameterEntry& gate = entry_of(layer.parameters(), "Router/kernel");
  Runner<Moe<B>> runner(layer, 6);
  const std::vector<double> x = normals(30, 1);
  const std::vector<double> dy = normals(30, 2);
  runner.forward(x);
  const Recorded<Moe<B>> recorded(layer, runner);
  const auto gated = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK_FALSE(all_zero(part_of(gated.gradients, gate)));
  const auto given = runner.run(x, dy, along<B>(recorded.routes(Weights::given)));
  CHECK(all_zero(part_of(given.gradients, gate)));
  CHECK_FALSE(all_zero(given.gradients));
  CHECK(given.weight == gated.weight);
  const auto unit = runner.run(x, dy, along<B>(recorded.routes(Weights::unit)));
  CHECK(all_zero(part_of(unit.gradients, gate)));
  for (const auto w : unit.weight) CHECK(w == 1);
}
