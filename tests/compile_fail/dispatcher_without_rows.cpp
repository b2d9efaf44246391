// expects: moxie::MoeLayer: the dispatcher must model moxie::Dispatcher for the router's kind of
// expects: d.rows(shape)
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

struct OwnDispatcher : GatherDispatcher {
#ifdef MOXIE_FAIL
  Index rows(const RoutingShape&) const = delete;
#endif
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{cpu,
                       {.width = 4, .experts = 2},
                       WithDispatcher{OwnDispatcher{}, TopKRouter{.k = 1}},
                       Dropless{},
                       FeedForward<Gelu>{.hidden = 8}};
  return layer.input_width() == 4 ? 0 : 1;
}
