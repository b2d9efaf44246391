#pragma once

#include <optional>
#include <string>
#include <vector>

#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/runtime/any_regularizers.hpp"

/// A MoE layer in words and numbers, for choice at run time: command lines, configuration files, benchmarks.
namespace moxie {

/// A router by name, and the options of all of them; each reads those it has. Names: RouterRegistry::names(), "soft".
struct RouterConfig {
  std::string name = "softmax_token_choice";
  Index k = 1;                          ///< token choice
  std::optional<bool> renormalize{};    ///< none: the router's own (true for sigmoid scores alone)
  double noise = 0;                     ///< scale of the noise in training; 0: none
  std::string noise_kind = "gaussian";  ///< gaussian (std / E), gaussian_absolute (std), gumbel
  CombineSource combine_source = CombineSource::softmax_noisy;
  double epsilon = 1;                 ///< Sinkhorn: entropic regularization
  Index iterations = 20;              ///< Sinkhorn and sparse transport: most iterations
  std::optional<double> tolerance{};  ///< of those; none: the router's own
  bool plan_at_eval = true;           ///< Sinkhorn: also in evaluation
  double learning_rate = 1e-2;        ///< sparse transport
  bool fill_zero = true;    ///< sparse expert choice: slots that the plan leaves empty are filled
  bool quadratic = false;   ///< sparse expert choice: without the limit on entries
  Index expert_groups = 1;  ///< sigmoid: blocks of experts ...
  Index top_groups = 1;     ///< ... of which so many are searched
  double scale = 1;         ///< sigmoid: factor on the weights
  double bias_rate = 0;     ///< > 0: loss-free balancing (softmax and sigmoid token choice)
  std::string gate = "linear";  ///< linear, cosine
  double jitter = 0;   ///< the gate's input is multiplied by U(1 - jitter, 1 + jitter) in training
  bool cosine = true;  ///< soft: cosine logits
  /// softmax token choice: members of an ensemble (EnsembleBlocks), each with E / blocks experts
  Index blocks = 1;
  Index block_rows = 1;  ///< consecutive rows of one member
};

/// Capacity, priority and overflow policy by their names (runtime/any_capacity.hpp): a rule and its factor, or a number
/// of slots.
struct CapacityConfig {
  std::string rule{};                   ///< empty: ceil; of a soft router round
  std::optional<double> factor{};       ///< none: 1.25; of a soft router 1
  Index multiple_of = 1;                ///< ceil, round, floor
  std::optional<Index> slots{};         ///< instead of rule and factor
  std::string eval_rule{};              ///< evaluation; empty: as in training
  std::optional<double> eval_factor{};  ///< none: as in training
  std::string priority = "first";
  std::string eval_priority{};    ///< empty: as in training
  std::string overflow = "drop";  ///< in both
};

struct ExpertConfig {
  std::string kind = "mlp";  ///< mlp, swiglu, geglu
  Index hidden = 0;          ///< H
  bool same_experts = false;
};

/// Experts that every token goes through, beside those that are routed: one perceptron (GELU) of number * hidden units.
struct SharedConfig {
  Index number = 0;
  Index hidden = 0;  ///< of each; 0: as the routed experts
};

struct MoeConfig {
  MoeShape shape{};
  RouterConfig router{};
  CapacityConfig capacity{};
  ExpertConfig expert{};
  SharedConfig shared{};  ///< WithShared
  /// ResidualMoe: mixed with a perceptron (GELU) as wide as an expert, in learned shares
  bool residual = false;
  std::vector<RegularizerChoice> regularizers{};
};

}  // namespace moxie
