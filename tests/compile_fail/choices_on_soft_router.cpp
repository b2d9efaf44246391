// expects: moxie::MoeLayer: a regularizer must model moxie::Regularizer for this kind of routing
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/router/soft.hpp"

using namespace moxie;

#ifdef MOXIE_FAIL
using Loss = NoisyLoad;  // reads noisy logits and choices, of which a soft router has none
#else
using Loss = Importance;
#endif

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{cpu,
                       {.width = 4, .experts = 2},
                       SoftRouter{},
                       FixedCapacity{1},
                       FeedForward<Gelu>{.hidden = 8},
                       Loss{}};
  return layer.input_width() == 4 ? 0 : 1;
}
