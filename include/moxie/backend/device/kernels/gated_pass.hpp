#pragma once

#include <cstdint>

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

#if defined(MOXIE_KERNELS)

/// Passes for row_pass (kernels/row_pass.hpp) over rows whose second half the first half gates. A
/// column of a pass is one of a half.
namespace moxie::detail::device {

/// As GatedActivation (ops/gated_activation.hpp).
template <class T, class Space, class A>
struct GatedActivationPass {
  MatrixView<const T, Space> add;  // a row for each expert, or empty
  VectorView<const std::int32_t, Space> offset;
  MatrixView<T, Space> pre;
  MatrixView<T, Space> to;

  struct Row {
    const T* add;
    T* pre;
    T* to;
    Index half;

    template <int N>
    MOXIE_DEVICE void each(Index c) const {
      Pack<T, N> gate = load_pack<N>(pre + c);
      Pack<T, N> up = load_pack<N>(pre + half + c);
      if (add != nullptr) {
        const Pack<T, N> of_gate = load_pack<N>(add + c);
        const Pack<T, N> of_up = load_pack<N>(add + half + c);
        MOXIE_UNROLL
        for (int i = 0; i < N; ++i) {
          gate.value[i] += of_gate.value[i];
          up.value[i] += of_up.value[i];
        }
        store_pack(pre + c, gate);
        store_pack(pre + half + c, up);
      }
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) gate.value[i] = A::value(gate.value[i]) * up.value[i];
      store_pack(to + c, gate);
    }
  };
  MOXIE_DEVICE Row row(Index r) const {
    const Index expert = expert_of_row(offset.data, offset.size - 1, r);
    if (expert < 0) return {nullptr, nullptr, nullptr, 0};
    return {add ? add.row(expert) : nullptr, pre.row(r), to.row(r), to.cols};
  }
};

/// As GatedActivationBackward.
template <class T, class Space, class A>
struct GatedDerivativePass {
  VectorView<const std::int32_t, Space> offset;
  MatrixView<const T, Space> pre;
  MatrixView<T, Space> d;

  struct Row {
    const T* pre;
    T* to;
    Index half;

    template <int N>
    MOXIE_DEVICE void each(Index c) const {
      const Pack<T, N> gate = load_pack<N>(pre + c);
      const Pack<T, N> up = load_pack<N>(pre + half + c);
      Pack<T, N> d_gate = load_pack<N>(to + c);
      Pack<T, N> d_up;
      MOXIE_UNROLL
      for (int i = 0; i < N; ++i) {
        d_up.value[i] = d_gate.value[i] * A::value(gate.value[i]);
        d_gate.value[i] = d_gate.value[i] * up.value[i] * A::derivative(gate.value[i]);
      }
      store_pack(to + c, d_gate);
      store_pack(to + half + c, d_up);
    }
  };
  MOXIE_DEVICE Row row(Index r) const {
    if (r < offset[0] || r >= offset[offset.size - 1]) return {nullptr, nullptr, 0};
    return {pre.row(r), d.row(r), d.cols / 2};
  }
};

}  // namespace moxie::detail::device

#endif
