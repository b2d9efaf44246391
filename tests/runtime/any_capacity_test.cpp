#include "moxie/runtime/any_capacity.hpp"

#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropped.hpp"
#include "moxie/testing/capacity_laws.hpp"

namespace any_capacity_test {

using namespace moxie;
using B = CpuBackend<float>;
using Ints = std::vector<std::int32_t>;

TEST_CASE("AnyCapacity asks the rule that it holds") {
  const CapacityQuery query{.tokens = 16, .choices = 2, .experts = 8};
  CHECK(AnyCapacity(CapacityFactor{.factor = 1.5}).slots(query) == 6);
  CHECK(AnyCapacity(FixedCapacity{9}).slots(query) == 9);
  CHECK(AnyCapacity(Dropless{}).slots(query) == 16);
  CHECK(AnyCapacity(TutelCapacity{.factor = 1.5}).slots(query) == 6);
  CHECK(AnyCapacity().slots(query) == CapacityFactor{}.slots(query));
  CHECK(AnyCapacity(FixedCapacity{9}) == AnyCapacity(FixedCapacity{9}));
  CHECK_FALSE(AnyCapacity(FixedCapacity{9}) == AnyCapacity(Dropless{}));
  CHECK(std::holds_alternative<Dropless>(AnyCapacity(Dropless{}).get()));
}

TEST_CASE("make_capacity knows its rules") {
  const CapacityQuery vit{.tokens = 50, .choices = 1, .experts = 8};
  CHECK(make_capacity("megablocks", 1.0).slots(vit) == 6);
  CHECK(make_capacity("deepspeed", 1.0).slots(vit) == 7);
  CHECK(make_capacity("megatron", 1.0).slots(vit) == 7);
  CHECK(make_capacity("tutel", 1.0).slots(vit) == 7);
  CHECK(make_capacity("vmoe", 1.0).slots(vit) == 8);
  CHECK(make_capacity("dropless", 1.0).slots(vit) == 50);
  const CapacityQuery half{.tokens = 20, .choices = 1, .experts = 8};  // 2.5
  CHECK(make_capacity("ceil", 1.0).slots(half) == 3);
  CHECK(make_capacity("round", 1.0).slots(half) == 2);
  CHECK(make_capacity("floor", 1.0).slots(half) == 2);
  CHECK(make_capacity("ceil", 1.0, 5).slots(half) == 5);
  CHECK(make_capacity("ceil") == AnyCapacity(CapacityFactor{}));
  for (const std::string_view name : capacity_names) CHECK_NOTHROW((void)make_capacity(name));
  CHECK_THROWS_WITH_AS((void)make_capacity("droples"),
                       "moxie::make_capacity: there is no capacity 'droples' (did you mean "
                       "'dropless'?), expected one of: ceil, round, floor, vmoe, deepspeed, "
                       "megatron, megablocks, tutel, dropless",
                       config_error);
  CHECK_THROWS_WITH_AS((void)make_capacity("tutel", 1.0, 4),
                       "moxie::make_capacity: multiple_of is 4 for 'tutel', expected 1: only ceil, "
                       "round and floor take another",
                       config_error);
}

TEST_CASE("AnyPriority serves as the priority that it holds, and obeys its laws") {
  B backend;
  for (const std::string_view name : priority_names) {
    const testing::LawReport order =
        testing::check_priority_laws(backend, make_priority(name), {.stable = name != "random"});
    CHECK_MESSAGE(order.passed, order.message);
    const testing::LawReport slots = testing::check_capacity_laws(
        backend, WithPriority{make_priority(name), AnyCapacity(CapacityFactor{.factor = 0.8})});
    CHECK_MESSAGE(slots.passed, slots.message);
  }
}

TEST_CASE("make_priority knows its names and says the nearest of others") {
  CHECK(make_priority("first") == AnyPriority(TokenPriority{}));
  CHECK(make_priority("bpr") == AnyPriority(BatchPriority{}));
  CHECK(make_priority("random") == AnyPriority(RandomPriority{}));
  CHECK(make_priority("sum") == AnyPriority(SumPriority{}));
  CHECK_THROWS_WITH_AS(
      (void)make_priority("frist"),
      "moxie::make_priority: there is no priority 'frist' (did you mean 'first'?), "
      "expected one of: first, bpr, random, sum",
      config_error);
  CHECK_THROWS_WITH_AS((void)make_priority("lottery"),
                       "moxie::make_priority: there is no priority 'lottery', expected one of: "
                       "first, bpr, random, sum",
                       config_error);
}

TEST_CASE("AnyOverflow does what the policy that it holds does") {
  B backend;
  const auto served = [&](std::string_view name) {
    testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1, .capacity = 1});
    f.set_logits({3, 1, 3, 2, 3, 0});
    f.set_choices({0, 0, 0});
    const WithOverflow capacity{
        make_overflow(name), WithPriority{make_priority("first"), AnyCapacity(FixedCapacity{1})}};
    CHECK(capacity.reroutes() == (name == "next_choice"));
    CHECK(returns_dropped(capacity) == (name == "identity"));
    f.assign(capacity);
    CHECK(dropped(backend, f.routing).size() == (name == "next_choice" ? 1 : 2));
    return f.choices();
  };
  CHECK(served("drop") == Ints{0, 0, 0});
  CHECK(served("identity") == Ints{0, 0, 0});
  CHECK(served("next_choice") == Ints{0, 1, 0});
  CHECK(AnyOverflow() == AnyOverflow(Drop{}));
}

TEST_CASE("make_overflow knows its names and says the nearest of others") {
  CHECK(make_overflow("drop") == AnyOverflow(Drop{}));
  CHECK(make_overflow("next_choice") == AnyOverflow(NextChoice{}));
  CHECK(make_overflow("identity") == AnyOverflow(IdentityOverflow{}));
  CHECK_THROWS_WITH_AS((void)make_overflow("next-choice"),
                       "moxie::make_overflow: there is no overflow policy 'next-choice' (did you "
                       "mean 'next_choice'?), expected one of: drop, next_choice, identity",
                       config_error);
}

}  // namespace any_capacity_test
