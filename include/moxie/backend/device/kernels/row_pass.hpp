#pragma once

#include <cstdint>

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

#if defined(MOXIE_KERNELS)

/// Element-wise passes over the rows of matrices, neighbours in memory to neighbours in a warp, 16
/// bytes an access where the rows allow it.
namespace moxie::detail::device {

inline constexpr int row_pass_threads = 256;

/// Every element of `rows` rows once, Width neighbours at a time: 2^log_lanes threads take a row of
/// `packs` packs. `pass.row(r)` holds the pointers of a row, null in `to` if there is nothing to
/// do; its `each<Width>(c)` does columns c .. c + Width - 1.
template <int Width, class Pass>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(row_pass_threads)
    row_pass(Pass pass, Index rows, int packs, int log_lanes) {
  const int thread = static_cast<int>(threadIdx.x);
  const Index row = Index{blockIdx.x} * (row_pass_threads >> log_lanes) + (thread >> log_lanes);
  if (row >= rows) return;
  const auto of = pass.row(row);
  if (of.to == nullptr) return;
  const int lanes = 1 << log_lanes;
  for (int p = thread & (lanes - 1); p < packs; p += lanes) of.template each<Width>(p * Width);
}

/// to = A(from + add), and from + add kept where it was if `keep`; Activate without `add`.
template <class T, class Space, class A>
struct ActivationPass {
  MatrixView<const T, Space> add;  // a row for each expert, one for all, or empty
  VectorView<const std::int32_t, Space> offset;
  MatrixView<const T, Space> from;
  T* keep;  // the memory of `from`, or null
  MatrixView<T, Space> to;

  struct Row {
    const T* add;
    const T* from;
    T* keep;
    T* to;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      Pack<T, N> x = load_pack<N>(from + c);
      if (add != nullptr) {
        const Pack<T, N> bias = load_pack<N>(add + c);
        MOXIE_UNROLL
        for (int i = 0; i < N; ++i) x.value[i] += bias.value[i];
        if (keep != nullptr) store_pack(keep + c, x);
      }
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) x.value[i] = A::value(x.value[i]);
      store_pack(to + c, x);
    }
  };
  MOXIE_DEVICE Row row(Index r) const {
    Index expert = 0;
    if (offset) {
      expert = expert_of_row(offset.data, offset.size - 1, r);
      if (expert < 0) return {nullptr, nullptr, nullptr, nullptr};
    }
    return {add ? add.row(expert) : nullptr, from.row(r),
            keep != nullptr ? keep + r * from.stride : nullptr, to.row(r)};
  }
};

/// d *= A'(pre), for the rows inside `offset`, or all if it is empty.
template <class T, class Space, class A>
struct DerivativePass {
  VectorView<const std::int32_t, Space> offset;
  MatrixView<const T, Space> pre;
  MatrixView<T, Space> d;

  struct Row {
    const T* pre;
    T* to;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      const Pack<T, N> x = load_pack<N>(pre + c);
      Pack<T, N> y = load_pack<N>(to + c);
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) y.value[i] *= A::derivative(x.value[i]);
      store_pack(to + c, y);
    }
  };
  MOXIE_DEVICE Row row(Index r) const {
    if (offset && (r < offset[0] || r >= offset[offset.size - 1])) return {nullptr, nullptr};
    return {pre.row(r), d.row(r)};
  }
};

template <class T, class Space>
struct AddPass {
  MatrixView<const T, Space> a, b;
  MatrixView<T, Space> out;

  struct Row {
    const T* a;
    const T* b;
    T* to;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      Pack<T, N> x = load_pack<N>(a + c);
      const Pack<T, N> y = load_pack<N>(b + c);
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) x.value[i] += y.value[i];
      store_pack(to + c, x);
    }
  };
  MOXIE_DEVICE Row row(Index r) const { return {a.row(r), b.row(r), out.row(r)}; }
};

template <class T, class Space>
struct CopyPass {
  MatrixView<const T, Space> in;
  MatrixView<T, Space> out;

  struct Row {
    const T* from;
    T* to;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      store_pack(to + c, load_pack<N>(from + c));
    }
  };
  MOXIE_DEVICE Row row(Index r) const { return {in.row(r), out.row(r)}; }
};

template <class T, class Space>
struct FillPass {
  T value;
  MatrixView<T, Space> out;

  struct Row {
    T value;
    T* to;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      Pack<T, N> x;
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) x.value[i] = value;
      store_pack(to + c, x);
    }
  };
  MOXIE_DEVICE Row row(Index r) const { return {value, out.row(r)}; }
};

/// y[image, :] = share * the sum over tokens of x[image, token, :], tokens in ascending order.
template <class T, class Space>
struct MeanTokensPass {
  MatrixView<const T, Space> x;
  MatrixView<T, Space> y;
  Index tokens;
  T share;

  struct Row {
    const T* from;
    T* to;
    Index tokens, width;
    T share;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      Pack<T, N> sum = {};
      for (Index t = 0; t < tokens; ++t) {
        const Pack<T, N> token = load_pack<N>(from + t * width + c);
        MOXIE_UNROLL
        for (int i = 0; i < N; ++i) sum.value[i] += token.value[i];
      }
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) sum.value[i] = share * sum.value[i];
      store_pack(to + c, sum);
    }
  };
  MOXIE_DEVICE Row row(Index r) const { return {x.row(r), y.row(r), tokens, y.cols, share}; }
};

/// dx[image, token, :] = share * dy[image, :]; a row is a token.
template <class T, class Space>
struct SpreadTokensPass {
  MatrixView<const T, Space> dy;
  MatrixView<T, Space> dx;
  Index tokens;
  T share;

  struct Row {
    const T* from;
    T* to;
    T share;

    template <int N>
    MOXIE_DEVICE void each(int c) const {
      Pack<T, N> x = load_pack<N>(from + c);
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) x.value[i] = share * x.value[i];
      store_pack(to + c, x);
    }
  };
  MOXIE_DEVICE Row row(Index r) const {
    return {dy.row(r / tokens), dx.row(r / tokens) + r % tokens * dy.cols, share};
  }
};

}  // namespace moxie::detail::device

#endif
