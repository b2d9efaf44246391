// Everything that is chosen by name, on a device that works late and whose memory the host cannot
// touch: a pass that reads an offset on the host, or counts on what it only enqueued, crashes here.
#include <doctest/doctest.h>

#if !defined(MOXIE_TEST_THRUST)
#include "support/skip.hpp"

TEST_CASE("no layer touches a device's memory on the host") {
  MOXIE_SKIP("built without Thrust's headers");
}
#else

#include "device/deferred_leaf.hpp"
#include "moxie/runtime/any_regularizers.hpp"
#include "moxie/runtime/moe_config.hpp"
#include "runtime/made_layers.hpp"

namespace moxie::test {
namespace {

using Cpu = CpuBackend<double>;
using Device = DeferredBackend<double>;

/// One configuration on both, forward and backward.
void check_equal(const MoeConfig& config) {
  CAPTURE(config.router.name);
  CAPTURE(config.router.gate);
  CAPTURE(config.expert.kind);
  Cpu cpu;
  Device device;
  const AnyLayer<Cpu> wanted_layer = made_layer(cpu, config);
  const AnyLayer<Device> layer = made_layer(device, config);
  for (const Mode mode : {Mode::train, Mode::eval}) {
    const auto wanted = run(wanted_layer, 12, Pass<Cpu>{.mode = mode, .seed = 3, .step = 2});
    const auto got = run(layer, 12, Pass<Device>{.mode = mode, .seed = 3, .step = 2});
    CHECK(got.choice == wanted.choice);
    CHECK(got.slot == wanted.slot);
    CHECK(got.row == wanted.row);
    CHECK(got.token == wanted.token);
    check_near(got.weight, wanted.weight, 1e-12);
    check_near(got.losses, wanted.losses, 1e-12);
    check_near(got.y, wanted.y, 1e-11);
    check_near(got.dx, wanted.dx, 1e-11);
    check_near(got.gradients, wanted.gradients, 1e-11);
  }
}
MoeConfig config_of(const std::string& router) {
  MoeConfig c = small_config(router);
  c.shape.group = 4;
  c.shape.seed = 5;
  if (router != "soft") c.capacity.factor = 0.8;
  if (!chooses_tokens_or_mixes(router)) c.router.k = 2;
  if (takes_noise(router)) c.router.noise = 0.7;
  return c;
}

TEST_CASE("no layer touches a device's memory on the host") {
  for (const std::string& router : all_routers<Cpu>()) {
    MoeConfig c = config_of(router);
    c.regularizers = {{.name = "importance", .weight = 0.3}, {.name = "router_z", .weight = 0.1}};
    check_equal(c);
  }
}

TEST_CASE("no gate and no expert touches a device's memory on the host") {
  MoeConfig c = config_of("softmax_token_choice");
  c.router.gate = "cosine";
  check_equal(c);
  c.router.jitter = 0.1;
  for (const char* expert : {"swiglu", "geglu"}) {
    c.expert.kind = expert;
    check_equal(c);
  }
}

}  // namespace
}  // namespace moxie::test

#endif
