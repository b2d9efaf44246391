#include "moxie/testing/capacity_laws.hpp"

#include <doctest/doctest.h>

#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/padded_offsets.hpp"
#include "moxie/capacity/peers.hpp"
#include "moxie/capacity/priority.hpp"
#include "moxie/capacity/random_priority.hpp"
#include "moxie/capacity/sum_priority.hpp"
#include "moxie/capacity/train_eval.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/given_order.hpp"
#include "support/backends.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using Ints = std::vector<std::int32_t>;

namespace {

template <class C>
std::string message_of(const C& capacity) {
  try {
    (void)capacity.slots({.tokens = 8, .choices = 2, .experts = 4});
  } catch (const config_error& e) {
    return e.what();
  }
  return "no error";
}

/// Choices, slots and weights as a vector lists them.
template <class B, class P>
void check_vector(const std::string& name, const P& priority) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector(name);
  const nlohmann::json& wanted = v["expected"];
  const auto tokens = static_cast<Index>(v["inputs"]["logits"].size());
  const auto experts = static_cast<Index>(v["inputs"]["logits"][0].size());
  const Index k = v["inputs"]["k"];
  const Index capacity = v["inputs"]["capacity"];
  testing::SparseFixture<B> f(
      backend, {.tokens = tokens, .experts = experts, .choices = k, .capacity = capacity});
  f.set_logits(test::flat<double>(v["inputs"]["logits"]));
  TopKRouter{.k = k}.route(backend, f.context, f.routing);
  f.assign(WithPriority{priority, FixedCapacity{capacity}});

  CHECK(f.choices() == test::flat<std::int32_t>(wanted["expert"]));
  CHECK(f.slots() == test::flat<std::int32_t>(wanted["slot"]));
  const auto gates = test::flat<double>(wanted["gates"]);
  const std::vector<T> probs = f.probs();
  for (std::size_t i = 0; i < gates.size(); ++i)
    CHECK(testing::near(static_cast<double>(probs[i]), gates[i], testing::tolerance<T>));

  const Ints rows = f.rows();
  const std::vector<T> weights = f.weights();
  std::vector<double> combine(static_cast<std::size_t>(tokens * experts * capacity), 0.0);
  Ints kept;
  Ints kept_per_token(static_cast<std::size_t>(tokens), 0);
  Ints load(static_cast<std::size_t>(experts), 0);
  for (std::size_t a = 0; a < rows.size(); ++a) {
    kept.push_back(rows[a] >= 0 ? 1 : 0);
    if (rows[a] < 0) continue;
    const auto t = a / static_cast<std::size_t>(k);
    const auto e = static_cast<std::size_t>(f.choices()[a]);
    combine[(t * static_cast<std::size_t>(experts) + e) * static_cast<std::size_t>(capacity) +
            static_cast<std::size_t>(f.slots()[a])] = static_cast<double>(weights[a]);
    ++kept_per_token[t];
    ++load[e];
  }
  Ints wanted_kept;
  for (const bool b : test::flat<bool>(wanted["kept"])) wanted_kept.push_back(b ? 1 : 0);
  CHECK(kept == wanted_kept);
  CHECK(kept_per_token == test::flat<std::int32_t>(wanted["kept_per_token"]));
  CHECK(load == test::flat<std::int32_t>(wanted["load"]));
  const auto wanted_combine = test::flat<double>(wanted["combine"]);
  REQUIRE(wanted_combine.size() == combine.size());
  for (std::size_t i = 0; i < combine.size(); ++i)
    CHECK(testing::near(combine[i], wanted_combine[i], testing::tolerance<T>));
}

/// Gates [[.4,0,.2],[.5,.1,.4],[.3,.2,.6]], two choices, two slots.
template <class B, class P>
testing::SparseFixture<B>& serve(testing::SparseFixture<B>& f, const P& priority) {
  f.set_probs({.4, 0, .2, .5, .1, .4, .3, .2, .6});
  f.set_choices({0, 2, 0, 2, 2, 0});
  f.assign(WithPriority{priority, FixedCapacity{2}});
  return f;
}

}  // namespace

TEST_CASE("CapacityFactor is evaluated as printed") {
  const auto slots = [](Index tokens, Index experts, double factor, Rounding rounding,
                        Index multiple) {
    return CapacityFactor{.factor = factor, .rounding = rounding, .multiple_of = multiple}.slots(
        {.tokens = tokens, .experts = experts});
  };
  using enum Rounding;
  CHECK(slots(6, 4, 1, ceil, 1) == 2);
  CHECK(slots(6, 4, 1, ceil, 4) == 4);
  CHECK(slots(10, 4, 1, half_even, 1) == 2);  // 2.5
  CHECK(slots(14, 4, 1, half_even, 1) == 4);  // 3.5
  CHECK(slots(11, 4, 1, half_even, 1) == 3);  // 2.75
  CHECK(slots(9, 4, 1, half_even, 1) == 2);   // 2.25
  CHECK(slots(100, 10, 1.1, ceil, 1) == 12);  // 100 * 1.1 is a little more than 110
  CHECK(slots(400, 8, 1.05, ceil, 4) == 56);
  CHECK(slots(15, 4, 1, floor, 1) == 3);     // 3.75
  CHECK(slots(15, 4, 1, floor, 2) == 4);     // down to 3, then up to a multiple
  CHECK(slots(7, 8, 1, floor, 1) == 0);      // the layer refuses it
  CHECK(slots(1, 8, 1, half_even, 1) == 0);  // the layer refuses it
}

TEST_CASE("CapacityFactor gives the numbers of the golden vector") {
  const nlohmann::json v = test::read_vector("01_capacity");
  const nlohmann::json& rows = v["inputs"]["rows"];
  REQUIRE(rows.size() == v["expected"]["capacity"].size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CAPTURE(i);
    const CapacityFactor rule{
        .factor = rows[i][2],
        .rounding = rows[i][3] == "ceil" ? Rounding::ceil : Rounding::half_even,
        .multiple_of = rows[i][4]};
    CHECK(rule.slots({.tokens = rows[i][0], .experts = rows[i][1]}) ==
          v["expected"]["capacity"][i].get<Index>());
  }
}

TEST_CASE("the same factor gives other systems other capacities") {
  const CapacityQuery vit{.tokens = 50, .choices = 1, .experts = 8};  // 50 / 8 = 6.25
  CHECK(megablocks_capacity(1).slots(vit) == 6);
  CHECK(deepspeed_capacity(1).slots(vit) == 7);
  CHECK(megatron_capacity(1).slots(vit) == 7);
  CHECK(tutel_capacity(1).slots(vit) == 7);
  CHECK(vmoe_capacity(1).slots(vit) == 8);
  const CapacityQuery two{.tokens = 50, .choices = 2, .experts = 8};  // 100 * 1.25 / 8 = 15.625
  CHECK(megablocks_capacity(1.25).slots(two) == 15);
  CHECK(deepspeed_capacity(1.25).slots(two) == 16);
  CHECK(megatron_capacity(1.25).slots(two) == 16);
  CHECK(tutel_capacity(1.25).slots(two) == 16);  // 2 * int(1.25 * 7 = 8.75)
  CHECK(vmoe_capacity(1.25).slots(two) == 16);
  CHECK(tutel_capacity(0.1).slots(two) == 0);  // the layer refuses it
}

TEST_CASE("TutelCapacity refuses hyper-parameters that make no sense") {
  CHECK(message_of(TutelCapacity{.factor = 0}) ==
        "moxie::TutelCapacity: factor is 0, expected a number > 0");
  CHECK(message_of(TutelCapacity{.factor = std::nan("")}) ==
        "moxie::TutelCapacity: factor is nan, expected a number > 0");
  CHECK(
      message_of(TutelCapacity{.factor = 1e300}) ==
      "moxie::TutelCapacity: factor 1e+300 asks for 2e+300 slots a choice, expected at most 1e+15");
}

TEST_CASE("capacities count choices, and training and evaluation may differ") {
  const CapacityQuery query{.tokens = 16, .choices = 2, .experts = 8, .mode = Mode::eval};
  CHECK(CapacityFactor{.factor = 1}.slots(query) == 4);
  CHECK(FixedCapacity{7}.slots(query) == 7);
  CHECK(Dropless{}.slots(query) == 16);
  const TrainEval both{CapacityFactor{.factor = 1}, Dropless{}};
  CHECK(both.slots(query) == 16);
  CHECK(both.slots({.tokens = 16, .choices = 2, .experts = 8, .mode = Mode::train}) == 4);
}

TEST_CASE("CapacityFactor refuses hyper-parameters that make no sense") {
  CHECK(message_of(CapacityFactor{.factor = -1}) ==
        "moxie::CapacityFactor: factor is -1, expected a number > 0");
  CHECK(message_of(CapacityFactor{.factor = 0}) ==
        "moxie::CapacityFactor: factor is 0, expected a number > 0");
  CHECK(message_of(CapacityFactor{.factor = std::nan("")}) ==
        "moxie::CapacityFactor: factor is nan, expected a number > 0");
  CHECK(message_of(CapacityFactor{.factor = std::numeric_limits<double>::infinity()}) ==
        "moxie::CapacityFactor: factor is inf, expected a number > 0");
  CHECK(message_of(CapacityFactor{.factor = 1e300}) ==
        "moxie::CapacityFactor: factor 1e+300 asks for 4e+300 slots, expected at most 1e+15");
  CHECK(message_of(CapacityFactor{.multiple_of = 0}) ==
        "moxie::CapacityFactor: multiple_of is 0, expected >= 1");
}

TEST_CASE_TEMPLATE("token choice by hand: the lower token first", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 3, .choices = 2, .capacity = 2});
  serve(f, TokenPriority{});
  CHECK(f.slots() == Ints{0, 1, 1, 2, 0, 2});
  CHECK(f.rows() == Ints{0, 3, 1, -1, 2, -1});
  CHECK(f.offsets() == Ints{0, 2, 2, 4});
  const auto used = [](Ints v) { return Ints(v.begin(), v.begin() + 4); };
  CHECK(used(f.tokens()) == Ints{0, 1, 2, 0});
  CHECK(used(f.assignments()) == Ints{0, 2, 4, 1});
}

TEST_CASE_TEMPLATE("token choice by hand: the larger gate first", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 3, .choices = 2, .capacity = 2});
  serve(f, BatchPriority{});  // tokens 2, 1, 0
  CHECK(f.slots() == Ints{1, 2, 0, 1, 0, 2});
  CHECK(f.rows() == Ints{1, -1, 0, 3, 2, -1});
}

TEST_CASE_TEMPLATE("with equal gates everyone asks for the first expert, and the last is dropped",
                   B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const bool bpr : {false, true}) {
    testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1, .capacity = 2});
    f.set_logits(std::vector<double>(6, 0.0));
    TopKRouter{.k = 1}.route(backend, f.context, f.routing);
    if (bpr) {
      f.assign(WithPriority{BatchPriority{}, FixedCapacity{2}});
    } else {
      f.assign(FixedCapacity{2});
    }
    CHECK(f.choices() == Ints{0, 0, 0});
    CHECK(f.rows() == Ints{0, 1, -1});
    CHECK(f.slots() == Ints{0, 1, 2});
  }
}

TEST_CASE_TEMPLATE("token choice gives the numbers of the golden vectors", B, MOXIE_TEST_BACKENDS) {
  check_vector<B>("02_token_choice_first", TokenPriority{});
  check_vector<B>("03_token_choice_bpr", BatchPriority{});
  B backend = test::make_backend<B>();
  const nlohmann::json random = test::read_vector("04_token_choice_random");
  const test::Buffer<std::int32_t, B> order(backend,
                                            test::flat<std::int32_t>(random["inputs"]["perm"]));
  check_vector<B>("04_token_choice_random", testing::GivenOrder<B>{.served = order.view()});
}

TEST_CASE_TEMPLATE("one choice of T*K tokens is the dropless layout of the golden vector", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("06_dropless");
  const nlohmann::json& wanted = v["expected"];
  const auto tokens = static_cast<Index>(v["inputs"]["logits"].size());
  const auto experts = static_cast<Index>(v["inputs"]["logits"][0].size());
  const Index k = v["inputs"]["k"];
  testing::SparseFixture<B> chosen(backend, {.tokens = tokens, .experts = experts, .choices = k});
  chosen.set_logits(test::flat<double>(v["inputs"]["logits"]));
  TopKRouter{.k = k}.route(backend, chosen.context, chosen.routing);
  CHECK(chosen.choices() == test::flat<std::int32_t>(wanted["expert"]));

  testing::SparseFixture<B> flat(backend, {.tokens = tokens * k, .experts = experts, .choices = 1});
  flat.set_choices(chosen.choices());
  flat.assign(Dropless{});
  CHECK(flat.assignments() == test::flat<std::int32_t>(wanted["perm"]));
  CHECK(flat.offsets() == test::flat<std::int32_t>(wanted["offsets"]));
  const test::Buffer<std::int32_t, B> padded(backend, experts + 1, -1);
  pad_offsets(backend, ConstIntVector<B>(flat.routing.offset), v["inputs"]["block"].get<Index>(),
              padded.view());
  CHECK(padded.to_vector() == test::flat<std::int32_t>(wanted["padded_offsets"]));
}

TEST_CASE("padded offsets give an expert without rows none") {
  CpuBackend<float> backend;
  const test::Buffer<std::int32_t, CpuBackend<float>> offset(backend, {0, 0, 1, 1, 129, 130});
  const test::Buffer<std::int32_t, CpuBackend<float>> padded(backend, 6, -1);
  using Offsets = ConstIntVector<CpuBackend<float>>;
  pad_offsets(backend, Offsets(offset.view()), 128, padded.view());
  CHECK(padded.to_vector() == Ints{0, 0, 128, 128, 256, 384});
  CHECK_THROWS_WITH_AS(pad_offsets(backend, Offsets(offset.view()), 0, padded.view()),
                       "moxie::pad_offsets: block is 0, expected >= 1", config_error);
}

TEST_CASE_TEMPLATE("capacities obey the Capacity laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& capacity, Index cases) {
    const testing::LawReport report =
        testing::check_capacity_laws(backend, capacity, {.cases = cases});
    CHECK_MESSAGE(report.passed, report.message);
    CHECK(report.cases == cases);
  };
  check(CapacityFactor{.factor = 1}, 2000);
  check(megablocks_capacity(1.5), 300);
  check(tutel_capacity(1), 300);
  check(WithPriority{SumPriority{}, CapacityFactor{.factor = 0.6}}, 500);
  check(WithPriority{RandomPriority{}, CapacityFactor{.factor = 0.6}}, 500);
  check(WithPriority{BatchPriority{}, CapacityFactor{.factor = 0.6}}, 2000);
  check(Dropless{}, 300);
  for (Index c = 1; c <= 11; ++c) check(FixedCapacity{c}, 200);  // groups have up to 9 tokens
  for (Index c = 1; c <= 11; ++c) check(WithPriority{BatchPriority{}, FixedCapacity{c}}, 200);
  check(TrainEval{WithPriority{BatchPriority{}, CapacityFactor{.factor = 1}}, Dropless{}}, 300);
  check(TrainEval{CapacityFactor{.factor = 1}, WithPriority{BatchPriority{}, FixedCapacity{1}}},
        300);
}

TEST_CASE_TEMPLATE("priorities obey the Priority laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& priority, bool stable) {
    const testing::LawReport report =
        testing::check_priority_laws(backend, priority, {.stable = stable});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(TokenPriority{}, true);
  check(BatchPriority{}, true);
  check(SumPriority{}, true);
  check(RandomPriority{}, false);
}

namespace {

/// The higher token first: a permutation, but not a stable one, and it mixes groups.
struct HigherFirst {
  template <Backend B>
  std::size_t bytes(const B&, Index) const {
    return 0;
  }
  template <Backend B>
  void order(B&, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B>) const {
    for (Index j = 0; j < order.size; ++j)
      order[j] = static_cast<std::int32_t>(r.shape.tokens - 1 - j);
  }
};
/// More slots in every second question.
struct Fickle {
  Index slots(const CapacityQuery&) const { return ++asked % 2 + 1; }
  mutable Index asked = 0;
};

}  // namespace

TEST_CASE("the laws find a priority and a capacity that break them") {
  CpuBackend<double> backend;
  const testing::LawReport order = testing::check_priority_laws(backend, HigherFirst{});
  CHECK_FALSE(order.passed);
  CHECK(order.message.find("a group is not served where it lies (case ") != std::string::npos);
  CHECK(order.message.find("of two tokens that are alike, the higher is served first") !=
        std::string::npos);
  const testing::LawReport slots = testing::check_capacity_laws(backend, Fickle{}, {.cases = 5});
  CHECK(slots.message.find("the same question has two answers (case 1: ") != std::string::npos);
}
