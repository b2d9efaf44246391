#include "moxie/runtime/any_capacity.hpp"

#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/testing/capacity_laws.hpp"

using namespace moxie;
using B = CpuBackend<float>;

TEST_CASE("AnyCapacity asks the rule that it holds") {
  const CapacityQuery query{.tokens = 16, .choices = 2, .experts = 8};
  CHECK(AnyCapacity(CapacityFactor{.factor = 1.5}).slots(query) == 6);
  CHECK(AnyCapacity(FixedCapacity{9}).slots(query) == 9);
  CHECK(AnyCapacity(Dropless{}).slots(query) == 16);
  CHECK(AnyCapacity().slots(query) == CapacityFactor{}.slots(query));
  CHECK(AnyCapacity(FixedCapacity{9}) == AnyCapacity(FixedCapacity{9}));
  CHECK_FALSE(AnyCapacity(FixedCapacity{9}) == AnyCapacity(Dropless{}));
  CHECK(std::holds_alternative<Dropless>(AnyCapacity(Dropless{}).get()));
}

TEST_CASE("AnyPriority serves as the priority that it holds, and obeys its laws") {
  B backend;
  for (const std::string_view name : {"first", "bpr"}) {
    const testing::LawReport order = testing::check_priority_laws(backend, make_priority(name));
    CHECK_MESSAGE(order.passed, order.message);
    const testing::LawReport slots = testing::check_capacity_laws(
        backend, WithPriority{make_priority(name), AnyCapacity(CapacityFactor{.factor = 0.8})});
    CHECK_MESSAGE(slots.passed, slots.message);
  }
}

TEST_CASE("make_priority knows its names and lists them for others") {
  CHECK(make_priority("first") == AnyPriority(TokenPriority{}));
  CHECK(make_priority("bpr") == AnyPriority(BatchPriority{}));
  CHECK_THROWS_WITH_AS(
      (void)make_priority("last"),
      "moxie::make_priority: there is no priority 'last', expected one of: first, bpr",
      config_error);
}
