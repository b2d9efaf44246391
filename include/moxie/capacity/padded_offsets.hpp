#pragma once

#include "moxie/core/error.hpp"
#include "moxie/routing/tensors.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct PadOffsets {
  static constexpr bool one_level = true;
  ConstIntVector<B> offset;
  Index block;
  IntVector<B> padded;

  MOXIE_HD void operator()(Index) const {
    Index at = 0;
    padded[0] = 0;
    for (Index e = 0; e + 1 < offset.size; ++e) {
      at += (offset[e + 1] - offset[e] + block - 1) / block * block;
      padded[e + 1] = static_cast<std::int32_t>(at);
    }
  }
};
}  // namespace detail

/// Offsets of experts whose counts are rounded up to multiples of `block`, as block-sparse products
/// lay them out; an expert without rows gets none.   offset: [E + 1] as in SparseRouting; padded:
/// [E + 1].
/// @throws config_error unless block >= 1.   Source: MegaBlocks, Gale et al., MLSys 2023.
template <Backend B>
void pad_offsets(B& b, ConstIntVector<B> offset, Index block, IntVector<B> padded) {
  if (block < 1) throw_config("moxie::pad_offsets: block is ", block, ", expected >= 1");
  b.for_each(1, detail::PadOffsets<B>{offset, block, padded});
}

}  // namespace moxie
