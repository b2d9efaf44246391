#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moxie/router/expert_choice.hpp"
#include "moxie/router/gumbel_noise.hpp"
#include "moxie/router/hash.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/router/uniform.hpp"
#include "moxie/runtime/any_router.hpp"
#include "moxie/runtime/moe_config.hpp"

namespace moxie {

/// Noise chosen at run time.
struct AnyNoise {
  std::variant<GaussianNoise, GumbelNoise> kind{};

  template <Backend B>
  double add(B& b, const Context<B>& ctx, ConstMatrix<B> in, Matrix<B> out) const {
    return std::visit([&](const auto& noise) { return noise.add(b, ctx, in, out); }, kind);
  }
  void check(Index experts) const {
    std::visit([&](const auto& noise) { noise.check(experts); }, kind);
  }
  friend bool operator==(const AnyNoise&, const AnyNoise&) = default;
};

inline constexpr std::array<std::string_view, 3> noise_names = {"gaussian", "gaussian_absolute",
                                                                "gumbel"};

/// @throws config_error for a name that is none of `noise_names`
inline AnyNoise make_noise(std::string_view name, double scale) {
  if (name == "gaussian") return {GaussianNoise{.std = scale}};
  if (name == "gaussian_absolute") return {GaussianNoise{.std = scale, .per_expert = false}};
  if (name == "gumbel") return {GumbelNoise{.scale = scale}};
  throw_unknown_name("moxie::make_noise", "noise", name, noise_names);
}

namespace detail {
/// Noise or none: one type for both, since each type of router costs time to compile.
template <class R>
struct MaybeNoise : WithNoise<AnyNoise, R> {
  bool on = false;

  MaybeNoise(const RouterConfig& c, R router)
      : WithNoise<AnyNoise, R>(make_noise(c.noise_kind, c.noise), router), on(c.noise != 0) {}
  bool noisy() const { return on; }
};
template <Backend B, class R>
AnyRouter<B> with_noise(const RouterConfig& c, R router) {
  return MaybeNoise<R>(c, router);
}
/// A rate of 0 is no bias.
template <class R>
WithBias<R> with_bias(const RouterConfig& c, R router) {
  return {BiasBalance{.rate = c.bias_rate}, router};
}
inline void refuse_bias(const RouterConfig& c) {
  if (c.bias_rate != 0)
    throw_config("moxie::RouterRegistry: router '", c.name, "' cannot use bias_rate ", c.bias_rate,
                 " (loss-free balancing biases the scores of softmax_token_choice and "
                 "sigmoid_token_choice): expected 0");
}
inline void refuse_plan_source(const RouterConfig& c) {
  if (c.combine_source == CombineSource::plan)
    throw_config("moxie::RouterRegistry: router '", c.name,
                 "' makes no plan: combine_source is plan, expected softmax_noisy or softmax_clean");
}
}  // namespace detail

/// Routers of sparse routing by name. A researcher's own joins with one line and is then a choice of everything that
/// takes a registry (trainer, benchmark, laws):
///
///   RouterRegistry<B> registry;
///   registry.add("mine", [](const RouterConfig& c) -> AnyRouter<B> { return MyRouter{.k = c.k}; });
template <Backend B>
class RouterRegistry {
 public:
  using Make = AnyRouter<B> (*)(const RouterConfig&);

  /// Knows the library's own routers.
  RouterRegistry() {
    add("softmax_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_plan_source(c);
      const TopKRouter r{.k = c.k,
                         .renormalize = c.renormalize.value_or(false),
                         .combine_source = c.combine_source};
      return detail::with_noise<B>(c, detail::with_bias(c, r));
    });
    add("sinkhorn_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_bias(c);
      SinkhornTopKRouter r;
      r.k = c.k;
      r.renormalize = c.renormalize.value_or(false);
      return detail::with_noise<B>(c, sinkhorn(c, r));
    });
    add("softmax_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_bias(c);
      detail::refuse_plan_source(c);
      return detail::with_noise<B>(c, ExpertChoiceRouter{.combine_source = c.combine_source});
    });
    add("sinkhorn_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_bias(c);
      return detail::with_noise<B>(c, sinkhorn(c, SinkhornExpertChoiceRouter{}));
    });
    add("sparse_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      SparseExpertChoiceRouter r;
      r.fill_zero = c.fill_zero;
      r.quadratic = c.quadratic;
      return transport(c, r);
    });
    add("sparse_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      SparseTopKRouter r;
      r.k = c.k;
      r.renormalize = c.renormalize.value_or(false);
      return transport(c, r);
    });
    add("sigmoid_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_plan_source(c);
      if (c.noise != 0)
        throw_config("moxie::RouterRegistry: router 'sigmoid_token_choice' takes no noise, got ", c.noise);
      const SigmoidTopKRouter r{.k = c.k,
                                .expert_groups = c.expert_groups,
                                .top_groups = c.top_groups,
                                .renormalize = c.renormalize.value_or(true),
                                .scale = c.scale};
      return detail::with_bias(c, r);
    });
    add("hash", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_bias(c);
      return HashRouter{.k = c.k};
    });
    add("uniform", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse_bias(c);
      return UniformRouter{.k = c.k};
    });
  }

  /// @throws config_error for a name that is taken; "soft" is
  RouterRegistry& add(std::string name, Make maker) {
    bool taken = name == "soft";
    for (const Entry& e : entries_) taken = taken || e.name == name;
    if (taken) throw_config("moxie::RouterRegistry::add: the name '", name, "' is taken");
    entries_.push_back({std::move(name), maker});
    return *this;
  }
  /// @throws config_error for a name that there is not, with the nearest one there is; for options that make no sense
  AnyRouter<B> make(const RouterConfig& c) const {
    for (const Entry& e : entries_)
      if (e.name == c.name) return e.make(c);
    std::vector<std::string_view> known = names();
    known.emplace_back("soft");
    throw_unknown_name("moxie::RouterRegistry::make", "router", c.name, known);
  }
  /// In the order they were added. "soft" is not among them: its routing is of another kind (make_layer).
  std::vector<std::string_view> names() const {
    std::vector<std::string_view> out;
    for (const Entry& e : entries_) out.emplace_back(e.name);
    return out;
  }

 private:
  struct Entry {
    std::string name;
    Make make;
  };
  template <class R>
  static R sinkhorn(const RouterConfig& c, R r) {
    r.epsilon = c.epsilon;
    r.iterations = c.iterations;
    if (c.tolerance) r.tolerance = *c.tolerance;
    r.plan_at_eval = c.plan_at_eval;
    r.combine_source = c.combine_source;
    return r;
  }
  template <class R>
  static AnyRouter<B> transport(const RouterConfig& c, R r) {
    detail::refuse_bias(c);
    if (c.combine_source == CombineSource::plan)
      throw_config("moxie::RouterRegistry: router '", c.name,
                   "' weighs by the softmax alone: combine_source is plan, expected softmax_noisy or "
                   "softmax_clean");
    r.max_iterations = c.iterations;
    r.learning_rate = c.learning_rate;
    if (c.tolerance) r.tolerance = *c.tolerance;
    return r;
  }

  std::vector<Entry> entries_;
};

}  // namespace moxie
