#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <string>
#include <vector>

#include "moxie/capacity/fixed.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/testing/pass_through.hpp"
#include "moxie/testing/sparse_fixture.hpp"

namespace moxie::testing {

/// What check_router_laws assumes of a router.
struct RouterLawOptions {
  Index cases = 1000;
  std::uint64_t seed = 1;
  /// The rule looks at all tokens of a group (expert choice, Sinkhorn): batches may be split between
  /// groups only.
  bool global = false;
  /// Of two experts whose logits are the same for every token, the lower is preferred. Not so where
  /// potentials balance the loads, which a preference makes unequal.
  bool ties_to_lower_expert = true;
  /// Permuting the experts permutes the result. Not so where rounding decides, as in the first steps of
  /// Adam from a balanced start.
  bool permutable_experts = true;
  /// Adding a number to all logits changes nothing (true of a softmax).
  bool shift_invariant = true;
  double gradient_tolerance =
      1e-6;  ///< of central differences, where the backend's scalar is double
};

namespace detail {

template <Backend B, class R>
class RouterChecker {
  using T = typename B::Scalar;
  using Chosen = std::vector<std::pair<std::int32_t, T>>;  // expert and weight, in order

 public:
  RouterChecker(B& b, const R& router, const RouterLawOptions& options)
      : backend_(b), router_(router), options_(options), draw_(options.seed) {
    while (fewest_ < 64 && !accepts(fewest_)) ++fewest_;
  }

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) {
      draw_case();
      laws_of_choices();
      if (i % 10 == 0) laws_between_runs();
      if constexpr (std::same_as<T, double>)
        if (i % 20 == 0) law_of_gradient();
    }
#if defined(__cpp_exceptions)  // it provokes an error
    law_of_nan();
#endif
    return recorder_.report();
  }

 private:
  struct Case {
    Index tokens = 0, experts = 0, group = 0, capacity = 0, first_token = 0;
    Mode mode = Mode::eval;
    std::uint64_t seed = 0, step = 0;
    std::vector<double> logits;
    std::vector<std::int32_t> mask;  // empty: no padding
  };

  bool accepts(Index experts) const {
#if !defined(__cpp_exceptions)  // a refusal would end the program
    if (experts < router_.choices(experts)) return false;
#endif
    if constexpr (requires { router_.check(experts); }) {
      MOXIE_TRY { router_.check(experts); }
      MOXIE_CATCH(const config_error&) { return false; }
    }
    return true;
  }
  void draw_case() {
    c_ = {};
    c_.tokens = draw_.from(1, 12);
    c_.experts = draw_.from(fewest_, fewest_ + 8);
    c_.group = c_.tokens % 3 == 0 && draw_.chance(0.5) ? c_.tokens / 3 : c_.tokens;
    c_.capacity = draw_.from(1, c_.group + 1);
    c_.mode = draw_.chance(0.5) ? Mode::train : Mode::eval;
    c_.seed = static_cast<std::uint64_t>(draw_.from(0, 1000));
    c_.step = static_cast<std::uint64_t>(draw_.from(0, 1000));
    c_.first_token = draw_.from(0, 100);
    // Ties (a coarse grid), smooth numbers, or logits so far apart that a softmax saturates.
    // Multiples of 1/8, so that a shift by an integer is exact.
    const double scale = draw_.chance(0.4) ? 1 : draw_.chance(0.8) ? 16 : 400;
    for (Index i = 0; i < c_.tokens * c_.experts; ++i)
      c_.logits.push_back(std::round(draw_.normal() * scale) / 8);
    if (draw_.chance(0.5))
      for (Index t = 0; t < c_.tokens; ++t) c_.mask.push_back(draw_.chance(0.7) ? 1 : 0);
    recorder_.begin(c_.tokens, " tokens, ", c_.experts, " experts, ",
                    c_.mode == Mode::train ? "training" : "evaluation");
  }

  RoutingShape shape(const Case& c) const {
    RoutingShape s{.tokens = c.tokens,
                   .experts = c.experts,
                   .choices = router_.choices(c.experts),
                   .group = c.group,
                   .capacity = c.capacity};
    s.assignments = router_.assignments(s);
    return s;
  }
  RoutingTraits traits(const Case& c) const { return routing_traits(router_, backend_, shape(c)); }
  void route(const Case& c, SparseFixture<B>& f) const {
    f.context.seed = c.seed;
    f.context.step = c.step;
    f.context.first_token = c.first_token;
    f.set_mode(c.mode);
    f.set_mask(c.mask);
    f.set_logits(c.logits);
    router_.route(backend_, f.context, f.routing);
  }
  std::vector<Chosen> chosen(const Case& c) const {
    SparseFixture<B> f(backend_, shape(c), traits(c));
    route(c, f);
    return lists(f);
  }
  /// Assignments of token t are [bounds[t], bounds[t + 1]).
  std::vector<std::size_t> bounds(const SparseFixture<B>& f) const {
    std::vector<std::size_t> out;
    if (f.routing.first) {
      for (const std::int32_t a : to_host(backend_, f.routing.first))
        out.push_back(static_cast<std::size_t>(a));
    } else {
      for (Index t = 0; t <= f.shape().tokens; ++t)
        out.push_back(static_cast<std::size_t>(t * f.routing.choice.cols));
    }
    return out;
  }
  std::vector<Chosen> lists(const SparseFixture<B>& f) const {
    const std::vector<std::int32_t> choice = f.choices();
    const std::vector<T> weight = f.weights();
    const std::vector<std::size_t> first = bounds(f);
    std::vector<Chosen> out(static_cast<std::size_t>(f.shape().tokens));
    for (std::size_t t = 0; t < out.size(); ++t)
      for (std::size_t a = first[t]; a < first[t + 1]; ++a)
        if (choice[a] != -1) out[t].emplace_back(choice[a], weight[a]);
    return out;
  }
  bool masked(Index t) const {
    return !c_.mask.empty() && c_.mask[static_cast<std::size_t>(t)] == 0;
  }

  // --- laws of one result

  void laws_of_choices() {
    SparseFixture<B> f(backend_, shape(c_), traits(c_));
    route(c_, f);
    const std::vector<Chosen> result = lists(f);
    if (f.routing.first) laws_of_rows(f);
    for (Index t = 0; t < c_.tokens; ++t) {
      const Chosen& own = result[static_cast<std::size_t>(t)];
      if (masked(t)) recorder_.expect(own.empty(), "a masked token has an expert");
      for (std::size_t k = 0; k < own.size(); ++k) {
        recorder_.expect(own[k].first >= 0 && own[k].first < c_.experts,
                         "an expert is not one of those there are");
        recorder_.expect(own[k].second >= 0 && math::is_finite(own[k].second),
                         "a weight is negative or not finite");
        for (std::size_t j = 0; j < k; ++j)
          recorder_.expect(own[j].first != own[k].first, "the experts of a token are not distinct");
      }
    }
    recorder_.expect(chosen(c_) == result, "the same (logits, seed, step) give another result");
  }

  /// Where experts choose, the router makes the rows: both directions of the map agree.
  void laws_of_rows(const SparseFixture<B>& f) {
    const std::vector<std::size_t> first = bounds(f);
    const std::vector<std::int32_t> choice = f.choices();
    const std::vector<std::int32_t> row = f.rows();
    const std::vector<std::int32_t> slot = f.slots();
    const std::vector<std::int32_t> token = f.tokens();
    const std::vector<std::int32_t> assignment = f.assignments();
    const std::vector<std::int32_t> offset = f.offsets();
    const auto groups = static_cast<std::size_t>(f.shape().groups());
    std::vector<Index> held(static_cast<std::size_t>(c_.experts) * groups, 0);
    bool valid = first[0] == 0 && first.back() <= row.size() && offset[0] == 0 &&
                 static_cast<std::size_t>(offset.back()) == first.back();
    for (std::size_t t = 0; valid && t + 1 < first.size(); ++t) {
      valid = first[t] <= first[t + 1];
      for (std::size_t a = first[t]; valid && a < first[t + 1]; ++a) {
        const auto r = static_cast<std::size_t>(row[a]);
        const auto e = static_cast<std::size_t>(choice[a]);
        valid = row[a] >= 0 && r < first.back() && choice[a] >= 0 &&
                static_cast<Index>(e) < c_.experts && row[a] >= offset[e] &&
                row[a] < offset[e + 1] && static_cast<std::size_t>(token[r]) == t &&
                static_cast<std::size_t>(assignment[r]) == a &&
                (a == first[t] || choice[a - 1] < choice[a]);
        if (valid) ++held[e * groups + t / static_cast<std::size_t>(c_.group)];
      }
    }
    recorder_.expect(valid, "lists, rows and offsets contradict each other");
    if (!valid) return;
    for (std::size_t e = 0, begin = 0; e < static_cast<std::size_t>(c_.experts); ++e)
      for (std::size_t g = 0; g < groups;
           begin += static_cast<std::size_t>(held[e * groups + g]), ++g) {
        recorder_.expect(held[e * groups + g] <= c_.capacity,
                         "an expert takes more of a group than its capacity");
        for (std::size_t s = 0; s < static_cast<std::size_t>(held[e * groups + g]); ++s)
          recorder_.expect(static_cast<std::size_t>(token[begin + s] / c_.group) == g &&
                               static_cast<std::size_t>(
                                   slot[static_cast<std::size_t>(assignment[begin + s])]) == s,
                           "a slot is not the place among the rows of its expert and group");
      }
  }

  // --- laws between a result and that of a changed case

  void laws_between_runs() {
    const std::vector<Chosen> result = chosen(c_);
    law_of_ties();
    if (options_.shift_invariant && ranked(c_)) {
      Case shifted = c_;
      for (double& v : shifted.logits) v += 32;
      recorder_.expect(same(chosen(shifted), result, identity()),
                       "adding a number to all logits changes the result");
    }
    if (options_.permutable_experts) law_of_permutations();
    const Index unit = options_.global ? c_.group : 1;
    if (c_.tokens > unit) {
      const Index first = c_.tokens / unit / 2 * unit;
      std::vector<Chosen> parts = chosen(part(0, first));
      for (Chosen& own : chosen(part(first, c_.tokens - first))) parts.push_back(std::move(own));
      recorder_.expect(parts == result, "a token's result depends on its neighbours in the batch");
    }
    if (options_.global) return;
    if (!c_.mask.empty()) {
      Case all = c_;
      all.mask.clear();
      const std::vector<Chosen> unmasked = chosen(all);
      for (Index t = 0; t < c_.tokens; ++t)
        if (!masked(t))
          recorder_.expect(
              unmasked[static_cast<std::size_t>(t)] == result[static_cast<std::size_t>(t)],
              "the mask of one token changes the result of another");
    }
  }
  /// Whether more than rounding ranks the experts of a token, or the tokens of an expert. A plan can saturate: that of a
  /// single token is the same for all experts, and so are entries where a marginal is all that there is to give.
  bool ranked(const Case& c) const {
    if (!traits(c).plan) return true;
    SparseFixture<B> f(backend_, shape(c), traits(c));
    route(c, f);
    const std::vector<T> plan = f.plan();
    const auto entry = [&](Index t, Index e) {
      return static_cast<double>(plan[static_cast<std::size_t>(t * c.experts + e)]);
    };
    const auto tied = [](double a, double b) {
      constexpr double near = std::same_as<T, float> ? 1e-3 : 1e-8;
      return a != b ? std::fabs(a - b) <= near * std::fmax(a, b) : a > 0;
    };
    const auto routed = [&](Index t) {
      return c.mask.empty() || c.mask[static_cast<std::size_t>(t)] != 0;
    };
    for (Index t = 0; t < c.tokens; ++t) {
      if (!routed(t)) continue;
      for (Index e = 0; e < c.experts; ++e) {
        for (Index other = 0; other < e; ++other)
          if (tied(entry(t, e), entry(t, other))) return false;
        for (Index other = t / c.group * c.group; traits(c).ragged && other < t; ++other)
          if (routed(other) && tied(entry(t, e), entry(other, e))) return false;
      }
    }
    return true;
  }
  void law_of_ties() {
    if (c_.experts < 2 || !options_.ties_to_lower_expert) return;
    Case tied = c_;
    tied.mode = Mode::eval;  // noise would break the tie
    const Index low = draw_.from(0, c_.experts - 2);
    const Index high = draw_.from(low + 1, c_.experts - 1);
    for (Index t = 0; t < c_.tokens; ++t)
      tied.logits[static_cast<std::size_t>(t * c_.experts + high)] =
          tied.logits[static_cast<std::size_t>(t * c_.experts + low)];
    for (const Chosen& own : chosen(tied)) {
      const auto at = [&](Index e) {
        std::size_t k = 0;
        while (k < own.size() && own[k].first != e) ++k;
        return k;
      };
      if (at(high) < own.size())
        recorder_.expect(at(low) < at(high), "a tie does not go to the lower expert");
    }
  }
  void law_of_permutations() {
    Case distinct = c_;
    distinct.mode = Mode::eval;  // noise belongs to the expert's number
    for (double& v : distinct.logits) v = draw_.normal();
    if (!ranked(distinct)) return;
    Case permuted = distinct;
    const std::vector<Index> to = draw_.permutation(c_.experts);
    for (Index t = 0; t < c_.tokens; ++t)
      for (Index e = 0; e < c_.experts; ++e)
        permuted
            .logits[static_cast<std::size_t>(t * c_.experts + to[static_cast<std::size_t>(e)])] =
            distinct.logits[static_cast<std::size_t>(t * c_.experts + e)];
    recorder_.expect(same(chosen(permuted), chosen(distinct), to),
                     "permuting the experts does not permute the result");
  }
  Case part(Index first, Index count) const {
    Case c = c_;
    c.tokens = count;
    c.group = options_.global ? c_.group : count;
    c.first_token = c_.first_token + first;
    const auto cut = [&](auto& v, Index width) {
      v = {v.begin() + first * width, v.begin() + (first + count) * width};
    };
    cut(c.logits, c_.experts);
    if (!c.mask.empty()) cut(c.mask, 1);
    return c;
  }
  std::vector<Index> identity() const {
    std::vector<Index> to;
    for (Index e = 0; e < c_.experts; ++e) to.push_back(e);
    return to;
  }
  /// a is b with expert e renamed to[e].
  bool same(const std::vector<Chosen>& a, std::vector<Chosen> b,
            const std::vector<Index>& to) const {
    const bool in_order_of_experts = traits(c_).ragged;
    for (std::size_t t = 0; t < b.size(); ++t) {
      for (auto& [e, w] : b[t]) e = static_cast<std::int32_t>(to[static_cast<std::size_t>(e)]);
      if (in_order_of_experts) std::sort(b[t].begin(), b[t].end());
      if (a[t].size() != b[t].size()) return false;
      for (std::size_t k = 0; k < b[t].size(); ++k)
        if (a[t][k].first != b[t][k].first ||
            !near(static_cast<double>(a[t][k].second), static_cast<double>(b[t][k].second),
                  tolerance<T>))
          return false;
    }
    return true;
  }

  // --- the gradient of sum(c * weight) + sum(p * probs) + sum(q * noisy_probs)

  void law_of_gradient() {
    Case smooth = c_;
    for (double& v : smooth.logits) v = draw_.normal();
    SparseFixture<B> f(backend_, shape(smooth), traits(smooth));
    route(smooth, f);
    const std::vector<std::int32_t> choice = f.choices();
    const std::vector<std::size_t> first = bounds(f);
    const auto is_none = [&](std::size_t a) { return a >= first.back() || choice[a] < 0; };
    std::vector<double> c = draw_.normals(static_cast<Index>(choice.size()));
    for (std::size_t a = 0; a < choice.size(); ++a)
      if (is_none(a)) c[a] = 0;
    const std::vector<double> p = draw_.normals(static_cast<Index>(smooth.logits.size()));
    const std::vector<double> q = f.routing.noisy() ? draw_.normals(static_cast<Index>(p.size()))
                                                    : std::vector<double>(p.size(), 0.0);
    f.zero_gradients();
    from_host(backend_, f.gradients.weight, c);
    from_host(backend_, f.gradients.probs, p);
    if (f.routing.noisy()) from_host(backend_, f.gradients.noisy_probs, q);
    router_.route_backward(backend_, f.context, f.routing, f.gradients);
    const std::vector<T> analytic = f.d_logits();
    const auto loss = [&](std::size_t i, double by) {
      Case moved = smooth;
      moved.logits[i] += by;
      route(moved, f);
      std::vector<T> weight = f.weights();
      for (std::size_t a = 0; a < choice.size(); ++a)
        if (is_none(a)) weight[a] = 0;
      return dot(c, weight) + dot(p, f.probs()) + dot(q, f.noisy_probs());
    };
    for (std::size_t i = 0; i < smooth.logits.size(); ++i) {
      const auto decided_otherwise = [&] { return f.choices() != choice || bounds(f) != first; };
      const double up = loss(i, 1e-5);
      if (decided_otherwise()) continue;  // not differentiable there
      const double down = loss(i, -1e-5);
      if (decided_otherwise()) continue;
      recorder_.expect(near((up - down) / 2e-5, analytic[i], options_.gradient_tolerance),
                       "the gradient of the logits disagrees with central differences");
    }
  }

  // --- in a layer

#if defined(__cpp_exceptions)
  void law_of_nan() {
    recorder_.begin("a layer around the router");
    const Index experts = fewest_ + 2;
    const Index tokens = 5;
    const MoeLayer<B, R, FixedCapacity, PassThrough> layer(
        backend_, {.width = 3, .experts = experts, .seed = 1}, router_, FixedCapacity{tokens},
        PassThrough{});
    auto tape = layer.make_tape(tokens);
    OwnedMatrix<B> x(backend_, tokens, 3, draw_.normals(tokens * 3));
    const OwnedMatrix<B> y(backend_, tokens, 3);
    std::vector<double> bad(static_cast<std::size_t>(tokens * 3), 0.5);
    bad[3 * 3 + 1] = std::numeric_limits<double>::quiet_NaN();
    x.set(bad);
    std::string what;
    try {
      layer.forward(x.read(), y.view(), tape, {.seed = 1});
      layer.check(tape);
    } catch (const numeric_error& e) {
      what = e.what();
    }
    recorder_.expect(what.find("token 3") != std::string::npos,
                     "a layer does not name the token whose logits are NaN");
  }
#endif

  B& backend_;
  const R& router_;
  RouterLawOptions options_;
  Draw draw_;
  Index fewest_ = 1;  // experts that the router accepts
  Case c_;
  LawRecorder recorder_;
};
}  // namespace detail

/// Checks the laws of router/concept.hpp on random logits with ties, padding, noise and saturation,
/// the gradient against central differences on a backend of double, and that a layer with this
/// router names NaN. Cost: a few routings of some ten tokens a case. Blocks.
template <Backend B, class R>
requires Router<R, B> LawReport check_router_laws(B& backend, const R& router,
                                                  const RouterLawOptions& options = {}) {
  return detail::RouterChecker<B, R>(backend, router, options).run();
}

}  // namespace moxie::testing
