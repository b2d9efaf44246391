// expects: moxie::MoeLayer: the router must model moxie::Router (router/concept.hpp)
// expects: r.assignments(shape)
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"

using namespace moxie;

/// Everyone goes to expert 0.
struct FirstRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index choices(Index) const { return 1; }
#ifndef MOXIE_FAIL
  Index assignments(const RoutingShape& shape) const { return shape.tokens; }
#endif
  template <Backend B>
  void route(B&, const Context<B>&, SparseRouting<B>& r) const {
    for (Index t = 0; t < r.choice.rows; ++t) {
      r.choice(t, 0) = 0;
      r.weight(t, 0) = 1;
    }
  }
  template <Backend B>
  void route_backward(B&, const Context<B>&, const SparseRouting<B>&,
                      RoutingGradients<SparseRouting<B>>&) const {}
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{
      cpu, {.width = 4, .experts = 2}, FirstRouter{}, Dropless{}, FeedForward<Gelu>{.hidden = 8}};
  return layer.input_width() == 4 ? 0 : 1;
}
