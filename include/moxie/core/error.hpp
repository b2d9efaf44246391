#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

/// Errors. Everything the library throws derives from moxie::error, and is thrown here and nowhere else.
/// A message says who (the function), what came, what was expected, and where it was set if that helps.
namespace moxie {

struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// A tensor does not have the shape that was asked for.
struct shape_error : error {
  using error::error;
};
/// A hyper-parameter or a combination of them makes no sense.
struct config_error : error {
  using error::error;
};
/// A file is missing, damaged, or cannot be written.
struct io_error : error {
  using error::error;
};
/// NaN or infinity where a number was needed.
struct numeric_error : error {
  using error::error;
};

namespace detail {
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}
}  // namespace detail

template <class... Parts>
[[noreturn]] void throw_shape(const Parts&... parts) {
  throw shape_error(detail::message(parts...));
}
template <class... Parts>
[[noreturn]] void throw_config(const Parts&... parts) {
  throw config_error(detail::message(parts...));
}
template <class... Parts>
[[noreturn]] void throw_io(const Parts&... parts) {
  throw io_error(detail::message(parts...));
}
template <class... Parts>
[[noreturn]] void throw_numeric(const Parts&... parts) {
  throw numeric_error(detail::message(parts...));
}

}  // namespace moxie
