#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace moxie::emulator {

/// A kernel did what CUDA leaves undefined.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Where in a kernel's source something was called. (Clang 14 lacks std::source_location.)
struct Place {
  const char* file = "";
  unsigned line = 0;

  static constexpr Place here(const char* file = __builtin_FILE(),
                              unsigned line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Place& o) const {
    return line == o.line && std::string_view(file) == o.file;
  }
  std::string text() const { return std::string(file).append(":").append(std::to_string(line)); }
};

}  // namespace moxie::emulator
