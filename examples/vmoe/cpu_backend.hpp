#pragma once

#include <cstddef>
#include <cstring>

#include "kernels.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/core/memory.hpp"
#include "options.hpp"

/// The CPU as backend.hpp wants it.
namespace vmoe {

using Backend = moxie::CpuBackend<float>;

inline constexpr const char* backend_name = "cpu";
inline constexpr bool backend_uses_pool = true;

inline Backend make_backend(moxie::ThreadPool& pool, const Options& /*options*/) {
  return Backend(pool);
}

/// Both sides are the same memory.
class Staging {
 public:
  Staging(Backend& backend, std::size_t bytes) : memory_(backend, bytes) {
    std::memset(memory_.data(), 0, bytes);
  }

  void begin() {}
  std::byte* host() { return memory_.data(); }
  void send() {}
  const std::byte* receive() { return memory_.data(); }

 private:
  moxie::Memory<Backend> memory_;
};

}  // namespace vmoe
