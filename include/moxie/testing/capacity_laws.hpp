#pragma once

#include <algorithm>
#include <concepts>
#include <optional>
#include <string>
#include <vector>

#include "moxie/testing/sparse_fixture.hpp"

namespace moxie::testing {

struct PriorityLawOptions {
  Index cases = 1000;
  std::uint64_t seed = 1;
  bool stable =
      true;  ///< tokens that are alike are served by the lower one (false of a random order)
};

namespace detail {

/// A random token choice: K distinct experts a token, some of them -1 (drops recorded before,
/// padding).
inline std::vector<std::int32_t> draw_choices(Draw& draw, Index tokens, Index experts,
                                              Index choices,
                                              const std::vector<std::int32_t>& mask) {
  const double missing = draw.chance(0.3) ? 0.2 : 0;
  const bool crowded = draw.chance(0.3);  // everyone wants the first experts
  std::vector<std::int32_t> out;
  for (Index t = 0; t < tokens; ++t) {
    std::vector<Index> order = draw.permutation(experts);
    if (crowded) std::sort(order.begin(), order.end());
    for (Index k = 0; k < choices; ++k) {
      const bool none =
          (!mask.empty() && mask[static_cast<std::size_t>(t)] == 0) || draw.chance(missing);
      out.push_back(none ? -1 : static_cast<std::int32_t>(order[static_cast<std::size_t>(k)]));
    }
  }
  return out;
}
inline std::vector<std::int32_t> draw_mask(Draw& draw, Index tokens) {
  std::vector<std::int32_t> mask;
  if (draw.chance(0.3))
    for (Index t = 0; t < tokens; ++t) mask.push_back(draw.chance(0.7) ? 1 : 0);
  return mask;
}
/// Rows of probabilities, coarse ones so that many are equal.
inline std::vector<double> draw_probs(Draw& draw, Index tokens, Index experts) {
  std::vector<double> probs;
  for (Index t = 0; t < tokens; ++t) {
    std::vector<double> row;
    double sum = 0;
    for (Index e = 0; e < experts; ++e) {
      row.push_back(static_cast<double>(draw.from(1, 4)));
      sum += row.back();
    }
    for (const double v : row) probs.push_back(v / sum);
  }
  return probs;
}

/// What assign_slots must give, by the loop that defines it.
struct ServedSlots {
  std::vector<std::int32_t> slot, row, token, assignment, offset;

  ServedSlots(const RoutingShape& s, const std::vector<std::int32_t>& choice,
              const std::vector<std::int32_t>& order)
      : slot(choice.size(), -1), row(choice.size(), -1) {
    std::vector<std::vector<std::int32_t>> held(
        static_cast<std::size_t>(s.experts * s.groups()));  // assignments by (expert, group)
    for (Index k = 0; k < s.choices; ++k)
      for (const std::int32_t t : order) {
        const auto a = static_cast<std::size_t>(t * s.choices + k);
        if (choice[a] < 0) continue;
        auto& queue = held[static_cast<std::size_t>(choice[a] * s.groups() + t / s.group)];
        slot[a] = static_cast<std::int32_t>(queue.size());
        queue.push_back(static_cast<std::int32_t>(a));
      }
    for (std::size_t q = 0; q < held.size(); ++q) {
      if (q % static_cast<std::size_t>(s.groups()) == 0) offset.push_back(rows());
      for (const std::int32_t a : held[q]) {
        if (slot[static_cast<std::size_t>(a)] >= s.capacity) continue;
        row[static_cast<std::size_t>(a)] = rows();
        token.push_back(static_cast<std::int32_t>(a / s.choices));
        assignment.push_back(a);
      }
    }
    offset.push_back(rows());
  }
  std::int32_t rows() const { return static_cast<std::int32_t>(token.size()); }
};

/// Groups of tokens one after the other, lower tokens first: what a capacity without a priority
/// does.
inline std::vector<std::int32_t> token_order(Index tokens) {
  std::vector<std::int32_t> order;
  for (Index t = 0; t < tokens; ++t) order.push_back(static_cast<std::int32_t>(t));
  return order;
}

template <Backend B, class C>
class CapacityChecker {
 public:
  CapacityChecker(B& b, const C& capacity, const LawOptions& options)
      : backend_(b), capacity_(capacity), options_(options), draw_(options.seed) {}

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) check_case();
    return recorder_.report();
  }

 private:
  void check_case() {
    const Index group = draw_.from(1, 9);
    RoutingShape s{.tokens = group * draw_.from(1, 4), .experts = draw_.from(1, 6), .group = group};
    s.choices = draw_.from(1, (std::min)(s.experts, Index{3}));
    const CapacityQuery query{.tokens = group,
                              .choices = s.choices,
                              .experts = s.experts,
                              .mode = draw_.chance(0.5) ? Mode::train : Mode::eval};
    recorder_.begin(s.tokens, " tokens in groups of ", group, ", ", s.experts, " experts, ",
                    s.choices, " choices");
    s.capacity = capacity_.slots(query);
    recorder_.expect(capacity_.slots(query) == s.capacity, "the same question has two answers");
    if (s.capacity < 1) return;  // the layer refuses it
    SparseFixture<B> f(backend_, s);
    const std::vector<std::int32_t> mask = draw_mask(draw_, s.tokens);
    const std::vector<std::int32_t> choice =
        draw_choices(draw_, s.tokens, s.experts, s.choices, mask);
    f.context.seed = options_.seed;
    f.set_mode(query.mode);
    f.set_mask(mask);
    f.set_choices(choice);
    f.set_probs(draw_probs(draw_, s.tokens, s.experts));
    f.assign(capacity_);
    compare(f, ServedSlots(s, choice, order(f)));
  }
  void compare(const SparseFixture<B>& f, const ServedSlots& wanted) {
    const auto used = [&](std::vector<std::int32_t> v) {
      v.resize(static_cast<std::size_t>(wanted.rows()));
      return v;
    };
    recorder_.expect(f.slots() == wanted.slot, "slots are not those of the defining loop");
    recorder_.expect(f.rows() == wanted.row, "rows are not expert after expert, group after group");
    recorder_.expect(f.offsets() == wanted.offset, "offsets do not count the rows");
    if (wanted.rows() > f.shape().rows)
      return recorder_.expect(false, "an expert holds more than the capacity");
    recorder_.expect(used(f.tokens()) == wanted.token, "tokens of rows do not invert the rows");
    recorder_.expect(used(f.assignments()) == wanted.assignment,
                     "assignments of rows do not invert the rows");
  }
  std::vector<std::int32_t> order(SparseFixture<B>& f) {
    if constexpr (HasPriority<C, B>) {
      const Buffer<B, std::int32_t> to(backend_, f.shape().tokens);
      const Memory<B> scratch(backend_, capacity_.order_bytes(backend_, f.shape().tokens));
      capacity_.order(backend_, f.context, f.routing, to.view(),
                      Scratch<B>(scratch.data(), static_cast<Index>(scratch.bytes())));
      return to_host(backend_, to.view());
    } else {
      return token_order(f.shape().tokens);
    }
  }

  B& backend_;
  const C& capacity_;
  LawOptions options_;
  Draw draw_;
  LawRecorder recorder_;
};

template <Backend B, class P>
class PriorityChecker {
 public:
  PriorityChecker(B& b, const P& priority, const PriorityLawOptions& options)
      : backend_(b), priority_(priority), options_(options), draw_(options.seed) {}

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) check_case();
    return recorder_.report();
  }

 private:
  void check_case() {
    const Index group = draw_.from(1, 12);
    const RoutingShape s{.tokens = group * draw_.from(1, 5),
                         .experts = draw_.from(1, 5),
                         .choices = 1,
                         .group = group};
    recorder_.begin(s.tokens, " tokens in groups of ", group, ", ", s.experts, " experts");
    SparseFixture<B> f(backend_, s);
    const std::vector<std::int32_t> mask = draw_mask(draw_, s.tokens);
    const std::vector<double> probs = draw_probs(draw_, s.tokens, s.experts);
    f.context.seed = options_.seed;
    f.context.step = static_cast<std::uint64_t>(recorder_.report().cases);
    f.set_mask(mask);
    const std::vector<std::int32_t> choice = draw_choices(draw_, s.tokens, s.experts, 1, mask);
    f.set_choices(choice);
    f.set_probs(probs);
    const std::vector<std::int32_t> order = ordered(f);
    recorder_.expect(ordered(f) == order, "the same routing is ordered in two ways");

    std::vector<Index> place(static_cast<std::size_t>(s.tokens), -1);
    for (Index j = 0; j < s.tokens; ++j) {
      const std::int32_t t = order[static_cast<std::size_t>(j)];
      if (t < 0 || t >= s.tokens || place[static_cast<std::size_t>(t)] >= 0)
        return recorder_.expect(false, "the order is not a permutation of the tokens");
      place[static_cast<std::size_t>(t)] = j;
      recorder_.expect(t / group == j / group, "a group is not served where it lies");
    }
    if (!options_.stable) return;
    for (Index t = 0; t < s.tokens; ++t)
      for (Index u = t + 1; u < s.tokens && u / group == t / group; ++u)
        if (choice[static_cast<std::size_t>(t)] == choice[static_cast<std::size_t>(u)] &&
            alike(probs, mask, s.experts, t, u))
          recorder_.expect(place[static_cast<std::size_t>(t)] < place[static_cast<std::size_t>(u)],
                           "of two tokens that are alike, the higher is served first");
  }
  static bool alike(const std::vector<double>& probs, const std::vector<std::int32_t>& mask,
                    Index experts, Index t, Index u) {
    if (!mask.empty() &&
        (mask[static_cast<std::size_t>(t)] == 0) != (mask[static_cast<std::size_t>(u)] == 0))
      return false;
    for (Index e = 0; e < experts; ++e)
      if (probs[static_cast<std::size_t>(t * experts + e)] !=
          probs[static_cast<std::size_t>(u * experts + e)])
        return false;
    return true;
  }
  std::vector<std::int32_t> ordered(SparseFixture<B>& f) {
    const Buffer<B, std::int32_t> to(backend_, f.shape().tokens);
    const Memory<B> scratch(backend_, priority_.bytes(backend_, f.shape().tokens));
    priority_.order(backend_, f.context, f.routing, to.view(),
                    Scratch<B>(scratch.data(), static_cast<Index>(scratch.bytes())));
    return to_host(backend_, to.view());
  }

  B& backend_;
  const P& priority_;
  PriorityLawOptions options_;
  Draw draw_;
  LawRecorder recorder_;
};
}  // namespace detail

/// Checks the laws of capacity/concept.hpp: random choices with groups, padding and recorded drops
/// get their slots from `assign_slots` under this rule (and its priority, if it has one), and are
/// compared with the loop that defines them. Cost: one sort of some hundred keys a case. Blocks.
template <Backend B, Capacity C>
LawReport check_capacity_laws(B& backend, const C& capacity, const LawOptions& options = {}) {
  return detail::CapacityChecker<B, C>(backend, capacity, options).run();
}

/// Checks the laws of capacity/priority.hpp: the order is a permutation that keeps groups together,
/// the same every time, and serves tokens that are alike in their order.
template <Backend B, class P>
LawReport check_priority_laws(B& backend, const P& priority,
                              const PriorityLawOptions& options = {}) {
  return detail::PriorityChecker<B, P>(backend, priority, options).run();
}

}  // namespace moxie::testing
