#pragma once

#include "moxie/capacity/priority.hpp"

namespace moxie::testing {

namespace detail {
template <Backend B>
struct CopyOrder {
  ConstIntVector<B> given;
  IntVector<B> order;

  MOXIE_HD void operator()(Index j) const { order[j] = given[j]; }
};
}  // namespace detail

/// A priority that is not computed but given: `WithPriority{GivenOrder<B>{.served = order},
/// FixedCapacity{3}}`.
template <class B>
struct GivenOrder {
  ConstIntVector<B>
      served{};  ///< [T] the token served j-th, a permutation that keeps groups together

  std::size_t bytes(const B&, Index) const noexcept { return 0; }
  /// @throws shape_error if there is another number of tokens
  void order(B& b, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B>) const {
    if (served.size != r.shape.tokens)
      throw_shape("moxie::testing::GivenOrder: the order has ", served.size,
                  " entries, expected one for each of the ", r.shape.tokens, " tokens");
    b.for_each(served.size, detail::CopyOrder<B>{served, order});
  }
};

}  // namespace moxie::testing
