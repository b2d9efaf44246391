#pragma once

#include <doctest/doctest.h>

#include <string_view>
#include <vector>

#include "moxie/core/parameters.hpp"

namespace moxie::test {

/// The entry of this name, which must be there.
template <class B>
const ParameterEntry& entry_of(const Parameters<B>& parameters, std::string_view name) {
  const ParameterEntry* found = nullptr;
  for (const ParameterEntry& e : parameters.entries())
    if (e.name == name) found = &e;
  REQUIRE_MESSAGE(found != nullptr, "no parameter ", name);
  return *found;
}

/// Sets a trained entry's values.
template <class B>
void set_parameter(Parameters<B>& parameters, std::string_view name,
                   const std::vector<double>& values) {
  using T = typename B::Scalar;
  const ParameterEntry& e = entry_of(parameters, name);
  REQUIRE(e.size() == static_cast<Index>(values.size()));
  const std::vector<T> host(values.begin(), values.end());
  parameters.backend().copy_from_host(parameters.edit().data + e.offset, host.data(),
                                      host.size() * sizeof(T));
}

/// An entry's part of all trained values, or of their gradients.
template <class T>
std::vector<T> part_of(const std::vector<T>& flat, const ParameterEntry& e) {
  return {flat.begin() + e.offset, flat.begin() + e.offset + e.size()};
}

}  // namespace moxie::test
