#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/core/math.hpp"
#include "moxie/core/parameters.hpp"

namespace moxie {

/// The decay of entries whose name ends in these words: "kernel", "head/kernel".
struct DecayRule {
  std::string name;
  double rate = 0;

  friend bool operator==(const DecayRule&, const DecayRule&) = default;
};

/// Weight decay by the name of a parameter. The first rule that fits decides, `otherwise` where
/// none does, so special cases come first:
///
///   Decay::kernels(0.1)                               no biases, norms or embeddings
///   Decay{{{"head/kernel", 3.0}, {"kernel", 0.03}}}   Soft MoE
///   Decay::all(0.1)                                   everything
///
/// Errors: config_error for a rate that is negative or not finite, or a rule without a name, when a
/// state is made.
struct Decay {
  std::vector<DecayRule> rules{};
  double otherwise = 0;

  static Decay none() { return {}; }
  static Decay kernels(double rate) { return {{{"kernel", rate}}, 0}; }
  static Decay all(double rate) { return {{}, rate}; }

  /// The rate of the parameter called `name`.
  double operator()(std::string_view name) const {
    for (const DecayRule& rule : rules) {
      if (!name.ends_with(rule.name)) continue;
      if (name.size() == rule.name.size() || name[name.size() - rule.name.size() - 1] == '/')
        return rule.rate;
    }
    return otherwise;
  }

  friend bool operator==(const Decay&, const Decay&) = default;
};

/// Neighbouring parameters of equal decay.
struct DecaySegment {
  Index first = 0;
  Index size = 0;
  double rate = 0;
};

/// The trained values of a model cut into as few segments as possible, in ascending order.
/// Errors: see Decay.
template <Backend B>
std::vector<DecaySegment> decay_segments(const Decay& decay, const Parameters<B>& parameters) {
  const auto check = [](std::string_view name, double rate) {
    if (!(rate >= 0) || !math::is_finite(rate))
      throw_config("moxie::Decay: the rate of '", name, "' must be >= 0 and finite, got ", rate);
  };
  for (const DecayRule& rule : decay.rules) {
    if (rule.name.empty())
      throw_config("moxie::Decay: a rule has no name; `otherwise` is the rate of everything else");
    check(rule.name, rule.rate);
  }
  check("otherwise", decay.otherwise);

  std::vector<DecaySegment> all;
  for (const ParameterEntry& e : parameters.entries())
    if (e.trained && e.size() > 0) all.push_back({e.offset, e.size(), decay(e.name)});
  std::sort(all.begin(), all.end(),
            [](const DecaySegment& a, const DecaySegment& b) { return a.first < b.first; });
  std::vector<DecaySegment> merged;
  for (const DecaySegment& s : all) {
    if (!merged.empty() && merged.back().rate == s.rate) {
      merged.back().size += s.size;
    } else {
      merged.push_back(s);
    }
  }
  return merged;
}

namespace detail {
/// f(first, size, rate) for each part of the range that lies in one segment.
template <class F>
void for_each_segment(const std::vector<DecaySegment>& segments, const ParameterRange& range,
                      const F& f) {
  for (const ParameterRange::Run& run : {range.shared, range.experts})
    for (const DecaySegment& s : segments) {
      const Index first = (std::max)(run.first, s.first);
      const Index end = (std::min)(run.first + run.size, s.first + s.size);
      if (first < end) f(first, end - first, s.rate);
    }
}
}  // namespace detail

}  // namespace moxie
