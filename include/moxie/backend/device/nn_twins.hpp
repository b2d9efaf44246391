#pragma once

#include <concepts>

#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie {

template <std::floating_point T, Leaf<T> L>
class DeviceBackend;

namespace detail::device {

/// Kernels of networks: attention, norms, activations, optimizers. See Twins.
template <class T, KernelLeaf L>
class NnTwins {
  using Space = typename L::Space;

 public:
  void run(const NoOperation&) {}

 private:
  DeviceBackend<T, L>& self() { return static_cast<DeviceBackend<T, L>&>(*this); }
};

}  // namespace detail::device
}  // namespace moxie

#endif
