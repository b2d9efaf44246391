#pragma once

#include <cstdint>

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/chunks.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct NonFiniteInChunk {
  ConstVector<B> x;
  std::int64_t* found;  // [chunks], -1 = none

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    const Index first = chunk * flat_chunk;
    const Index n = chunk_length(chunk, x.size);
    const auto* from = x.data + first;
    found[chunk] = -1;
    // Counted first, which vectorises; the place is looked for in the rare chunk that has one.
    const auto bad = strip_sum<std::int32_t>(
        n, [=](Index i) { return static_cast<std::int32_t>(!math::is_finite(from[i])); });
    if (bad == 0) return;
    for (Index i = 0; i < n; ++i) {
      if (math::is_finite(from[i])) continue;
      found[chunk] = first + i;
      return;
    }
  }
};

struct FirstOfChunk {
  static constexpr bool one_level = true;
  const std::int64_t* in;  // [size], -1 = none
  std::int64_t* out;       // [chunks]
  Index size;

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    const std::int64_t* from = in + chunk * flat_chunk;
    const Index n = chunk_length(chunk, size);
    out[chunk] = -1;
    for (Index i = 0; i < n; ++i) {
      if (from[i] < 0) continue;
      out[chunk] = from[i];
      return;
    }
  }
};
}  // namespace detail

/// out[0] = index of the first NaN or infinity in x, -1 if there is none. x: [N], out: [1], both in
/// the backend's memory. Looks at bits, so -ffast-math does not blind it.
/// Cost: one pass over x, and `first_non_finite_bytes(N)` of scratch. Does not block.
struct FirstNonFinite {
  template <Backend B>
  void operator()(B& b, ConstVector<B> x, VectorView<std::int64_t, typename B::Space> out,
                  Scratch<B> scratch) const {
    detail::run_or_generic(*this, b, x, out, scratch);
  }
  template <Backend B>
  static void generic(B& b, ConstVector<B> x, VectorView<std::int64_t, typename B::Space> out,
                      Scratch<B> scratch) {
    // A tree: the findings of each level lie behind those of the level below.
    auto* found = reinterpret_cast<std::int64_t*>(scratch.data);
    Index left = detail::chunks_of(x.size);
    b.for_each(left, detail::NonFiniteInChunk<B>{x, found}, detail::chunk_grain);
    while (left > detail::flat_chunk) {
      const Index chunks = detail::chunks_of(left);
      b.for_each(chunks, detail::FirstOfChunk{found, found + left, left}, detail::chunk_grain);
      found += left;
      left = chunks;
    }
    b.for_each(1, detail::FirstOfChunk{found, out.data, left});
  }
};
inline constexpr FirstNonFinite first_non_finite{};

/// Bytes of scratch of `first_non_finite` over N elements.
constexpr std::size_t first_non_finite_bytes(Index size) {
  return detail::chunk_tree_nodes(size) * sizeof(std::int64_t);
}

/// What `first_non_finite` left in `out`. Blocks.
template <Backend B>
Index read_first_non_finite(B& b, VectorView<const std::int64_t, typename B::Space> out) {
  std::int64_t host = -1;
  b.copy_to_host(&host, out.data, sizeof(host));
  return static_cast<Index>(host);
}

}  // namespace moxie
