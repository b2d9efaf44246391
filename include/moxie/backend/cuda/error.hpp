#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <string>

#include "moxie/core/error.hpp"

namespace moxie {

/// A call of CUDA or cuBLAS failed. The message names the call, where it stands, the error's name
/// and CUDA's own words for it.
///
/// Work on a GPU fails after its launch: the error is then thrown by a later call, which says little
/// about the cause. `CudaOptions::sync_after_launch` finds the guilty one.
struct cuda_error : error {
  cuda_error(int error_code, const std::string& message) : error(message), code(error_code) {}
  int code;  ///< a cudaError_t, or a cublasStatus_t where the message names cuBLAS
};

namespace detail::cuda {

struct Place {
  const char* expression;
  const char* file;
  int line;
};

[[noreturn, gnu::cold, gnu::noinline]] inline void fail(int code, const char* name,
                                                        const char* text, Place place) {
  throw cuda_error(code, message(place.file, ":", place.line, ": ", place.expression, ": ", name,
                                 " (", text, ")"));
}

inline void check(cudaError_t status, Place place) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next launch that is fine would be blamed for it
  fail(static_cast<int>(status), cudaGetErrorName(status), cudaGetErrorString(status), place);
}
inline void check(cublasStatus_t status, Place place) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  cudaGetLastError();  // a launch of cuBLAS's may have left one, as above
  fail(static_cast<int>(status), cublasGetStatusName(status), cublasGetStatusString(status), place);
}

}  // namespace detail::cuda

}  // namespace moxie

/// Evaluates a call of CUDA or cuBLAS, and throws moxie::cuda_error unless it succeeded.
#define MOXIE_CUDA_TRY(...) \
  ::moxie::detail::cuda::check((__VA_ARGS__), {#__VA_ARGS__, __FILE__, __LINE__})
