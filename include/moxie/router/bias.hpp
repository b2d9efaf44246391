#pragma once

#include <memory>

#include "moxie/core/math.hpp"
#include "moxie/core/parameters.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/ranked_scores.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct CountSelections {  // 1 for each choice of expert e by token t
  static constexpr bool one_level = true;
  ConstIntMatrix<B> choice;

  MOXIE_HD typename B::Scalar operator()(Index t, Index e) const {
    int count = 0;
    for (Index k = 0; k < choice.cols; ++k) count += choice(t, k) == e ? 1 : 0;
    return static_cast<typename B::Scalar>(count);
  }
};
template <Backend B>
struct MoveBias {
  static constexpr bool one_level = true;
  Vector<B> bias, count;
  double rate;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    T sum = 0;
    for (Index e = 0; e < count.size; ++e) sum += count[e];
    const T mean = sum / static_cast<T>(count.size);
    for (Index e = 0; e < count.size; ++e) {
      const T gap = mean - count[e];
      const T step = static_cast<T>(rate);
      bias[e] += gap > 0 ? step : gap < 0 ? -step : T(0);
      count[e] = 0;
    }
  }
};
}  // namespace detail

/// Loss-free balancing: a bias for each expert is added to the scores in selection alone; weights stay those of the
/// scores. After each training step bias_e += rate * sign(mean count - count_e), with the selections of the whole
/// step before capacity drops any. The bias is a buffer, saved in checkpoints, frozen in evaluation.
///
/// Wraps a token-choice router that ranks by scores (`ranks_with_bias`):
/// WithBias{BiasBalance{.rate = 1e-3}, SigmoidTopKRouter{.k = 2}}. Rate 0 keeps no bias.
/// A forward counts what the router selects, before capacity drops or reroutes any; the backward adds the counts, if it
/// is of a training pass that wants gradients of parameters, as those are added.
/// Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for MoE", arXiv 2408.15664.
struct BiasBalance {
  double rate = 1e-3;

  friend constexpr bool operator==(const BiasBalance&, const BiasBalance&) = default;
};

template <class R>
struct WithBias : R {
  static_assert(
      requires { requires R::ranks_with_bias; },
      "moxie::WithBias: the router must rank by scores + r.bias, and say so by a static constexpr "
      "bool ranks_with_bias = true");

  BiasBalance balance{};

  WithBias() = default;
  constexpr WithBias(BiasBalance b, R base) : R(base), balance(b) {}

  double bias_rate() const {
    if (!(balance.rate >= 0) || !math::is_finite(balance.rate))
      throw_config("moxie::BiasBalance: rate is ", balance.rate, ", expected a finite number >= 0");
    return balance.rate;
  }
  void check(Index experts) const {
    (void)bias_rate();
    if constexpr (requires { R::check(experts); }) R::check(experts);
  }
  template <Backend B>
  std::size_t scratch_bytes(const B& b, const RoutingShape& shape) const {
    std::size_t bytes = detail::ranked_scores_bytes<B>(shape);
    if constexpr (requires { R::scratch_bytes(b, shape); })
      if (const std::size_t own = R::scratch_bytes(b, shape); own > bytes) bytes = own;
    return bytes;
  }
  friend constexpr bool operator==(const WithBias&, const WithBias&) = default;
};
template <class R>
WithBias(BiasBalance, R) -> WithBias<R>;

/// The buffers of one layer's bias.
template <Backend B>
class BiasState {
 public:
  bool active() const noexcept { return rate_ > 0; }
  void declare(const Scope<B>& scope, Index experts, double rate) {
    rate_ = rate;
    if (!active()) return;
    bias_ = (scope / "Router").add_buffer("bias", {experts});
    count_ = (scope / "Router").add_buffer("selections", {experts});
    scope.parameters->add_hook(std::make_unique<Move>(scope.prefix, *this));
  }
  /// [E], empty without balancing
  ConstVector<B> bias(const Parameters<B>& p) const {
    return active() ? ConstVector<B>(p.buffer(bias_)) : ConstVector<B>{};
  }
  std::size_t scratch_bytes(const B& b, const RoutingShape& s) const {
    return active() ? b.column_sums_bytes(s.tokens, s.experts) : 0;
  }
  /// [E] selections counted since the last step, empty without balancing
  Vector<B> selections(const Parameters<B>& p) const {
    return active() ? p.buffer(count_) : Vector<B>{};
  }
  /// to[e] += choices of expert e, as the router made them: before assign_slots, which may give them other experts.
  void count(B& b, const SparseRouting<B>& r, Vector<B> to, Scratch<B> scratch) const {
    b.column_sums(r.choice.rows, r.shape.experts, detail::CountSelections<B>{r.choice}, to,
                  scratch);
  }

 private:
  struct Move final : Parameters<B>::StepHook {
    Move(std::string prefix, const BiasState& s)
        : Parameters<B>::StepHook(std::move(prefix)), state(s) {}
    void zero_gradients(const Parameters<B>& p) override {
      p.backend().fill(p.buffer(state.count_), typename B::Scalar(0));
    }
    void after_step(const Parameters<B>& p) override {
      p.backend().for_each(
          1, detail::MoveBias<B>{p.buffer(state.bias_), p.buffer(state.count_), state.rate_});
    }
    BiasState state;
  };

  double rate_ = 0;
  typename Parameters<B>::Id bias_ = 0;
  typename Parameters<B>::Id count_ = 0;
};

}  // namespace moxie
