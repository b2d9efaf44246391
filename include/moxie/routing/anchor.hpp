#pragma once

#include <concepts>
#include <span>

#include "moxie/ops/kl_divergence.hpp"

namespace moxie {

/// What attacks on one MoE layer's router climb: factor * sum over tokens t of
/// KL(softmax(logits[t]) || softmax(z[t])), z the gate's logits in this pass. Its gradient to z is added in the
/// backward; those of the experts and of the layers below come from there.
template <class B>
struct RouterAnchor {
  /// [T, E] of another input, constants that must live until the backward; empty: none
  ConstMatrix<B> logits{};
  double factor = 1;
};

namespace detail {
/// d_logits = the gradient of an anchor to the logits of a pass, [T, E] both.
template <class B>
void anchor_gradient(B& b, const RouterAnchor<B>& anchor, ConstMatrix<B> logits,
                     Matrix<B> d_logits) {
  b.for_each(
      logits.rows,
      KlDivergenceRow<B>{
          anchor.logits, logits, {}, {}, d_logits, static_cast<typename B::Scalar>(anchor.factor)});
}
}  // namespace detail

/// One anchor per MoE layer, in order, of memory that must live as long as the pass that is told of them; empty: no such loss.
/// Whoever makes one compiles the gradient: layers call it from here, so that a program without anchors has none of it.
template <class B>
class RouterAnchors : public std::span<const RouterAnchor<B>> {
 public:
  using Gradient = void (*)(B&, const RouterAnchor<B>&, ConstMatrix<B> logits, Matrix<B> d_logits);

  RouterAnchors() = default;
  template <class Range>
  requires std::convertible_to<const Range&, std::span<const RouterAnchor<B>>> RouterAnchors(
      const Range& anchors)
      : std::span<const RouterAnchor<B>>(anchors), gradient_(&detail::anchor_gradient<B>) {}

  Gradient gradient() const noexcept { return gradient_; }  ///< null without anchors

 private:
  Gradient gradient_ = nullptr;
};

}  // namespace moxie
