// What fails without a GPU, and how it is told: these run everywhere. With a GPU they are skipped.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <string>
#include <type_traits>

#include "moxie/backend/cuda.hpp"
#include "support/errors.hpp"
#include "support/skip.hpp"

namespace {

using moxie::cuda_error;
using moxie::test::message_of;

static_assert(!std::is_copy_constructible_v<moxie::CudaLeaf>);
static_assert(std::is_move_constructible_v<moxie::CudaLeaf>);
static_assert(!std::is_copy_constructible_v<moxie::CudaStream>);
static_assert(!moxie::CudaBackend<float>::batch_invariant);
static_assert(std::is_base_of_v<moxie::error, cuda_error>);

bool has_device() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

template <class F>
int code_of(const F& f) {
  try {
    f();
  } catch (const cuda_error& e) {
    return e.code;
  }
  return 0;
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("A cuda_error says which call failed, where, with which error, and what that means") {
  const auto bad_value = [] { MOXIE_CUDA_TRY(cudaErrorInvalidValue); };
  const std::string text = message_of<cuda_error>(bad_value);
  CHECK(contains(text, "errors_test.cu:46: cudaErrorInvalidValue: cudaErrorInvalidValue ("));
  CHECK(contains(text, cudaGetErrorString(cudaErrorInvalidValue)));
  CHECK(code_of(bad_value) == 1);

  const auto no_blas = [] { MOXIE_CUDA_TRY(CUBLAS_STATUS_NOT_INITIALIZED); };
  CHECK(contains(message_of<cuda_error>(no_blas), ": CUBLAS_STATUS_NOT_INITIALIZED ("));
  CHECK(code_of(no_blas) == 1);

  MOXIE_CUDA_TRY(cudaSuccess);
  MOXIE_CUDA_TRY(CUBLAS_STATUS_SUCCESS);
}

TEST_CASE("Without a device, cudaMalloc is a cuda_error with CUDA's own words") {
  if (has_device()) MOXIE_SKIP("this machine has a GPU");
  const auto call = [] {
    void* p = nullptr;
    MOXIE_CUDA_TRY(cudaMalloc(&p, 16));
  };
  const int code = code_of(call);
  CHECK((code == cudaErrorInsufficientDriver || code == cudaErrorNoDevice));
  const std::string text = message_of<cuda_error>(call);
  CHECK(contains(text, "errors_test.cu:64: cudaMalloc(&p, 16): "));
  CHECK(contains(text, cudaGetErrorName(static_cast<cudaError_t>(code))));
  CHECK(contains(text, cudaGetErrorString(static_cast<cudaError_t>(code))));
}

TEST_CASE("Without a device, cuBLAS fails as a cuda_error") {
  if (has_device()) MOXIE_SKIP("this machine has a GPU");
  const std::string text = message_of<cuda_error>([] {
    cublasHandle_t handle{};
    MOXIE_CUDA_TRY(cublasCreate(&handle));
  });
  CHECK(contains(text, "cublasCreate"));
  CHECK(contains(text, "CUBLAS_STATUS_NOT_INITIALIZED"));
}

TEST_CASE("Without a device, neither a stream, a pool nor a backend can be made") {
  if (has_device()) MOXIE_SKIP("this machine has a GPU");
  CHECK(contains(message_of<cuda_error>([] { moxie::CudaStream stream; }),
                 "cudaStreamCreateWithFlags"));
  CHECK(contains(message_of<cuda_error>([] { moxie::CudaPool pool; }), "cudaGetDevice"));
  CHECK(contains(message_of<cuda_error>([] { moxie::CudaBackend<float> backend; }),
                 "cudaStreamCreateWithFlags"));
  CHECK(contains(message_of<cuda_error>([] {
                   moxie::CudaBackend<float> backend(moxie::CudaLeaf(cudaStreamPerThread));
                 }),
                 "cudaGetDevice"));
}
