#pragma once

#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "moxie/regularizer/concept.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_regularizers.hpp"
#include "moxie/testing/sparse_fixture.hpp"

namespace moxie::testing {

struct RegularizerLawOptions {
  Index cases = 100;
  std::uint64_t seed = 1;
  double noise_std = 1;  ///< of the routings in training; 0: none
  double gradient_tolerance =
      1e-6;  ///< of central differences, where the backend's scalar is double
};

namespace detail {

/// A regularizer with its weight, with twice that, and with none, without its type: the laws are compiled once for all of
/// them.
template <Backend B>
struct RegularizerWeights {
  using Part = moxie::detail::RegularizerPart<B, SparseRouting<B>>;
  const Part &once, &twice, &none;
  bool per_group;
};

template <Backend B>
class RegularizerChecker {
  using T = typename B::Scalar;
  using RouterType = WithNoise<GaussianNoise, TopKRouter>;
  using Part = typename RegularizerWeights<B>::Part;

 public:
  RegularizerChecker(B& b, const RegularizerWeights<B>& regularizer,
                     const RegularizerLawOptions& options)
      : backend_(b), regularizer_(regularizer), options_(options), draw_(options.seed) {}

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) {
      draw_case();
      if constexpr (std::same_as<T, double>) law_of_gradient();
      law_of_sums();
      law_of_masks();
      law_of_weights();
      law_of_collapse();
    }
    return recorder_.report();
  }

 private:
  struct Case {
    Index group = 1, groups = 1, experts = 1, choices = 1;
    std::vector<double> logits;
    std::vector<std::int32_t> mask;
    std::vector<std::int32_t> pairs;  // of which some name no token
    std::uint64_t step = 0;

    Index tokens() const { return group * groups; }
  };
  struct Outcome {
    std::vector<T> sums, d_logits;
    double loss = 0;
    std::vector<std::int32_t> choice;
  };

  void draw_case() {
    c_ = {};
    c_.group = draw_.from(2, 7);
    c_.groups = draw_.from(1, 3);
    c_.experts = draw_.from(1, 5);
    c_.choices = draw_.from(1, c_.experts < 3 ? c_.experts : 3);
    c_.step = static_cast<std::uint64_t>(draw_.from(0, 1000));
    c_.logits = draw_.normals(c_.tokens() * c_.experts);
    if (draw_.chance(0.4))
      for (Index t = 0; t < c_.tokens(); ++t) c_.mask.push_back(draw_.chance(0.7) ? 1 : 0);
    if (draw_.chance(0.8))
      for (Index i = 2 * draw_.from(0, c_.tokens()); i > 0; --i)
        c_.pairs.push_back(static_cast<std::int32_t>(draw_.from(-1, c_.tokens() - 1)));
    recorder_.begin(c_.groups, " groups of ", c_.group, " tokens, ", c_.experts, " experts, ",
                    c_.choices, " choices", c_.mask.empty() ? "" : ", padding", ", ",
                    c_.pairs.size() / 2, " pairs");
  }

  Outcome evaluate(const Case& c, const Part& a) {
    SparseFixture<B> f(
        backend_,
        {.tokens = c.tokens(), .experts = c.experts, .choices = c.choices, .group = c.group},
        {.noisy = true});
    const RouterType router{{.std = options_.noise_std}, {.k = c.choices}};
    f.context.step = c.step;
    f.set_logits(c.logits);
    f.set_mask(c.mask);
    f.set_pairs(c.pairs);
    router.route(backend_, f.context, f.routing);
    const Buffer<B, T> sums(backend_, a.sums(f.shape()));
    const Buffer<B, T> out(backend_, 1);
    a.accumulate(backend_, f.context, f.routing, sums.view());
    std::vector<T> summed = to_host(backend_, sums.view());
    a.loss(backend_, f.context, f.routing, ConstVector<B>(sums.view()), out.view(), 1);
    a.loss_backward(backend_, f.context, f.routing, ConstVector<B>(sums.view()), f.gradients, 1);
    router.route_backward(backend_, f.context, f.routing, f.gradients);
    return {std::move(summed), f.d_logits(), static_cast<double>(to_host(backend_, out.view())[0]),
            f.choices()};
  }
  Outcome evaluate(const Case& c) { return evaluate(c, regularizer_.once); }

  void law_of_gradient() {
    const Outcome here = evaluate(c_);
    for (std::size_t i = 0; i < c_.logits.size(); ++i) {
      Case up = c_;
      Case down = c_;
      up.logits[i] += 1e-5;
      down.logits[i] -= 1e-5;
      const Outcome above = evaluate(up);
      const Outcome below = evaluate(down);
      // Where a decision changes, a function of it is not differentiable.
      if (above.choice != here.choice || below.choice != here.choice) continue;
      recorder_.expect(near(static_cast<double>(here.d_logits[i]), (above.loss - below.loss) / 2e-5,
                            options_.gradient_tolerance),
                       "the gradient of the logits disagrees with central differences");
    }
  }
  void law_of_sums() {
    const std::vector<T> all = evaluate(c_).sums;
    Case one = c_;
    Case two = c_;
    one.mask.assign(static_cast<std::size_t>(c_.tokens()), 1);
    two.mask = one.mask;
    const std::vector<bool> in_one = halves();
    for (std::size_t t = 0; t < one.mask.size(); ++t) {
      const bool counts = c_.mask.empty() || c_.mask[t] != 0;
      one.mask[t] = counts && in_one[t] ? 1 : 0;
      two.mask[t] = counts && !in_one[t] ? 1 : 0;
    }
    std::vector<T> sum = evaluate(one).sums;
    const std::vector<T> rest = evaluate(two).sums;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += rest[i];
    recorder_.expect(all_near(sum, all, 10 * tolerance<T>), "sums are not additive over tokens");

    if (!regularizer_.per_group || c_.groups == 1) return;
    const Index before = c_.tokens() - c_.group;
    Case others = c_;  // other tokens in all groups but the last
    for (Index i = 0; i < before * c_.experts; ++i)
      others.logits[static_cast<std::size_t>(i)] = draw_.normal();
    const std::vector<T> changed = evaluate(others).sums;
    const auto own = static_cast<std::ptrdiff_t>(all.size()) / c_.groups;
    recorder_.expect(std::vector<T>(changed.end() - own, changed.end()) ==
                         std::vector<T>(all.end() - own, all.end()),
                     "sums of one group depend on the tokens of another");
  }
  /// Splits the tokens in two at random, pairs kept together.
  std::vector<bool> halves() {
    std::vector<bool> in_one;
    for (Index t = 0; t < c_.tokens(); ++t) in_one.push_back(draw_.chance(0.5));
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t i = 0; i < c_.pairs.size(); i += 2) {
        if (c_.pairs[i] < 0 || c_.pairs[i + 1] < 0) continue;
        const auto a = static_cast<std::size_t>(c_.pairs[i]);
        const auto b = static_cast<std::size_t>(c_.pairs[i + 1]);
        changed = changed || in_one[a] != in_one[b];
        if (in_one[a]) in_one[b] = true;
        if (in_one[b]) in_one[a] = true;
      }
    }
    return in_one;
  }
  void law_of_masks() {
    Case padded = c_;
    padded.mask.assign(static_cast<std::size_t>(c_.tokens()), 1);
    const auto at = static_cast<std::size_t>(draw_.from(0, c_.tokens() - 1));
    padded.mask[at] = 0;
    Case other = padded;
    for (Index e = 0; e < c_.experts; ++e)
      other.logits[at * static_cast<std::size_t>(c_.experts) + static_cast<std::size_t>(e)] =
          draw_.normal();
    const Outcome a = evaluate(padded);
    const Outcome b = evaluate(other);
    recorder_.expect(a.sums == b.sums && a.loss == b.loss, "a masked token enters the loss");
    for (Index e = 0; e < c_.experts; ++e)
      recorder_.expect(
          a.d_logits[at * static_cast<std::size_t>(c_.experts) + static_cast<std::size_t>(e)] == 0,
          "a masked token has a gradient");
  }
  void law_of_weights() {
    const Outcome once = evaluate(c_);
    const Outcome twice = evaluate(c_, regularizer_.twice);
    bool scaled = near(twice.loss, 2 * once.loss, tolerance<T>);
    for (std::size_t i = 0; i < once.d_logits.size(); ++i)
      scaled = scaled && near(static_cast<double>(twice.d_logits[i]),
                              2 * static_cast<double>(once.d_logits[i]), tolerance<T>);
    recorder_.expect(scaled, "loss and gradient are not proportional to the weight");
    const Outcome nothing = evaluate(c_, regularizer_.none);
    bool zero = nothing.loss == 0;
    for (const T d : nothing.d_logits) zero = zero && d == 0;
    recorder_.expect(zero, "weight 0 changes something");
  }
  void law_of_collapse() {
    Case collapsed = c_;
    for (const double gap : {30.0, 1e4}) {
      const auto winner = static_cast<std::size_t>(draw_.from(0, c_.experts - 1));
      for (std::size_t i = 0; i < collapsed.logits.size(); ++i)
        collapsed.logits[i] = i % static_cast<std::size_t>(c_.experts) == winner ? gap : 0;
      expect_finite(collapsed, "not finite when one expert takes everything");
    }
    Case empty = c_;
    empty.mask.assign(static_cast<std::size_t>(c_.tokens()), 0);
    expect_finite(empty, "not finite when every token is padding");
  }
  void expect_finite(const Case& c, const char* otherwise) {
    const Outcome o = evaluate(c);
    bool finite = math::is_finite(o.loss);
    for (const T d : o.d_logits) finite = finite && math::is_finite(d);
    recorder_.expect(finite, otherwise);
  }

  B& backend_;
  const RegularizerWeights<B>& regularizer_;
  RegularizerLawOptions options_;
  Draw draw_;
  Case c_;
  LawRecorder recorder_;
};
}  // namespace detail

/// Checks the laws of regularizer/concept.hpp on random routings by top-k with noise, in groups, with
/// padding and with pairs: the gradient down to the logits against central differences (on a backend of
/// double), additive sums, weights, padding, and what happens when one expert takes everything.
/// Blocks.
template <Backend B, class A>
requires Regularizer<A, B, SparseRouting<B>> LawReport check_regularizer_laws(
    B& backend, const A& regularizer, const RegularizerLawOptions& options = {}) {
  using Model = moxie::detail::RegularizerModel<B, SparseRouting<B>, A>;
  A heavier = regularizer, weightless = regularizer;
  heavier.weight = 2 * regularizer.weight;
  weightless.weight = 0;
  const Model once(regularizer), twice(heavier), none(weightless);
  return detail::RegularizerChecker<B>(backend, {once, twice, none, A::per_group}, options).run();
}

}  // namespace moxie::testing
