#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace moxie {

/// A 64-bit checksum against damage on the way to the disk and back; no defence against intent. Any
/// change within one word of eight bytes changes it.
class Checksum {
 public:
  void add(const void* data, std::size_t bytes) {
    const char* from = static_cast<const char*>(data);
    // The length first: "ab" "c" is not "a" "bc".
    add_word(bytes);
    std::uint64_t word = 0;
    for (; bytes >= sizeof(word); bytes -= sizeof(word), from += sizeof(word)) {
      std::memcpy(&word, from, sizeof(word));
      add_word(word);
    }
    word = 0;
    if (bytes > 0) std::memcpy(&word, from, bytes);
    add_word(word);
  }
  void add(std::string_view text) { add(text.data(), text.size()); }

  /// Sixteen hexadecimal digits.
  std::string text() const {
    std::string out;
    for (int shift = 60; shift >= 0; shift -= 4)
      out += "0123456789abcdef"[(value_ >> static_cast<unsigned>(shift)) & 15U];
    return out;
  }

 private:
  // Both steps are one-to-one, so two different words never meet in one value.
  void add_word(std::uint64_t word) {
    value_ = (value_ ^ word) * 0x9E3779B97F4A7C15U;
    value_ ^= value_ >> 32U;
  }
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

}  // namespace moxie
