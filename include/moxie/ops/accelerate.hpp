#pragma once

#include "moxie/backend/concept.hpp"

namespace moxie {

/// Backend B has a faster twin of operation Op for these arguments.
///
/// An operation is a function object. Its call asks the backend for `run(operation, arguments...)` and falls
/// back to `Op::generic`, which stays callable as the oracle of the twin. A user overrides an operation by
/// deriving from a backend and adding a `run`.
template <class Op, class B, class... A>
concept Accelerates = requires(const Op& op, B& b, const A&... a) {
  b.run(op, a...);
};

namespace detail {
/// The one place where an operation is dispatched.
template <class Op, class B, class... A>
void run_or_generic(const Op& op, B& b, const A&... a) {
  if constexpr (Accelerates<Op, B, A...>) {
    b.run(op, a...);
  } else {
    Op::generic(b, a...);
  }
}
}  // namespace detail

}  // namespace moxie
