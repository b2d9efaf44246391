#pragma once

#include <concepts>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

// The library's own try blocks, which are plain blocks in a program without exceptions.
#if defined(__cpp_exceptions)
#define MOXIE_TRY try
#define MOXIE_CATCH(...) catch (__VA_ARGS__)
#define MOXIE_RETHROW throw
#else
#define MOXIE_TRY if constexpr (true)
#define MOXIE_CATCH(...) else
#define MOXIE_RETHROW static_cast<void>(0)
#endif

/// Errors. Everything the library throws derives from moxie::error, and is thrown here and nowhere else.
/// A message says who (the function), what came, what was expected, and where it was set if that helps.
///
/// In a program without exceptions (-fno-exceptions, for all of its files) nothing is thrown: an error ends the program,
/// after `set_error_handler`'s function has seen it.
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

#if !defined(__cpp_exceptions)
/// Sees an error before the program ends: it may log it, or end the program its own way.
using ErrorHandler = void (*)(const error&);

namespace detail {
inline ErrorHandler error_handler = nullptr;

[[noreturn, gnu::cold, gnu::noinline]] inline void end_with(const error& e) {
  if (error_handler != nullptr) error_handler(e);
  std::fputs(e.what(), stderr);
  std::fputs("\n", stderr);
  std::terminate();
}
}  // namespace detail

/// Only without exceptions, before other threads run: what is called for an error. If it returns, or is null (as at the
/// start), the message goes to standard error and std::terminate is called.
/// @returns the function before
inline ErrorHandler set_error_handler(ErrorHandler handler) noexcept {
  const ErrorHandler before = detail::error_handler;
  detail::error_handler = handler;
  return before;
}
#endif

namespace detail {

/// A word or a number of a message. Messages are put together by one function for all of them: a program has a hundred,
/// and would else compile a hundred ways to print.
class MessagePart {
 public:
  // NOLINTBEGIN(google-explicit-constructor): parameter types, made at the call
  MessagePart(const char* text) : kind_(Kind::text), text_(text) {}
  MessagePart(const std::string& text) : MessagePart(std::string_view(text)) {}
  MessagePart(std::string_view text) : kind_(Kind::view), view_(text) {}
  MessagePart(char c) : kind_(Kind::letter), letter_(c) {}
  template <std::signed_integral I>
  MessagePart(I i) : kind_(Kind::integer), integer_(i) {}
  template <std::unsigned_integral I>
  MessagePart(I i) : kind_(Kind::natural), natural_(i) {}
  template <std::floating_point R>
  MessagePart(R r) : kind_(Kind::real), real_(static_cast<double>(r)) {}
  // NOLINTEND(google-explicit-constructor)

  /// Numbers as printf's %g and %d have them.
  void append_to(std::string& out) const;

 private:
  enum class Kind { text, view, letter, integer, natural, real };
  Kind kind_;
  union {
    const char* text_;
    std::string_view view_;
    char letter_;
    long long integer_;
    unsigned long long natural_;
    double real_;
  };
};

[[gnu::cold, gnu::noinline]] inline void MessagePart::append_to(std::string& out) const {
  char number[32];
  switch (kind_) {
    case Kind::text:
      out += text_;
      return;
    case Kind::view:
      out += view_;
      return;
    case Kind::letter:
      out += letter_;
      return;
    case Kind::integer:
      std::snprintf(number, sizeof(number), "%lld", integer_);
      break;
    case Kind::natural:
      std::snprintf(number, sizeof(number), "%llu", natural_);
      break;
    case Kind::real:
      std::snprintf(number, sizeof(number), "%g", real_);
      break;
  }
  out += number;
}

[[gnu::cold, gnu::noinline]] inline std::string join(std::initializer_list<MessagePart> parts) {
  std::string out;
  for (const MessagePart& part : parts) part.append_to(out);
  return out;
}

template <class E>
[[noreturn, gnu::cold, gnu::noinline]] void throw_joined(std::initializer_list<MessagePart> parts) {
#if defined(__cpp_exceptions)
  throw E(join(parts));
#else
  end_with(E(join(parts)));
#endif
}

template <class... Parts>
[[gnu::cold]] std::string message(const Parts&... parts) {
  return join({MessagePart(parts)...});
}
}  // namespace detail

template <class... Parts>
[[noreturn, gnu::cold]] void throw_shape(const Parts&... parts) {
  detail::throw_joined<shape_error>({detail::MessagePart(parts)...});
}
template <class... Parts>
[[noreturn, gnu::cold]] void throw_config(const Parts&... parts) {
  detail::throw_joined<config_error>({detail::MessagePart(parts)...});
}
template <class... Parts>
[[noreturn, gnu::cold]] void throw_io(const Parts&... parts) {
  detail::throw_joined<io_error>({detail::MessagePart(parts)...});
}
template <class... Parts>
[[noreturn, gnu::cold]] void throw_numeric(const Parts&... parts) {
  detail::throw_joined<numeric_error>({detail::MessagePart(parts)...});
}

}  // namespace moxie
