#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/chunks.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct SquareChunk {
  ConstVector<B> x;
  double* sums;  // [chunks]

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    const auto* from = x.data + chunk * flat_chunk;
    sums[chunk] = strip_sum<double>(chunk_length(chunk, x.size), [=](Index i) {
      const auto value = static_cast<double>(from[i]);
      return value * value;
    });
  }
};

struct SumChunk {
  const double* in;  // [size]
  double* out;       // [chunks]
  Index size;
  bool accumulate;

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    const double* from = in + chunk * flat_chunk;
    const double sum =
        strip_sum<double>(chunk_length(chunk, size), [=](Index i) { return from[i]; });
    out[chunk] = accumulate ? out[chunk] + sum : sum;
  }
};
}  // namespace detail

/// out[0] = sum of x[i]^2, or += with `accumulate`; x: [N], out: [1], both in the backend's memory.
/// In double whatever the scalar, by chunks of 1024 in a fixed order: the same bits for any number
/// of threads.
/// Cost: one pass over x, and `squared_norm_bytes(N)` of scratch. Does not block.
struct SquaredNorm {
  template <Backend B>
  void operator()(B& b, ConstVector<B> x, VectorView<double, typename B::Space> out,
                  bool accumulate, Scratch<B> scratch) const {
    detail::run_or_generic(*this, b, x, out, accumulate, scratch);
  }
  template <Backend B>
  static void generic(B& b, ConstVector<B> x, VectorView<double, typename B::Space> out,
                      bool accumulate, Scratch<B> scratch) {
    // A tree: the partial sums of each level lie behind those of the level below.
    auto* sums = reinterpret_cast<double*>(scratch.data);
    Index left = detail::chunks_of(x.size);
    b.for_each(left, detail::SquareChunk<B>{x, sums}, detail::chunk_grain);
    while (left > detail::flat_chunk) {
      const Index chunks = detail::chunks_of(left);
      b.for_each(chunks, detail::SumChunk{sums, sums + left, left, false}, detail::chunk_grain);
      sums += left;
      left = chunks;
    }
    b.for_each(1, detail::SumChunk{sums, out.data, left, accumulate});
  }
};
inline constexpr SquaredNorm squared_norm{};

/// Bytes of scratch of `squared_norm` over N elements.
constexpr std::size_t squared_norm_bytes(Index size) {
  return detail::chunk_tree_nodes(size) * sizeof(double);
}

}  // namespace moxie
