#pragma once

#include <concepts>

namespace moxie {

template <std::floating_point T>
class CpuBackend;

namespace detail {

/// Where faster twins of operations live: members `run(Operation, arguments...) const`, one for each
/// operation, found by Accelerates (ops/accelerate.hpp). A base of CpuBackend, so that its bodies see all of
/// the backend through `self()` and its interface stays a list of primitives.
template <class T>
class CpuTwins {
 protected:
  const CpuBackend<T>& self() const { return static_cast<const CpuBackend<T>&>(*this); }
};

}  // namespace detail
}  // namespace moxie
