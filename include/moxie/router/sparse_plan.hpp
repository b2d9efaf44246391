#pragma once

#include "moxie/core/error.hpp"
#include "moxie/ops/sparse_transport.hpp"

/// What the routers share that rank by a sparse plan: R has the fields max_iterations, learning_rate, tolerance, gamma.
namespace moxie::detail {

template <class R>
SparseTransportOptions sparse_options(const R& router, Index group, Index nonzeros) {
  return {.group = group,
          .nonzeros = nonzeros,
          .gamma = router.gamma,
          .learning_rate = router.learning_rate,
          .max_iterations = router.max_iterations,
          .tolerance = router.tolerance};
}
/// @throws config_error if the numbers of the iteration make no sense: scores over gamma stay finite, in float as well
template <class R>
void check_sparse(const char* who, const R& router) {
  if (router.max_iterations < 0)
    throw_config(who, ": max_iterations is ", router.max_iterations, ", expected >= 0");
  if (!(router.learning_rate > 0 && router.learning_rate <= 1e6))
    throw_config(who, ": learning_rate is ", router.learning_rate,
                 ", expected > 0 and at most 1e6");
  if (!(router.tolerance >= 0 && router.tolerance <= 1e6))
    throw_config(who, ": tolerance is ", router.tolerance, ", expected 0 to 1e6");
  if (!(router.gamma >= 1e-6 && router.gamma <= 1e6))
    throw_config(who, ": gamma is ", router.gamma, ", expected 1e-6 to 1e6");
}

}  // namespace moxie::detail
