#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "support/emulator/place.hpp"
#include "support/emulator/sanitizers.hpp"

namespace moxie::emulator {

/// The cp.async of one thread. What it copies arrives when it is waited for and not before, so that
/// a kernel that forgets to wait reads what lay there; to ThreadSanitizer it writes from the start.
class AsyncCopies {
 public:
  /// @throws Error if an address is not aligned to `bytes`. Not valid: zeros arrive.
  void add(void* to, const void* from, std::size_t bytes, bool valid, Place place) {
    const auto aligned = [bytes](const void* p) {
      return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
    };
    if (!aligned(to) || (valid && !aligned(from))) {
      throw Error(std::string("copy_async at ")
                      .append(place.text())
                      .append(": an address is not aligned to ")
                      .append(std::to_string(bytes))
                      .append(" bytes"));
    }
    will_write(to, bytes);
    const Quiet quiet;
    open_.push_back({to, valid ? from : nullptr, bytes});
  }
  void commit() {
    const Quiet quiet;
    groups_.push_back(std::exchange(open_, {}));
  }
  /// Returns when all but the latest `pending` groups have arrived.
  void wait(std::size_t pending) {
    std::vector<Copy> due;
    {
      const Quiet quiet;
      if (groups_.size() <= pending) return;
      const auto last = groups_.end() - static_cast<std::ptrdiff_t>(pending);
      for (auto group = groups_.begin(); group != last; ++group) {
        due.insert(due.end(), group->begin(), group->end());
      }
      groups_.erase(groups_.begin(), last);
    }
    for (const Copy& c : due) arrive(c);
    const Quiet quiet;
    due = {};
  }

 private:
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    std::size_t bytes;
  };
  static void arrive(const Copy& c) {
    if (c.from != nullptr) {
      std::memcpy(c.to, c.from, c.bytes);
    } else {
      std::memset(c.to, 0, c.bytes);
    }
  }

  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> groups_;
};

}  // namespace moxie::emulator
