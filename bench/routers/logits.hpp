#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

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

/// [tokens, experts]: log p(e) + Gumbel noise, so that the largest logit of a token is expert e's with probability p(e), and
/// what follows is drawn without replacement. p: uniform; zipf 1 / (e + 1); hotspot 0.8 for expert 0; collapse 1 for
/// expert 0 (but for 2e-9 each). "trace": of recorded routes.
/// Source: Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019.
inline std::vector<float> make_logits(std::string_view distribution, const Options& o, Index tokens,
                                      Index experts) {
  if (distribution == "trace") return trace_logits(o, tokens, experts);
  const auto log_p = [&](Index e) {
    if (distribution == "zipf") return -std::log(static_cast<double>(e + 1));
    if (distribution == "hotspot" && experts > 1)
      return std::log(e == 0 ? 0.8 : 0.2 / static_cast<double>(experts - 1));
    if (distribution == "collapse" && e > 0) return -20.0;
    return 0.0;
  };
  const moxie::Random random{1, 0, 0};
  std::vector<float> out(static_cast<std::size_t>(tokens * experts));
  for (Index i = 0; i < tokens * experts; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i)) + 1e-17;
    out[static_cast<std::size_t>(i)] =
        static_cast<float>(log_p(i % experts) - std::log(-std::log(u)));
  }
  return out;
}

/// The input carries the logits so much smaller: numbers of the size that a normalised token has, or GELU would make
/// denormal ones. A power of two, so that nothing is rounded.
inline constexpr float gate_gain = 16;

/// Rows [logits / gate_gain, N(0, 1)]: under `set_gates`, tokens with these logits.
inline std::vector<float> make_input(const std::vector<float>& logits, Index experts, Index width) {
  const Index tokens = static_cast<Index>(logits.size()) / experts;
  const moxie::Random random{2, 0, 0};
  std::vector<float> x(static_cast<std::size_t>(tokens * width));
  for (Index i = 0; i < tokens * width; ++i) {
    const Index d = i % width;
    x[static_cast<std::size_t>(i)] =
        d < experts ? logits[static_cast<std::size_t>(i / width * experts + d)] / gate_gain
                    : static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}
inline std::vector<float> normal_numbers(Index n, std::uint64_t seed) {
  const moxie::Random random{seed, 0, 0};
  std::vector<float> out(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i)
    out[static_cast<std::size_t>(i)] =
        static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return out;
}

/// Makes the gates named Router gate_gain times the identity on the first E dimensions. The logits of a soft router repeat for
/// its P slots, and are cosines: as large as the norm of a token leaves them. A router with another
/// gate of its own keeps it, and with it logits of its own. Returns whether there was one.
inline bool set_gates(moxie::Parameters<B>& parameters, Index experts) {
  const moxie::Vector<B> values = parameters.edit();
  bool found = false;
  for (const moxie::ParameterEntry& entry : parameters.entries()) {
    if (!entry.trained ||
        !(entry.name.ends_with("Router/kernel") || entry.name.ends_with("Router/mu")))
      continue;
    const Index columns = entry.size() / entry.shape[0];
    const Index slots = columns / experts;
    for (Index i = 0; i < entry.size(); ++i)
      values[entry.offset + i] = i / columns == i % columns / slots ? gate_gain : 0.0F;
    found = true;
  }
  return found;
}

}  // namespace bench
