#include "moxie/train/schedule.hpp"

#include <doctest/doctest.h>

namespace {

// The specification's test vector 24: warm-up 10, total 100, peak 1e-3, end 1e-5.
const std::vector<std::uint64_t> steps = {0, 1, 5, 10, 11, 55, 99, 100, 120};

void check_values(const moxie::Schedule& schedule, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    CAPTURE(steps[i]);
    CHECK(std::abs(schedule(steps[i]) - expected[i]) < 1e-15);
  }
}

}  // namespace

TEST_CASE("LinearSchedule has the values of the specification") {
  check_values(moxie::LinearSchedule{.peak = 1e-3, .end = 1e-5, .warmup = 10, .total = 100},
               {0, 1e-4, 5e-4, 1e-3, 0.000989, 0.000505, 2.099999999999997e-05, 1e-5, 1e-5});
}

TEST_CASE("CosineSchedule has the values of the specification") {
  check_values(
      moxie::CosineSchedule{.peak = 1e-3, .end = 1e-5, .warmup = 10, .total = 100},
      {0, 1e-4, 5e-4, 1e-3, 0.0009996984593744526, 0.000505, 1.0301540625547598e-05, 1e-5, 1e-5});
}

TEST_CASE("ConstantSchedule stays at its peak after the warm-up") {
  check_values(moxie::ConstantSchedule{.peak = 1e-3, .warmup = 10},
               {0, 1e-4, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3});
  CHECK(moxie::ConstantSchedule{.peak = 2}(0) == 2);
}

TEST_CASE("RsqrtSchedule falls with the root of the step and cools down to zero") {
  const moxie::RsqrtSchedule endless{.peak = 1, .warmup = 10, .timescale = 30};
  CHECK(endless(5) == 0.5);
  CHECK(endless(10) == 1);
  CHECK(endless(100) == 0.5);  // 1 / sqrt(1 + 90 / 30)
  CHECK(endless(10 + 30 * 99) == doctest::Approx(0.1));

  const moxie::RsqrtSchedule s{
      .peak = 1, .warmup = 10, .timescale = 30, .cooldown = 20, .total = 110};
  CHECK(s(90) == endless(90));
  CHECK(s(100) == 0.25);  // half way down
  CHECK(s(109) == doctest::Approx(endless(109) / 20));
  CHECK(s(110) == 0);
  CHECK(s(1000) == 0);
}

TEST_CASE("CyclicSchedule goes up and down on lines, again and again") {
  const moxie::CyclicSchedule s{.peak = 1e-4, .end = 5e-5, .half_cycle = 500};
  for (const std::uint64_t cycles : {0U, 1U, 7U}) {
    const std::uint64_t at = 1000 * cycles;
    CAPTURE(at);
    CHECK(s(at) == 5e-5);
    CHECK(s(at + 100) == doctest::Approx(6e-5));  // a fifth of the way
    CHECK(s(at + 500) == 1e-4);
    CHECK(s(at + 501) == doctest::Approx(9.99e-5));
    CHECK(s(at + 900) == doctest::Approx(6e-5));
  }
  const moxie::CyclicSchedule to_zero{.peak = 2, .half_cycle = 1};
  CHECK(to_zero(0) == 0);
  CHECK(to_zero(1) == 2);
  CHECK(to_zero(2) == 0);
}

TEST_CASE("Schedules without warm-up begin at their peak, and may be all warm-up") {
  CHECK(moxie::LinearSchedule{.peak = 1, .total = 10}(0) == 1);
  CHECK(moxie::CosineSchedule{.peak = 1, .total = 10}(5) == doctest::Approx(0.5));
  const moxie::LinearSchedule all{.peak = 1, .end = 0.25, .warmup = 10, .total = 10};
  CHECK(all(9) == 0.9);
  CHECK(all(10) == 0.25);
}

TEST_CASE("make_schedule makes schedules by name") {
  const moxie::ScheduleConfig c{.peak = 1e-3,
                                .end = 1e-5,
                                .warmup = 10,
                                .total = 100,
                                .timescale = 50,
                                .cooldown = 20,
                                .half_cycle = 5};
  CHECK(moxie::make_schedule("linear", c) ==
        moxie::Schedule(moxie::LinearSchedule{1e-3, 1e-5, 10, 100}));
  CHECK(moxie::make_schedule("cosine", c) ==
        moxie::Schedule(moxie::CosineSchedule{1e-3, 1e-5, 10, 100}));
  CHECK(moxie::make_schedule("constant", c) == moxie::Schedule(moxie::ConstantSchedule{1e-3, 10}));
  CHECK(moxie::make_schedule("rsqrt", c) ==
        moxie::Schedule(moxie::RsqrtSchedule{1e-3, 10, 50, 20, 100}));
  CHECK(moxie::make_schedule("cyclic", c) == moxie::Schedule(moxie::CyclicSchedule{1e-3, 1e-5, 5}));
  CHECK_THROWS_WITH_AS(moxie::make_schedule("cosin", c),
                       "moxie::make_schedule: there is no schedule 'cosin', expected one of: "
                       "constant, linear, cosine, rsqrt, cyclic",
                       moxie::config_error);
}

TEST_CASE("Schedules refuse settings that make no sense") {
  using moxie::make_schedule;
  CHECK_THROWS_WITH_AS(make_schedule("linear", {.peak = 1, .warmup = 11, .total = 10}),
                       "moxie::LinearSchedule: warmup is 11 steps, expected at most total, which "
                       "is 10",
                       moxie::config_error);
  CHECK_THROWS_WITH_AS(make_schedule("cosine", {.peak = 0, .total = 10}),
                       "moxie::CosineSchedule: peak must be > 0, got 0", moxie::config_error);
  CHECK_THROWS_AS(make_schedule("cosine", {.peak = 1, .end = -1, .total = 10}),
                  moxie::config_error);
  CHECK_THROWS_AS(make_schedule("constant", {.peak = std::nan("")}), moxie::config_error);
  CHECK_THROWS_AS(make_schedule("rsqrt", {.peak = 1, .timescale = 0}), moxie::config_error);
  CHECK_THROWS_AS(make_schedule("rsqrt", {.peak = 1, .warmup = 6, .total = 10, .cooldown = 5}),
                  moxie::config_error);
  CHECK_THROWS_WITH_AS(make_schedule("cyclic", {.peak = 1}),
                       "moxie::CyclicSchedule: half_cycle must be > 0, got 0", moxie::config_error);
  CHECK_THROWS_AS((moxie::LinearSchedule{.peak = -1, .total = 5}(0)), moxie::config_error);
}
