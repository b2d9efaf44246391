#pragma once

#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/nn_twins.hpp"
#include "moxie/backend/device/portable.hpp"
#include "moxie/backend/device/product_twins.hpp"
#include "moxie/backend/device/routing_twins.hpp"

namespace moxie::detail::device {

/// Where the operations that run as our own kernels live: members `run(Operation, arguments...)`,
/// found by Accelerates (ops/accelerate.hpp). A base of DeviceBackend; for a leaf that cannot
/// launch kernels it is empty, and every operation keeps its generic form.
template <class T, class L>
class Twins {};

#if defined(MOXIE_KERNELS)
template <class T, KernelLeaf L>
class Twins<T, L> : public RoutingTwins<T, L>, public NnTwins<T, L>, public ProductTwins<T, L> {
 public:
  using RoutingTwins<T, L>::run;
  using NnTwins<T, L>::run;
  using ProductTwins<T, L>::run;
  using NnTwins<T, L>::bind;
  using ProductTwins<T, L>::bind;
};
#endif

}  // namespace moxie::detail::device
