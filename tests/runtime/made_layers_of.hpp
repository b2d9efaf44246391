#pragma once

// The definitions of made_layers.hpp, which one source a backend instantiates.
#include "moxie/runtime/make_layer.hpp"
#include "moxie/testing/router_laws.hpp"
#include "runtime/made_layers.hpp"

namespace moxie::test {

template <class B>
AnyLayer<B> made_layer(B& backend, const MoeConfig& config) {
  return made_layer(backend, config, RouterRegistry<B>{});
}
template <class B>
AnyLayer<B> made_layer(B& backend, const MoeConfig& config, const RouterRegistry<B>& registry) {
  AnyLayer<B> layer = make_layer(root(backend), config, registry);
  layer.parameters().initialize(config.shape.seed);
  return layer;
}
template <class B>
AnyRouter<B> made_router(const RouterConfig& config) {
  return RouterRegistry<B>{}.make(config);
}
template <class B>
std::vector<std::string> router_names() {
  const RouterRegistry<B> registry;
  const auto names = registry.names();
  return {names.begin(), names.end()};
}
template <class B>
testing::GradientReport layer_gradients(const AnyLayer<B>& layer, Index rows,
                                        const testing::GradientOptions<B>& options) {
  return testing::check_gradients(layer, rows, options);
}
template <class B>
testing::LawReport router_laws(B& backend, const AnyRouter<B>& router,
                               const testing::RouterLawOptions& options) {
  return testing::check_router_laws(backend, router, options);
}

}  // namespace moxie::test

#define MOXIE_TEST_MADE_LAYERS(...)                                                            \
  template moxie::AnyLayer<__VA_ARGS__> moxie::test::made_layer(__VA_ARGS__&,                  \
                                                                const moxie::MoeConfig&);      \
  template moxie::AnyLayer<__VA_ARGS__> moxie::test::made_layer(                               \
      __VA_ARGS__&, const moxie::MoeConfig&, const moxie::RouterRegistry<__VA_ARGS__>&);       \
  template moxie::AnyRouter<__VA_ARGS__> moxie::test::made_router(const moxie::RouterConfig&); \
  template std::vector<std::string> moxie::test::router_names<__VA_ARGS__>();                  \
  template moxie::testing::LawReport moxie::test::router_laws(                                 \
      __VA_ARGS__&, const moxie::AnyRouter<__VA_ARGS__>&,                                      \
      const moxie::testing::RouterLawOptions&);
#define MOXIE_TEST_MADE_GRADIENTS(...)                                  \
  template moxie::testing::GradientReport moxie::test::layer_gradients( \
      const moxie::AnyLayer<__VA_ARGS__>&, moxie::Index,                \
      const moxie::testing::GradientOptions<__VA_ARGS__>&);
