#pragma once

#include <concepts>

#include "moxie/backend/cpu/attention.hpp"
#include "moxie/backend/cpu/options.hpp"

namespace moxie {

template <std::floating_point T>
class CpuBackend;

namespace detail {

/// Where faster twins of operations live: members `run(Operation, arguments...)`, one for each
/// operation, found by Accelerates (ops/accelerate.hpp). A base of CpuBackend, so that its bodies
/// see all of the backend through `self()` and its interface stays a list of primitives.
///
/// A ProductEngine turns off the twins that bring products of their own: it is there to be a second
/// opinion.
template <class T>
class CpuTwins {
 public:
  template <class B>
  void bind(const Attention&, Arena<B>& arena, const AttentionShape& shape,
            AttentionMemory<B>& memory) const {
    if (self().product() != nullptr) return Attention::generic_bind(arena, shape, memory);
    CpuAttention<T>{self(), shape}.bind(arena, memory);
  }
  template <class B>
  void run(const Attention&, const AttentionShape& shape, MatrixView<const T> q,
           MatrixView<const T> k, MatrixView<const T> v, const AttentionMemory<B>& memory,
           MatrixView<T> o) {
    if (self().product() != nullptr)
      return Attention::generic(static_cast<B&>(*this), shape, q, k, v, memory, o);
    CpuAttention<T>{self(), shape}.forward(q, k, v, memory.kept, memory.working, o);
  }
  template <class B>
  void run(const AttentionBackward&, const AttentionShape& shape, MatrixView<const T> q,
           MatrixView<const T> k, MatrixView<const T> v, MatrixView<const T> d_o,
           const AttentionMemory<B>& memory, MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv) {
    if (self().product() != nullptr)
      return AttentionBackward::generic(static_cast<B&>(*this), shape, q, k, v, d_o, memory, dq, dk,
                                        dv);
    CpuAttention<T>{self(), shape}.backward(q, k, v, d_o, memory.kept, memory.working, dq, dk, dv);
  }

 protected:
  const CpuBackend<T>& self() const { return static_cast<const CpuBackend<T>&>(*this); }
};

}  // namespace detail
}  // namespace moxie
