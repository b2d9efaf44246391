#pragma once

#include <cstddef>

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/strips.hpp"

namespace moxie {

/// The numbers of one step of SGD, the same for all elements of a call.
template <class T>
struct SgdFactors {
  T learning_rate;
  T decay;
  T momentum;
};

namespace detail {
/// The step on N neighbours: values p, gradients g, trace t.
template <class T, std::size_t N>
MOXIE_HD MOXIE_INLINE void sgd_step(const SgdFactors<T>& f, T (&p)[N], const T (&g)[N], T (&t)[N]) {
  constexpr auto length = static_cast<Index>(N);
  for (Index i = 0; i < length; ++i) t[i] = g[i] + f.momentum * t[i];
  for (Index i = 0; i < length; ++i) p[i] -= f.learning_rate * (t[i] + f.decay * p[i]);
}

template <Backend B>
struct SgdStrip {
  using T = typename B::Scalar;
  static constexpr Index length = flat_strip<B>;
  Vector<B> values;
  ConstVector<B> gradients;
  Vector<B> trace;
  SgdFactors<T> f;

  MOXIE_HD MOXIE_INLINE void operator()(Index s) const {
    const Index at = s * length;
    const Index n = strip_length<B>(s, values.size);
    StripArray<B> p, g, t;
    load_strip<B>(values.data + at, n, p);
    load_strip<B>(gradients.data + at, n, g);
    load_strip<B>(trace.data + at, n, t);
    sgd_step(f, p, g, t);
    store_strip<B>(t, n, trace.data + at);
    store_strip<B>(p, n, values.data + at);
  }
};
}  // namespace detail

/// One step of SGD with momentum on flat vectors of one decay:
///   trace = g + momentum trace,  p -= learning_rate (trace + decay p).
/// values p, gradients g, trace: [N] each, distinct memory.
/// Cost: one pass, 5 N scalars moved.
struct SgdUpdate {
  template <Backend B>
  void operator()(B& b, Vector<B> values, ConstVector<B> gradients, Vector<B> trace,
                  const SgdFactors<typename B::Scalar>& factors) const {
    detail::run_or_generic(*this, b, values, gradients, trace, factors);
  }
  template <Backend B>
  static void generic(B& b, Vector<B> values, ConstVector<B> gradients, Vector<B> trace,
                      const SgdFactors<typename B::Scalar>& factors) {
    b.for_each(detail::strips_of<B>(values.size),
               detail::SgdStrip<B>{values, gradients, trace, factors}, detail::strip_grain);
  }
};
inline constexpr SgdUpdate sgd_update{};

}  // namespace moxie
