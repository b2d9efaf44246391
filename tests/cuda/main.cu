// doctest's main for programs that need a GPU: it lists its cases anywhere, and without a device
// ends with 77 (skipped), or fails where the environment has MOXIE_REQUIRE_GPU=1.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

int main(int argc, char** argv) {
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::string_view(argv[i]) == "--list-test-cases";
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (!lists && (status != cudaSuccess || devices == 0)) {
    const char* required = std::getenv("MOXIE_REQUIRE_GPU");
    const bool fails = required != nullptr && std::string_view(required) == "1";
    std::printf("%s: no CUDA device (%s)\n", fails ? "failed, MOXIE_REQUIRE_GPU=1" : "skipped",
                cudaGetErrorString(status));
    return fails ? 1 : 77;
  }
  return doctest::Context(argc, argv).run();
}
