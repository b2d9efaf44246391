#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/parameters.hpp"
#include "moxie/core/random.hpp"

namespace bench {

using B = moxie::CpuBackend<float>;
using moxie::Index;

/// [tokens, experts]: log p(e) + Gumbel noise, so that the largest logit of a token is expert e's with probability p(e), and
/// what follows is drawn without replacement. p: uniform; zipf 1 / (e + 1); hotspot 0.8 for expert 0; collapse 1 for
/// expert 0 (but for 2e-9 each).
/// Source: Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019.
inline std::vector<float> drawn_logits(std::string_view distribution, Index tokens, Index experts) {
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
