// expects: c.slots(q)
#include "moxie/backend/cpu.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

/// Half of the group.
struct HalfCapacity {
#ifndef MOXIE_FAIL
  Index slots(const CapacityQuery& q) const { return (q.tokens + 1) / 2; }
#endif
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer<CpuBackend<float>, TopKRouter, HalfCapacity, FeedForward<Gelu>> layer{
      cpu, {.width = 4, .experts = 2}, TopKRouter{.k = 1}, {}, FeedForward<Gelu>{.hidden = 8}};
  return layer.input_width() == 4 ? 0 : 1;
}
