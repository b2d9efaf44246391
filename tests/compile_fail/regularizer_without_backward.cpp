// expects: moxie::MoeLayer: a regularizer must model moxie::Regularizer for this kind of routing
// expects: a.loss_backward(b, ctx, r, sums, g)
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

/// A loss that is always 0.
struct NoLoss {
  static constexpr std::string_view name = "none";
  static constexpr bool per_group = true;
  double weight = 1;

  Index sums(const RoutingShape&) const { return 0; }
  template <Backend B, class Routing>
  void accumulate(B&, const Context<B>&, const Routing&, Vector<B>) const {}
  template <Backend B, class Routing>
  void loss(B& b, const Context<B>&, const Routing&, ConstVector<B>, Vector<B> out) const {
    b.fill(out, 0);
  }
#ifndef MOXIE_FAIL
  template <Backend B, class Routing>
  void loss_backward(B&, const Context<B>&, const Routing&, ConstVector<B>,
                     RoutingGradients<Routing>&) const {}
#endif
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{cpu,        {.width = 4, .experts = 2},     TopKRouter{.k = 1},
                       Dropless{}, FeedForward<Gelu>{.hidden = 8}, NoLoss{}};
  return layer.input_width() == 4 ? 0 : 1;
}
