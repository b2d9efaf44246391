#include "moxie/capacity/train_eval.hpp"

#include <doctest/doctest.h>

#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/capacity/overflow.hpp"
#include "moxie/capacity/sum_priority.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"

using namespace moxie;
using Ints = std::vector<std::int32_t>;

namespace {

/// The token that gets the only slot of expert 0, which all three want; their best gates are .5, .9
/// and .6.
template <class B, class C>
Ints kept(B& backend, const C& capacity, Mode mode) {
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1, .capacity = 1});
  f.set_mode(mode);
  f.set_logits({0, 0, 2, 0, 1, 0});
  f.set_probs({.5, .5, .9, .1, .6, .4});
  f.set_choices({0, 0, 0});
  f.assign(capacity);
  return testing::detail::to_host(backend, f.routing.token.middle(0, 1));
}

}  // namespace

TEST_CASE_TEMPLATE("training and evaluation each serve by their own priority", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const FixedCapacity one{1};
  const WithPriority best{BatchPriority{}, one};
  const auto served = [&](const auto& capacity) {
    Ints tokens = kept(backend, capacity, Mode::train);
    tokens.push_back(kept(backend, capacity, Mode::eval).front());
    return tokens;
  };
  CHECK(served(TrainEval{one, best}) == Ints{0, 1});
  CHECK(served(TrainEval{best, one}) == Ints{1, 0});
  CHECK(served(TrainEval{best, best}) == Ints{1, 1});
  CHECK(served(TrainEval{one, one}) == Ints{0, 0});
  CHECK(served(WithPriority{BatchPriority{}, TrainEval{one, one}}) == Ints{1, 1});
  CHECK(served(WithOverflow{NextChoice{}, TrainEval{one, best}}) == Ints{0, 1});
}

TEST_CASE_TEMPLATE("a capacity with two priorities asks for the memory of the larger", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const FixedCapacity one{1};
  const WithPriority best{BatchPriority{}, one};
  const std::size_t bytes = best.order_bytes(backend, 100);
  REQUIRE(bytes > 0);
  CHECK(TrainEval{one, best}.order_bytes(backend, 100) == bytes);
  CHECK(TrainEval{best, one}.order_bytes(backend, 100) == bytes);
  static_assert(!HasPriority<TrainEval<FixedCapacity, FixedCapacity>, B>);
}
