#pragma once

#include <cstdint>

#include "moxie/backend/device/kernels/product_tile.hpp"

#if defined(MOXIE_KERNELS)

/// What a product of experts does with its sums while they are in registers: the ends of
/// ops/expert_product.hpp. Each is called as end(e, r, c, v, n): the sums of row r of expert e in
/// columns [c, c + n), of which the first N are given; n >= 1.
namespace moxie::detail::device {

/// to[0, n) = v, at once if all are there and `to` is aligned for it.
template <class T, int N>
MOXIE_DEVICE void store_run(T* to, const Run<T, N>& v, int n) {
  if (n >= N && reinterpret_cast<std::uintptr_t>(to) % sizeof(v) == 0) {
    *reinterpret_cast<Run<T, N>*>(to) = v;
  } else {
    MOXIE_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i < n) to[i] = v[i];
    }
  }
}

/// out = v, and bias[e] added if there is any.
template <class Sum, class Out>
struct StoreEnd {
  Strided<const Sum> bias;
  Strided<Out> out;

  template <int N>
  MOXIE_DEVICE void operator()(int e, int r, int c, const Run<Sum, N>& v, int n) const {
    Run<Out, N> y;
    MOXIE_UNROLL
    for (int i = 0; i < N; ++i) {
      y[i] = static_cast<Out>(bias.data != nullptr && i < n ? v[i] + bias.row(e)[c + i] : v[i]);
    }
    store_run(out.row(r) + c, y, n);
  }
};

/// act = A(v + bias[e]); before, pre = v + bias[e], unless it is null.
template <class A, class Sum, class Out>
struct ActivationEnd {
  Strided<const Sum> bias;
  Strided<Out> pre;
  Strided<Out> act;

  template <int N>
  MOXIE_DEVICE void operator()(int e, int r, int c, const Run<Sum, N>& v, int n) const {
    Run<Out, N> x;
    Run<Out, N> y;
    MOXIE_UNROLL
    for (int i = 0; i < N; ++i) {
      const Sum sum = i < n ? v[i] + bias.row(e)[c + i] : v[i];
      x[i] = static_cast<Out>(sum);
      y[i] = static_cast<Out>(A::value(sum));
    }
    if (pre.data != nullptr) store_run(pre.row(r) + c, x, n);
    store_run(act.row(r) + c, y, n);
  }
};

/// d = v A'(pre).
template <class A, class Sum, class Out>
struct DerivativeEnd {
  Strided<const Out> pre;
  Strided<Out> d;

  template <int N>
  MOXIE_DEVICE void operator()(int /*e*/, int r, int c, const Run<Sum, N>& v, int n) const {
    Run<Out, N> y;
    MOXIE_UNROLL
    for (int i = 0; i < N; ++i) {
      const Sum x = i < n ? static_cast<Sum>(pre.row(r)[c + i]) : Sum(0);
      y[i] = static_cast<Out>(v[i] * A::derivative(x));
    }
    store_run(d.row(r) + c, y, n);
  }
};

}  // namespace moxie::detail::device

#endif
