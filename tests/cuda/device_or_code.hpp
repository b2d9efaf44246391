#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace moxie::test {

/// 0 where there is a CUDA device. Else prints why not, and returns what the program is to end with:
/// 77 (skipped), or 1 where the environment has MOXIE_REQUIRE_GPU=1.
inline int device_or_code() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return 0;
  const char* required = std::getenv("MOXIE_REQUIRE_GPU");
  const bool fails = required != nullptr && std::string_view(required) == "1";
  std::printf("%s: no CUDA device (%s)\n", fails ? "failed, MOXIE_REQUIRE_GPU=1" : "skipped",
              cudaGetErrorString(status));
  return fails ? 1 : 77;
}

}  // namespace moxie::test
