#pragma once

#include <doctest/doctest.h>

#include <string>

#include "moxie/backend/device/portable.hpp"

namespace moxie::test {

/// Text of the emulator::Error that `f` throws, or "" if it does not.
template <class F>
std::string emulator_error(F f) {
  try {
    f();
  } catch (const emulator::Error& e) {
    return e.what();
  }
  return "";
}

inline std::string at_line(const char* file, unsigned line) {
  return std::string(file).append(":").append(std::to_string(line));
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace moxie::test
