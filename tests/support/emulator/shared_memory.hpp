#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "support/emulator/place.hpp"

namespace moxie::emulator {

/// The shared memory of one block: each array is an allocation of its exact size, so that
/// AddressSanitizer sees what lies beyond it, and full of bytes that make no sense.
class SharedMemory {
 public:
  static constexpr std::size_t static_limit = 48 * 1024;  // what ptxas grants
  static constexpr std::size_t dynamic_alignment = 16;

  explicit SharedMemory(std::size_t dynamic_bytes)
      : dynamic_(allocate(dynamic_bytes, dynamic_alignment)) {}

  std::byte* dynamic() const { return dynamic_.get(); }

  /// The memory of a declaration, which `key` identifies: the same for all threads of the block.
  std::byte* declared(const void* key, std::size_t bytes, std::size_t alignment) {
    for (const Declared& d : declared_) {
      if (d.key == key) return d.memory.get();
    }
    static_bytes_ += bytes;
    if (static_bytes_ > static_limit) {
      throw Error(std::string("MOXIE_SHARED: a block declares ")
                      .append(std::to_string(static_bytes_))
                      .append(" bytes, and may have ")
                      .append(std::to_string(static_limit))
                      .append("; take dynamic shared memory"));
    }
    declared_.push_back({key, allocate(bytes, alignment < 16 ? 16 : alignment)});
    return declared_.back().memory.get();
  }

 private:
  struct Free {
    std::align_val_t alignment{dynamic_alignment};
    void operator()(std::byte* p) const { ::operator delete(p, alignment); }
  };
  using Memory = std::unique_ptr<std::byte, Free>;
  struct Declared {
    const void* key;
    Memory memory;
  };

  static Memory allocate(std::size_t bytes, std::size_t alignment) {
    const auto align = static_cast<std::align_val_t>(alignment);
    Memory memory(static_cast<std::byte*>(::operator new(bytes, align)), Free{align});
    std::memset(memory.get(), 0xCB, bytes);
    return memory;
  }

  Memory dynamic_;
  std::vector<Declared> declared_;
  std::size_t static_bytes_ = 0;
};

}  // namespace moxie::emulator
