// Layers whose experts get rows of equal number: the same as without padding.
#include "moxie/dispatch/padded.hpp"
#include "layer/layers.hpp"
#include "moxie/router/expert_choice.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

template <class B, class R>
auto layer_of(B& backend, const R& router) {
  return MoeLayer(backend, MoeShape{.width = 5, .experts = 3, .group = 4, .seed = 7}, router,
                  FixedCapacity{2}, FeedForward<Gelu>{.hidden = 6});
}

template <class B, class R>
void check_padded(const R& router) {
  B backend = make_backend<B>();
  const auto plain = layer_of(backend, router);
  const auto padded = layer_of(backend, WithDispatcher{PaddedDispatcher{}, router});
  test::Buffer<std::int32_t, B> mask(backend, {1, 1, 0, 1, 1, 0, 0, 1});
  for (const bool masked : {false, true}) {
    Pass<B> pass{};
    if (masked) pass.mask = mask.view();
    Runner wanted(plain, 8);
    Runner got(padded, 8);
    const auto a = wanted.run(normals(40, 1), normals(40, 2), pass);
    const auto b = got.run(normals(40, 1), normals(40, 2), pass);
    constexpr double near_by = testing::tolerance<typename B::Scalar>;
    CHECK(testing::detail::all_near(a.y, b.y, near_by));
    CHECK(testing::detail::all_near(a.dx, b.dx, near_by));
    CHECK(testing::detail::all_near(a.gradients, b.gradients, near_by));
    CHECK(a.choice == b.choice);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a layer with padded rows equals the layer without, with drops", B,
                   MOXIE_DOUBLE_BACKENDS) {
  check_padded<B>(TopKRouter{.k = 2});
}

TEST_CASE_TEMPLATE("a layer with padded rows whose experts choose equals the layer without", B,
                   MOXIE_DOUBLE_BACKENDS) {
  check_padded<B>(ExpertChoiceRouter{});
}
