#pragma once

#include "moxie/capacity/priority.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct GateSumKey : DescendingKey<typename B::Scalar> {
  ConstMatrix<B> scores;
  ConstIntMatrix<B> choice;

  MOXIE_HD GateSumKey(ConstMatrix<B> s, ConstIntMatrix<B> c) : scores(s), choice(c) {}
  MOXIE_HD std::int32_t operator()(Index t, int pass) const {
    typename B::Scalar sum = 0;
    for (Index k = 0; k < choice.cols; ++k)
      if (choice(t, k) >= 0) sum += scores(t, choice(t, k));
    return this->part(sum, pass);
  }
};
}  // namespace detail

/// Tokens with a larger sum of the gates of their K choices come first: BatchPriority that looks at
/// all choices. Of a router with a plan, the sum of the plan's entries. Added in the order of the
/// choices.
struct SumPriority {
  template <Backend B>
  std::size_t bytes(const B& b, Index tokens) const {
    return detail::order_by_bytes(b, tokens);
  }
  template <Backend B>
  void order(B& b, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    detail::order_by(b, r.shape, detail::GateSumKey<B>(detail::ranking_gates(r), r.choice), order,
                     scratch);
  }
  friend constexpr bool operator==(const SumPriority&, const SumPriority&) = default;
};

}  // namespace moxie
