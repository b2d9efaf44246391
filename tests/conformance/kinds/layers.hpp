#pragma once

#include <array>
#include <string>
#include <utility>

#include "conformance/kinds/values.hpp"
#include "moxie/core/parameters.hpp"

/// Parameters of layers, by name.
namespace moxie::conformance {

template <Backend B>
typename Parameters<B>::Id find(const Parameters<B>& p, const std::string& name) {
  for (std::size_t id = 0; id < p.entries().size(); ++id)
    if (p.entries()[id].name == name) return id;
  throw std::logic_error("the layer has no parameter '" + name + "'");
}
template <Backend B>
void set(Parameters<B>& p, const std::string& name, const std::vector<double>& values) {
  const ParameterEntry& e = p.entry(find(p, name));
  upload(p.backend(), p.edit().middle(e.offset, e.size()), values);
}
template <Backend B>
std::vector<typename B::Scalar> gradient(const Parameters<B>& p, const std::string& name) {
  return host(p.backend(), p.gradient_vector(find(p, name)));
}

/// A vector's name of a part of its experts, and the layer's.
inline constexpr std::array<std::pair<const char*, const char*>, 4> expert_parts{
    {{"w1", "Mlp/Dense_0/kernel"},
     {"b1", "Mlp/Dense_0/bias"},
     {"w2", "Mlp/Dense_1/kernel"},
     {"b2", "Mlp/Dense_1/bias"}}};

template <Backend B>
void set_experts(Parameters<B>& p, const Json& experts) {
  for (const auto& [part, name] : expert_parts) {
    std::vector<double> all;
    for (const Json& expert : experts)
      for (const double v : flat<double>(expert.at(part))) all.push_back(v);
    set(p, name, all);
  }
}

}  // namespace moxie::conformance
