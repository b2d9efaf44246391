#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moxie/router/ensemble.hpp"
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
/// A router of the blocks of an ensemble. Noise that is divided by E is divided by the experts of a block.
template <Backend B, class R>
AnyRouter<B> with_blocks(RouterConfig c, R router) {
  if (c.noise_kind == "gaussian") c.noise *= static_cast<double>(c.blocks);
  return WithBlocks{EnsembleBlocks{.members = c.blocks, .rows = c.block_rows},
                    MaybeNoise<R>(c, router)};
}

/// Why a router cannot use an option; empty of those that it can.
struct Unusable {
  static constexpr std::string_view no_plan = "it makes no plan";
  static constexpr std::string_view full = "its experts choose tokens, which have no k weights";

  std::string_view noise{};
  std::string_view plan{};
  std::string_view renormalize{};
  std::string_view bias_rate =
      "loss-free balancing biases the scores of softmax_token_choice and sigmoid_token_choice";
  std::string_view blocks = "only softmax_token_choice is made of blocks by name";
};
/// @throws config_error for an option that would have no effect
inline void refuse(const RouterConfig& c, const Unusable& why,
                   std::string_view who = "moxie::RouterRegistry") {
  const auto require = [&](bool holds, std::string_view reason, const char* option,
                           const auto& value, const char* expected) {
    if (!holds && !reason.empty())
      throw_config(who, ": router '", c.name, "' cannot use ", option, " ", value, " (", reason,
                   "): expected ", expected);
  };
  require(c.noise == 0, why.noise, "noise", c.noise, "0");
  require(c.combine_source != CombineSource::plan, why.plan, "combine_source", "plan",
          "softmax_noisy or softmax_clean");
  require(!c.renormalize.value_or(false), why.renormalize, "renormalize", "true", "false or none");
  require(c.bias_rate == 0, why.bias_rate, "bias_rate", c.bias_rate, "0");
  require(c.blocks == 1, why.blocks, "blocks", c.blocks, "1");
  require(c.blocks != 1 || c.block_rows == 1, "there is one block", "block_rows", c.block_rows,
          "1");
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
      const bool whole = c.blocks == 1;
      detail::refuse(c, {.plan = detail::Unusable::no_plan,
                         .bias_rate = whole ? "" : "it could lift experts outside a row's block",
                         .blocks = {}});
      const TopKRouter r{.k = c.k,
                         .renormalize = c.renormalize.value_or(false),
                         .combine_source = c.combine_source};
      if (!whole) return detail::with_blocks<B>(c, r);
      return detail::with_noise<B>(c, detail::with_bias(c, r));
    });
    add("sinkhorn_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, {});
      SinkhornTopKRouter r;
      r.k = c.k;
      r.renormalize = c.renormalize.value_or(false);
      return detail::with_noise<B>(c, sinkhorn(c, r));
    });
    add("softmax_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, {.plan = detail::Unusable::no_plan, .renormalize = detail::Unusable::full});
      return detail::with_noise<B>(c, ExpertChoiceRouter{.combine_source = c.combine_source});
    });
    add("sinkhorn_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, {.renormalize = detail::Unusable::full});
      return detail::with_noise<B>(c, sinkhorn(c, SinkhornExpertChoiceRouter{}));
    });
    add("sparse_expert_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(
          c, {.noise = clean_plan, .plan = softmax_alone, .renormalize = detail::Unusable::full});
      SparseExpertChoiceRouter r;
      r.fill_zero = c.fill_zero;
      r.quadratic = c.quadratic;
      return transport(c, r);
    });
    add("sparse_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, {.noise = clean_plan, .plan = softmax_alone});
      SparseTopKRouter r;
      r.k = c.k;
      r.renormalize = c.renormalize.value_or(false);
      return transport(c, r);
    });
    add("sigmoid_token_choice", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, {.noise = "its sigmoid scores are balanced by bias_rate",
                         .plan = detail::Unusable::no_plan,
                         .bias_rate = {}});
      const SigmoidTopKRouter r{.k = c.k,
                                .expert_groups = c.expert_groups,
                                .top_groups = c.top_groups,
                                .renormalize = c.renormalize.value_or(true),
                                .scale = c.scale};
      return detail::with_bias(c, r);
    });
    add("hash", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, no_logits);
      return HashRouter{.k = c.k};
    });
    add("uniform", [](const RouterConfig& c) -> AnyRouter<B> {
      detail::refuse(c, no_logits);
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
  static constexpr std::string_view clean_plan = "its plan is made of the logits without noise";
  static constexpr std::string_view softmax_alone = "it weighs by the softmax alone";
  static constexpr detail::Unusable no_logits{.noise = "it looks at no logits",
                                              .plan = detail::Unusable::no_plan,
                                              .renormalize = "its weights are 1 / k"};

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
    r.max_iterations = c.iterations;
    r.learning_rate = c.learning_rate;
    if (c.tolerance) r.tolerance = *c.tolerance;
    return r;
  }

  std::vector<Entry> entries_;
};

}  // namespace moxie
