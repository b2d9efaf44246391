#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "../layer_input.hpp"
#include "axes.hpp"
#include "moxie/io/routes.hpp"

namespace bench {

/// What random numbers are drawn from; no option changes it.
inline constexpr std::string_view seeds =
    "fixed: parameters and logits 1, input 2, noise of route_change 3, trace 4, gradients 5 and up";

/// Noise that asks how stable decisions are: logits + N(0, route_noise).
inline constexpr double route_noise = 0.1;

/// Logits whose softmax has the preferences of recorded routes: log of the recorded weight for an expert that was chosen;
/// the others share what is left of 1, below those chosen. Recorded drops (-1) are not known and stay without preference.
/// A shorter trace is repeated.
/// @throws config_error for an expert past the last; io_error for a file that is no trace
inline std::vector<float> trace_logits(const Options& o, Index tokens, Index experts) {
  const auto layers = moxie::load_routes<float>(o.trace);
  if (o.trace_layer >= static_cast<Index>(layers.size()))
    moxie::throw_config("--trace-layer: ", o.trace_layer, ", but '", o.trace, "' has layers 0 to ",
                        layers.size() - 1);
  const moxie::HostRoutes<float>& routes = layers[static_cast<std::size_t>(o.trace_layer)];
  if (routes.tokens < 1) moxie::throw_config("--trace: '", o.trace, "' has no tokens");
  const moxie::Random random{4, 0, 0};
  std::vector<float> out(static_cast<std::size_t>(tokens * experts));
  for (Index t = 0; t < tokens; ++t) {
    const Index from = t % routes.tokens * routes.choices;
    double left = 1;
    double least = 1;
    Index chosen = 0;
    for (Index k = 0; k < routes.choices; ++k) {
      const std::int32_t e = routes.choice[static_cast<std::size_t>(from + k)];
      if (e >= experts)
        moxie::throw_config("--trace: '", o.trace, "' has expert ", e, " in layer ", o.trace_layer,
                            ", but --experts is ", experts);
      if (e < 0) continue;
      const double weight =
          std::max(1e-6, static_cast<double>(routes.weight[static_cast<std::size_t>(from + k)]));
      out[static_cast<std::size_t>(t * experts + e)] = static_cast<float>(std::log(weight));
      left -= weight;
      least = std::min(least, weight);
      ++chosen;
    }
    const double share =
        std::max(left, 1e-3) / static_cast<double>(std::max<Index>(1, experts - chosen));
    const double other = std::log(std::min(share, 0.5 * least));
    for (Index e = 0; e < experts; ++e) {
      bool is_chosen = false;
      for (Index k = 0; k < routes.choices; ++k)
        is_chosen = is_chosen || routes.choice[static_cast<std::size_t>(from + k)] == e;
      if (!is_chosen)
        out[static_cast<std::size_t>(t * experts + e)] = static_cast<float>(
            other - random.uniform(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(e)));
    }
  }
  return out;
}

/// [tokens, experts]: those of drawn_logits(), or "trace": of recorded routes.
inline std::vector<float> make_logits(std::string_view distribution, const Options& o, Index tokens,
                                      Index experts) {
  if (distribution == "trace") return trace_logits(o, tokens, experts);
  return drawn_logits(distribution, tokens, experts);
}

}  // namespace bench
