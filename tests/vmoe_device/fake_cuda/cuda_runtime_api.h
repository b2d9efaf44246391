#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

// The calls of CUDA's runtime that vmoe::CudaStaging makes, by threads. What they promise is as in CUDA: a stream does one
// thing after another and beside other streams and the host, and nothing but an event or a synchronization says in which
// order. Everything takes long, so that what is not ordered happens in the wrong one.

namespace fake_cuda {

using Done = std::shared_future<void>;

/// A wait that the runtime leaves out, as if the program had forgotten it.
enum class Forgotten {
  nothing,
  copies_for_use,  ///< of the stream of copies, until what lies in the device's memory has been used
  use_for_copies,   ///< of the backend's stream, until it is copied
  host_for_copies,  ///< of the host, until what it wrote is copied
  end_for_copies    ///< of the host, before it frees what is copied
};
inline Forgotten forgotten = Forgotten::nothing;

inline std::atomic<int> streams = 0;
inline std::atomic<int> copies_done = 0;  ///< relaxed: it must order nothing

inline void take_long(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

/// Each operation is a thread that waits for the one before. A queue would have a lock, whose order is no promise of CUDA's,
/// but would hide races from the thread sanitizer.
class Stream {
 public:
  template <class F>
  void enqueue(F operation) {
    Done before = std::exchange(last_, {});
    last_ = std::async(std::launch::async, [before, operation]() mutable {
              if (before.valid()) before.wait();
              before = {};  // or the last one would hold all
              operation();
            }).share();
  }
  /// When all is done that is enqueued by now; not valid if nothing was.
  Done last() const { return last_; }

  /// The first one is the backend's.
  const bool of_backend = streams.fetch_add(1, std::memory_order_relaxed) == 0;

 private:
  Done last_;
};

struct Event {
  Done recorded;
};

inline void wait(const Done& done) {
  if (done.valid()) done.wait();
}

}  // namespace fake_cuda

using cudaStream_t = fake_cuda::Stream*;
using cudaEvent_t = fake_cuda::Event*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2,
                          cudaHostAllocDefault = 0;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

inline cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  *p = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new fake_cuda::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->of_backend || fake_cuda::forgotten != fake_cuda::Forgotten::end_for_copies)
    fake_cuda::wait(stream->last());
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  using fake_cuda::Forgotten;
  const Forgotten own = stream->of_backend ? Forgotten::use_for_copies : Forgotten::copies_for_use;
  if (fake_cuda::forgotten != own)
    stream->enqueue([recorded = event->recorded] { fake_cuda::wait(recorded); });
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new fake_cuda::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->recorded = stream->last();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (fake_cuda::forgotten != fake_cuda::Forgotten::host_for_copies)
    fake_cuda::wait(event->recorded);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  stream->enqueue([=] {
    fake_cuda::take_long(10);
    std::memcpy(to, from, bytes);
    fake_cuda::copies_done.fetch_add(1, std::memory_order_relaxed);
  });
  return cudaSuccess;
}
