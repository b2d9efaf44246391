// Capacities for routers that fill every slot: where experts choose, or slots are soft.
#include <doctest/doctest.h>

#include <string>

#include "moxie/capacity/train_eval.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/expert_choice.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"

namespace filled_slots_test {

using namespace moxie;
using test::message_of;
using B = CpuBackend<double>;

namespace {

const std::string begin = "moxie::MoeLayer: the capacity ";
const std::string dropless = begin + "is Dropless, but this router fills every slot there is";
const std::string priority = begin + "has a priority, but this router fills every slot there is";
const std::string overflow = begin + "has an overflow policy, but this router fills every slot";

template <class C>
std::string refused(const C& capacity) {
  return message_of<config_error>([&] { detail::check_filled_slots<B>(capacity); });
}

}  // namespace

TEST_CASE("a capacity without a limit is known behind adaptors, in each mode") {
  const TrainEval later{CapacityFactor{}, Dropless{}};
  CHECK_FALSE(is_dropless(later, Mode::train));
  CHECK(is_dropless(later, Mode::eval));
  CHECK(is_dropless(WithOverflow{Drop{}, WithPriority{TokenPriority{}, later}}, Mode::eval));
  CHECK(is_dropless(WithPriority{BatchPriority{}, Dropless{}}, Mode::train));
  CHECK(is_dropless(AnyCapacity(Dropless{}), Mode::train));
  CHECK_FALSE(is_dropless(AnyCapacity(FixedCapacity{3}), Mode::train));

  for (const std::string& why :
       {refused(Dropless{}), refused(later), refused(WithOverflow{Drop{}, Dropless{}}),
        refused(WithPriority{TokenPriority{}, Dropless{}}),
        refused(TrainEval{AnyCapacity(Dropless{}), CapacityFactor{}})})
    CHECK(why.starts_with(dropless));
}

TEST_CASE("slots that are all filled have no priority and do not overflow") {
  const FixedCapacity two{2};
  for (const std::string& why :
       {refused(WithPriority{BatchPriority{}, two}), refused(WithPriority{RandomPriority{}, two}),
        refused(WithPriority{make_priority("sum"), two}),
        refused(WithOverflow{Drop{}, WithPriority{SumPriority{}, two}}),
        refused(TrainEval{two, WithPriority{BatchPriority{}, two}})})
    CHECK(why.starts_with(priority));
  for (const std::string& why :
       {refused(WithOverflow{NextChoice{}, two}), refused(WithOverflow{IdentityOverflow{}, two}),
        refused(WithOverflow{make_overflow("next_choice"), two}),
        refused(WithPriority{TokenPriority{}, WithOverflow{IdentityOverflow{}, two}})})
    CHECK(why.starts_with(overflow));
  for (const std::string& why :
       {refused(two), refused(TrainEval{two, CapacityFactor{}}),
        refused(WithPriority{TokenPriority{}, two}),
        refused(WithOverflow{make_overflow("drop"),
                             WithPriority{make_priority("first"), AnyCapacity(two)}})})
    CHECK(why == "no error");
}

TEST_CASE_TEMPLATE("layers whose experts choose, or whose slots are soft, refuse such capacities",
                   R, ExpertChoiceRouter, SoftRouter) {
  B backend;
  const auto make = [&](const char* rule, const char* first, const char* policy) {
    return message_of<config_error>([&] {
      const AnyCapacity slots = FixedCapacity{2};
      (void)MoeLayer{backend, MoeShape{.width = 2, .experts = 2, .group = 4}, R{},
                     WithOverflow{make_overflow(policy),
                                  WithPriority{make_priority(first),
                                               TrainEval{slots, make_capacity(rule, 1.0)}}},
                     FeedForward<Gelu>{.hidden = 2}};
    });
  };
  CHECK(make("ceil", "first", "drop") == "no error");
  CHECK(make("dropless", "first", "drop").starts_with(dropless));
  CHECK(make("ceil", "bpr", "drop").starts_with(priority));
  CHECK(make("ceil", "first", "next_choice").starts_with(overflow));
  CHECK(make("ceil", "first", "identity").starts_with(overflow));
}

}  // namespace filled_slots_test
