#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moxie/core/parameters.hpp"

namespace moxie::train {

/// Copies all values and buffers of a model into the Scope `to_scope` of another one, as a dual
/// model starts from two models that were trained apart:
///   load_checkpoint("standard.safetensors", alone.parameters());
///   warm_start(alone.parameters(), dual.parameters(), "Standard");
/// Optimizers start anew. Blocks.
/// @throws shape_error before anything is written, naming the first entry that is missing, has
/// another shape, or is not in `from`
template <Backend B>
void warm_start(const Parameters<B>& from, Parameters<B>& to, std::string_view to_scope) {
  constexpr const char* who = "moxie::train::warm_start";
  const std::string prefix = to_scope.empty() ? std::string() : std::string(to_scope).append("/");
  std::vector<const ParameterEntry*> partner;
  for (const ParameterEntry& e : from.entries()) {
    partner.push_back(nullptr);
    for (const ParameterEntry& other : to.entries())
      if (other.name.size() == prefix.size() + e.name.size() && other.name.starts_with(prefix) &&
          other.name.ends_with(e.name) && other.shape == e.shape && other.trained == e.trained)
        partner.back() = &other;
    if (partner.back() == nullptr)
      throw_shape(who, ": there is no '", prefix, e.name, "' of ", e.size(),
                  " numbers in its shape, expected the same model");
  }
  std::size_t there = 0;
  for (const ParameterEntry& e : to.entries()) there += e.name.starts_with(prefix) ? 1U : 0U;
  if (there != partner.size())
    throw_shape(who, ": '", to_scope, "' has ", there, " entries, the other model ", partner.size(),
                ", expected as many");
  using T = typename B::Scalar;
  B& b = to.backend();
  const Vector<B> values = to.edit();
  for (std::size_t i = 0; i < partner.size(); ++i) {
    const ParameterEntry& e = from.entries()[i];
    const T* source = (e.trained ? from.values().data : from.buffers().data) + e.offset;
    T* target = (e.trained ? values.data : to.buffers().data) + partner[i]->offset;
    if (e.size() > 0) b.copy(target, source, static_cast<std::size_t>(e.size()) * sizeof(T));
  }
  b.synchronize();
}

}  // namespace moxie::train
