#include "moxie/runtime/router_registry.hpp"

#include <doctest/doctest.h>

#include "runtime/made_layers.hpp"

namespace router_registry_test {

using namespace moxie;
using namespace moxie::test;
using B = CpuBackend<double>;

TEST_CASE("RouterRegistry takes routers of one's own under names that are free") {
  B backend;
  RouterRegistry<B> registry;
  const auto make = [](const RouterConfig& c) -> AnyRouter<B> { return UniformRouter{.k = c.k}; };
  for (const char* name : {"hash", "softmax_token_choice", "soft"})
    CHECK(message_of<config_error>([&] { registry.add(name, make); }) ==
          "moxie::RouterRegistry::add: the name '" + std::string(name) + "' is taken");
  registry.add("mine", make);
  CHECK(message_of<config_error>([&] { registry.add("mine", make); }) ==
        "moxie::RouterRegistry::add: the name 'mine' is taken");
  CHECK(registry.names().back() == "mine");
  CHECK(registry.names().size() == router_names<B>().size() + 1);
  CHECK(registry.make({.name = "mine", .k = 2}).choices(4) == 2);
  CHECK(message_of<config_error>([&] {
          (void)registry.make({.name = "mime"});
        }).find("there is no router 'mime' (did you mean 'mine'?)") != std::string::npos);

  MoeConfig c = small_config("mine");
  c.router.k = 2;
  c.shape.seed = 7;
  const AnyLayer<B> mine = made_layer(backend, c, registry);
  c.router.name = "uniform";
  CHECK(run(mine, 9) == run(made_layer(backend, c), 9));
}

}  // namespace router_registry_test
