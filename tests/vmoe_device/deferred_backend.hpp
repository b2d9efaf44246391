#pragma once

#include <cstddef>
#include <stdexcept>
#include <vector>

#include "device/deferred_leaf.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/core/memory.hpp"
#include "options.hpp"

/// A device that runs late and whose memory the host cannot touch, as examples/vmoe/backend.hpp wants it.
namespace vmoe {

using Backend = moxie::test::DeferredBackend<float>;

inline constexpr const char* backend_name = "deferred";
inline constexpr bool backend_uses_pool = false;

inline Backend make_backend(moxie::ThreadPool& /*pool*/, const Options& /*options*/) { return {}; }

/// Its queue is of one thread: what was written is copied when it is received.
class Staging {
 public:
  Staging(Backend& backend, std::size_t bytes)
      : backend_(&backend), host_(bytes), device_(backend, bytes) {
    backend.copy_from_host(device_.data(), host_.data(), bytes);
  }

  void begin() {
    if (open_) throw std::logic_error("Staging::begin: before what was sent was received");
    open_ = true;
  }
  std::byte* host() { return host_.data(); }
  void send() {}
  const std::byte* receive() {
    backend_->copy_from_host(device_.data(), host_.data(), host_.size());
    open_ = false;
    return device_.data();
  }

 private:
  Backend* backend_;
  bool open_ = false;
  std::vector<std::byte> host_;
  moxie::Memory<Backend> device_;
};

}  // namespace vmoe
