#pragma once

#include <cstdint>

#include "moxie/backend/device/kernels/product_tile.hpp"
#include "moxie/core/bf16.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie::detail::device {

inline constexpr int narrow_threads = 256;

/// to(r, :) = scale[r] * from(index[r], :) in bf16 for the rows r in [offset[0], offset[experts]);
/// without `index` of from(r, :), without `scale` times 1, without `offset` all `rows`. A row of `to` is `stride` long, a multiple of 8,
/// and zero from `cols` on. A thread has 16 bytes of `to`.
template <class T>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(narrow_threads)
    narrow_rows(Strided<const T> from, const std::int32_t* index, const T* scale,
                const std::int32_t* offset, Index experts, Index rows, Index cols, bf16* to,
                Index stride) {
  using Out = Chunk<bf16>;
  using In = Chunk<T>;
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  const Index r = i / (stride / Out::size);
  const Index c = i % (stride / Out::size) * Out::size;
  const bool owned = r < rows && (offset == nullptr || (offset[0] <= r && r < offset[experts]));
  if (owned) {
    const T* const row = from.row(index != nullptr ? index[r] : r);
    const T factor = scale != nullptr ? scale[r] : T(1);
    Out out;
    MOXIE_UNROLL
    for (int part = 0; part < Out::size; part += In::size) {
      if (from.aligned && c + part < cols) {  // then a multiple of In::size wide
        const In in = read_chunk(row + c + part);
        MOXIE_UNROLL
        for (int u = 0; u < In::size; ++u) out[part + u] = bf16(static_cast<float>(factor * in[u]));
      } else {
        MOXIE_UNROLL
        for (int u = 0; u < In::size; ++u) {
          const Index at = c + part + u;
          out[part + u] = bf16(at < cols ? static_cast<float>(factor * row[at]) : 0.0F);
        }
      }
    }
    *reinterpret_cast<Out*>(to + r * stride + c) = out;
  }
}

}  // namespace moxie::detail::device

#endif
