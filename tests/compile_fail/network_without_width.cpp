// expects: moxie::Networks: make(scope) must give a moxie::Layer of the layer's own backend
// expects: layer.output_width()
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/networks.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;
using B = CpuBackend<float>;

struct Network : Linear<B> {
  using Linear<B>::Linear;
#ifdef MOXIE_FAIL
  Index output_width() const = delete;
#endif
};
struct MakeNetwork {
  Network operator()(const Scope<B>& scope) const { return Network(scope, 4, 4); }
};

int main() {
  B cpu;
  const MoeLayer layer{
      cpu, {.width = 4, .experts = 2}, TopKRouter{.k = 1}, Dropless{}, Networks{MakeNetwork{}}};
  return layer.input_width() == 4 ? 0 : 1;
}
