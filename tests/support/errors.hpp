#pragma once

#include <string>

#include "moxie/core/error.hpp"

namespace moxie::test {

/// What `f` throws, by its text; "no error" if it throws none of that type.
template <class Error = error, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace moxie::test
