// assign_rows by counting: slots and rows equal those of the stable sort.
#include <algorithm>
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/assign_rows.hpp"

namespace assign_kernels_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twin = Accelerates<AssignRows, B, AssignmentLists<B>>;
static_assert(twin<test::EmulatedBackend<float>> && twin<test::EmulatedBackend<double>>);
static_assert(!twin<ThrustHostBackend<float>>);

struct Case {
  Index group, groups, choices, experts, capacity;
  bool ordered = false;
  Ints choice{}, order{};
};
struct Assigned {
  Ints slot, row, token, assignment, offset;
  bool operator==(const Assigned&) const = default;
};

Index tokens_of(const Case& c) { return c.group * c.groups; }

/// Distinct experts of each token, most of them among the first ones; some choices are none.
Case drawn(Case c, Draw& draw, double none = 0.05) {
  const Index tokens = tokens_of(c);
  for (Index t = 0; t < tokens; ++t) {
    std::vector<Index> own = draw.permutation(c.experts);
    if (draw.chance(0.5)) std::partial_sort(own.begin(), own.begin() + c.choices, own.end());
    for (Index k = 0; k < c.choices; ++k)
      c.choice.push_back(
          draw.chance(none) ? -1 : static_cast<std::int32_t>(own[static_cast<std::size_t>(k)]));
  }
  for (Index g = 0; c.ordered && g < c.groups; ++g)
    for (const Index s : draw.permutation(c.group))
      c.order.push_back(static_cast<std::int32_t>(g * c.group + s));
  return c;
}

template <class B>
Assigned assign(B& backend, const Case& c) {
  const Index tokens = tokens_of(c);
  const Index pairs = c.experts * c.groups;
  const Index rows = pairs * std::min(c.capacity, c.group);
  const auto ints = [&](Index n) { return test::Buffer<std::int32_t, B>(backend, n, -7); };
  const test::Buffer<std::int32_t, B> choice(backend, c.choice);
  const test::Buffer<std::int32_t, B> order(backend, c.order);
  const auto slot = ints(choice.size());
  const auto row = ints(choice.size());
  const auto token = ints(rows);
  const auto assignment = ints(rows);
  const auto offset = ints(c.experts + 1);
  const auto key = ints(choice.size());
  const auto value = ints(choice.size());
  const auto begin = ints(pairs + 1);
  const auto base = ints(pairs + 1);
  const std::size_t bytes =
      std::max(backend.sort_pairs_bytes(choice.size()), backend.exclusive_scan_bytes(pairs + 1));
  const test::Buffer<std::byte, B> scratch(backend, static_cast<Index>(bytes), std::byte{0x7f});
  assign_rows(backend, AssignmentLists<B>{.choice = choice.view(tokens, c.choices),
                                          .order = test::view_of(order),
                                          .group = c.group,
                                          .experts = c.experts,
                                          .capacity = c.capacity,
                                          .slot = slot.view(tokens, c.choices),
                                          .row = row.view(tokens, c.choices),
                                          .token = token.view(),
                                          .assignment = assignment.view(),
                                          .offset = offset.view(),
                                          .key = key.view(),
                                          .value = value.view(),
                                          .begin = begin.view(),
                                          .base = base.view(),
                                          .scratch = scratch.view()});
  return {slot.to_vector(), row.to_vector(), token.to_vector(), assignment.to_vector(),
          offset.to_vector()};
}

/// The loop that defines the slots.
Assigned oracle(const Case& c) {
  const Index pairs = c.experts * c.groups;
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  Assigned out;
  out.slot.assign(c.choice.size(), -1);
  out.row.assign(c.choice.size(), -1);
  Ints held(at(pairs), 0);
  for (Index k = 0; k < c.choices; ++k)
    for (Index j = 0; j < tokens_of(c); ++j) {
      const Index t = c.order.empty() ? j : c.order[at(j)];
      const std::int32_t e = c.choice[at(t * c.choices + k)];
      if (e >= 0) out.slot[at(t * c.choices + k)] = held[at(e * c.groups + t / c.group)]++;
    }
  Ints base(1, 0);
  for (const std::int32_t n : held)
    base.push_back(base.back() + std::min(n, static_cast<std::int32_t>(c.capacity)));
  const Index rows = pairs * std::min(c.capacity, c.group);
  out.token.assign(at(rows), -7);
  out.assignment.assign(at(rows), -7);
  for (Index a = 0; a < static_cast<Index>(c.choice.size()); ++a) {
    const std::int32_t slot = out.slot[at(a)];
    if (slot < 0 || slot >= c.capacity) continue;
    const Index t = a / c.choices;
    const std::int32_t row = base[at(c.choice[at(a)] * c.groups + t / c.group)] + slot;
    out.row[at(a)] = row;
    out.token[at(row)] = static_cast<std::int32_t>(t);
    out.assignment[at(row)] = static_cast<std::int32_t>(a);
  }
  for (Index e = 0; e <= c.experts; ++e) out.offset.push_back(base[at(e * c.groups)]);
  return out;
}

void check_assign(const Case& c, std::uint64_t launches) {
  CAPTURE(c.group);
  CAPTURE(c.groups);
  CAPTURE(c.choices);
  CAPTURE(c.experts);
  const Assigned wanted = oracle(c);
  ThrustHostBackend<float> host;
  CHECK(assign(host, c) == wanted);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<float>(schedule);
    CHECK(assign(backend, c) == wanted);
    CHECK(backend.leaf().launches() == launches);
  }
}

}  // namespace

TEST_CASE(
    "assign kernels: one block serves one group, first choices first and in the given order") {
  Draw draw(31);
  for (const Index tokens : {1, 5, 31, 32, 33, 100, 700})
    for (const Index experts : {1, 3, 8, 40}) {
      const Index choices = experts < 3 ? experts : 3;
      for (const bool ordered : {false, true})
        check_assign(drawn({.group = tokens,
                            .groups = 1,
                            .choices = choices,
                            .experts = experts,
                            .capacity = 1 + tokens / experts,
                            .ordered = ordered},
                           draw),
                     1);
    }
}

TEST_CASE("assign kernels: a hand-computed example") {
  auto backend = test::emulated<float>(0);
  // Served: token 2, 0, 1; first choices 1, 1, 0, then second choices 0, -1, 1. Two slots an
  // expert.
  const Assigned got = assign(backend, {.group = 3,
                                        .groups = 1,
                                        .choices = 2,
                                        .experts = 2,
                                        .capacity = 2,
                                        .choice = {1, -1, 0, 1, 1, 0},
                                        .order = {2, 0, 1}});
  CHECK(got.slot == Ints{1, -1, 0, 2, 0, 1});
  CHECK(got.row == Ints{3, -1, 0, -1, 2, 1});
  CHECK(got.token == Ints{1, 2, 2, 0});
  CHECK(got.assignment == Ints{2, 5, 4, 0});
  CHECK(got.offset == Ints{0, 2, 4});
}

TEST_CASE("assign kernels: many experts and all assignments of a block") {
  Draw draw(32);
  check_assign(drawn({.group = 300,
                      .groups = 1,
                      .choices = 2,
                      .experts = 1024,
                      .capacity = 1,
                      .ordered = true},
                     draw),
               1);
  // 1024 experts leave a block 8 warps of 8 rounds: 2048 assignments
  Case full{.group = 1024, .groups = 1, .choices = 2, .experts = 1024, .capacity = 3};
  for (Index a = 0; a < 2048; ++a)
    full.choice.push_back(static_cast<std::int32_t>(draw.from(0, 5) * 200 + a % 2));
  check_assign(full, 1);
  full.group = 1025;  // one token more: by chunks
  full.choice.insert(full.choice.end(), {0, 1023});
  check_assign(full, 1);
}

TEST_CASE("assign kernels: groups are ranked by blocks of their own") {
  Draw draw(33);
  for (const Index group : {1, 7, 49, 64})
    for (const bool ordered : {false, true})
      check_assign(drawn({.group = group,
                          .groups = 5,
                          .choices = 2,
                          .experts = 6,
                          .capacity = 1 + group / 4,
                          .ordered = ordered},
                         draw),
                   1);
}

TEST_CASE("assign kernels: groups longer than a chunk are summed up over chunks") {
  Draw draw(34);
  check_assign(drawn({.group = 2300,
                      .groups = 2,
                      .choices = 2,
                      .experts = 5,
                      .capacity = 700,
                      .ordered = true},
                     draw),
               1);
  check_assign(
      drawn({.group = 9000, .groups = 1, .choices = 1, .experts = 3, .capacity = 2000}, draw, 0.3),
      1);
}

TEST_CASE("assign kernels: nothing to assign, no token that takes part, and too many experts") {
  Draw draw(35);
  Case none =
      drawn({.group = 50, .groups = 1, .choices = 2, .experts = 4, .capacity = 3}, draw, 1.1);
  check_assign(none, 1);
  none.group = 25;
  none.groups = 2;
  check_assign(none, 1);
  check_assign({.group = 3, .groups = 0, .choices = 2, .experts = 4, .capacity = 3}, 0);
  check_assign(
      drawn({.group = 20, .groups = 1, .choices = 2, .experts = 1025, .capacity = 1}, draw), 0);
}

}  // namespace assign_kernels_test
