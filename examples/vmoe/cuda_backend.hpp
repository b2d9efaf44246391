#pragma once

#include "cuda_staging.hpp"
#include "moxie/backend/cuda.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "options.hpp"

/// A GPU as backend.hpp wants it.
namespace vmoe {

using Backend = moxie::CudaBackend<float>;

inline constexpr const char* backend_name = "cuda";
inline constexpr bool backend_uses_pool = false;

/// On the current device, with a stream of its own.   @throws moxie::cuda_error if there is none
inline Backend make_backend(moxie::ThreadPool& /*pool*/, const Options& options) {
  return Backend(moxie::CudaLeaf(moxie::CudaOptions{.tf32 = options.tf32}));
}

using Staging = CudaStaging<Backend>;

}  // namespace vmoe
