#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "moxie/core/parameters.hpp"

namespace moxie::test {

template <class T>
inline constexpr double tolerance = sizeof(T) == 8 ? 1e-10 : 1e-5;

template <class B>
std::vector<typename B::Scalar> to_host(B& b, ConstVector<B> v) {
  std::vector<typename B::Scalar> host(static_cast<std::size_t>(v.size));
  if (v.size > 0) b.copy_to_host(host.data(), v.data, host.size() * sizeof(typename B::Scalar));
  return host;
}

/// Narrows to the backend's scalar.
template <class B>
void to_device(B& b, Vector<B> v, const std::vector<double>& values) {
  using T = typename B::Scalar;
  std::vector<T> host;
  for (const double x : values) host.push_back(static_cast<T>(x));
  REQUIRE(v.size == static_cast<Index>(host.size()));
  b.copy_from_host(v.data, host.data(), host.size() * sizeof(T));
}

/// Parameters without a model around them.
template <class B>
void add(Parameters<B>& p, std::string name, std::vector<Index> shape, bool experts = false) {
  p.add({.name = std::move(name),
         .shape = std::move(shape),
         .initializer = Initializer::normal(1),
         .expert_axis = experts});
}

}  // namespace moxie::test
