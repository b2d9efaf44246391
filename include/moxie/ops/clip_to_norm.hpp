#pragma once

#include "moxie/core/math.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/strips.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct ClipStrip {
  using T = typename B::Scalar;
  static constexpr Index length = flat_strip<B>;
  Vector<B> x;
  const double* squared_norm;
  double limit;

  MOXIE_HD MOXIE_INLINE void operator()(Index s) const {
    const double norm = math::sqrt(*squared_norm);
    if (!(norm >= limit)) return;
    const auto factor = static_cast<T>(limit / norm);
    const Index n = strip_length<B>(s, x.size);
    T* at = x.data + s * length;
    StripArray<B> v;
    load_strip<B>(at, n, v);
    for (Index i = 0; i < length; ++i) v[i] *= factor;
    store_strip<B>(v, n, at);
  }
};
}  // namespace detail

/// x *= limit / norm if norm >= limit, with norm the root of squared_norm[0], which stays in the
/// backend's memory. x: [N], squared_norm: [1]. A norm that is NaN leaves x as it is.
/// Cost: at most one pass. Does not block.
struct ClipToNorm {
  template <Backend B>
  void operator()(B& b, Vector<B> x, VectorView<const double, typename B::Space> squared_norm,
                  double limit) const {
    detail::run_or_generic(*this, b, x, squared_norm, limit);
  }
  template <Backend B>
  static void generic(B& b, Vector<B> x, VectorView<const double, typename B::Space> squared_norm,
                      double limit) {
    b.for_each(detail::strips_of<B>(x.size), detail::ClipStrip<B>{x, squared_norm.data, limit},
               detail::strip_grain);
  }
};
inline constexpr ClipToNorm clip_to_norm{};

}  // namespace moxie
