#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "moxie/backend/cuda/error.hpp"
#include "timing.hpp"

namespace bench {

/// Owns an event that takes the time when its turn comes.
class CudaEvent {
 public:
  CudaEvent() { MOXIE_CUDA_TRY(cudaEventCreate(&event_)); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() { cudaEventDestroy(event_); }
  void record(cudaStream_t stream) { MOXIE_CUDA_TRY(cudaEventRecord(event_, stream)); }
  double seconds_since(const CudaEvent& start) const {
    float milliseconds = 0;
    MOXIE_CUDA_TRY(cudaEventSynchronize(event_));
    MOXIE_CUDA_TRY(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return static_cast<double>(milliseconds) / 1e3;
  }

 private:
  cudaEvent_t event_{};
};

/// Keeps the GPU busy for so many cycles of its clock.
static __global__ void keep_busy(long long cycles) {
  for (const long long start = clock64(); clock64() - start < cycles;) {
  }
}
constexpr long long busy_cycles =
    4'000'000;  // some 2 ms: longer than a hundred launches take to enqueue

/// Median seconds on the GPU of what each function enqueues on the stream, taken in turn, `at_once` times between two events.
/// The GPU is kept busy before the first, so that the time to enqueue does not show where a call is short. A first round is not
/// counted.
inline std::vector<double> device_medians(cudaStream_t stream, int rounds, int at_once,
                                          const std::vector<std::function<void()>>& functions) {
  std::vector<std::vector<double>> times(functions.size());
  CudaEvent start, stop;
  for (int round = -1; round < rounds; ++round) {
    for (std::size_t i = 0; i < functions.size(); ++i) {
      keep_busy<<<1, 1, 0, stream>>>(busy_cycles);
      MOXIE_CUDA_TRY(cudaGetLastError());
      start.record(stream);
      for (int n = 0; n < at_once; ++n) functions[i]();
      stop.record(stream);
      const double seconds = stop.seconds_since(start) / at_once;
      if (round >= 0) times[i].push_back(seconds);
    }
  }
  std::vector<double> medians;
  for (const auto& t : times) medians.push_back(median(t));
  return medians;
}

}  // namespace bench
