#include "moxie/layer/residual.hpp"

#include "layer/branches.hpp"
#include "moxie/nn/vit.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

template <class B>
auto make_residual(const Scope<B>& scope, Index width, Index output) {
  return ResidualMoe{scope, Mlp<B>(scope / "Mlp", width, 7, output),
                     plain_moe(scope / "Moe", width, output)};
}

template <class B>
const ParameterEntry& entry_named(const Parameters<B>& p, const std::string& name) {
  for (const ParameterEntry& e : p.entries())
    if (e.name == name) return e;
  throw config_error("no parameter " + name);
}

}  // namespace

TEST_CASE_TEMPLATE("ResidualMoe obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const Index output : {5, 3, 8}) {
    const auto scope = root(backend);
    const auto layer = make_residual(scope / "Block", 5, output);
    static_assert(Layer<std::remove_cvref_t<decltype(layer)>>);
    scope.parameters->initialize(1);
    check_layer(layer, 6);
  }
}

TEST_CASE_TEMPLATE("ResidualMoe mixes by a softmax of a linear of x, the mixture first", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const auto scope = root(backend);
  const auto layer = make_residual(scope, 2, 2);
  Parameters<B>& p = *scope.parameters;
  p.initialize(1);
  const ParameterEntry& kernel = entry_named(p, "coefficient/kernel");
  const ParameterEntry& bias = entry_named(p, "coefficient/bias");
  CHECK(kernel.shape == std::vector<Index>{2, 2});
  CHECK(bias.shape == std::vector<Index>{2});
  const std::vector<double> w{1, 0, 0, 2};  // logits = (x0 + ln 3, 2 x1)
  const std::vector<double> b{std::log(3.0), 0};
  backend.copy_from_host(p.edit().data + kernel.offset, w.data(), 4 * sizeof(double));
  backend.copy_from_host(p.edit().data + bias.offset, b.data(), 2 * sizeof(double));
  const std::vector<double> x{0, 0, -std::log(3.0), std::log(2.0)};
  const std::vector<double> y = outputs(layer, x);
  const std::vector<double> mlp = outputs(layer.mlp(), x);
  const std::vector<double> moe = outputs(layer.moe(), x);
  // Row 0: logits ln 3 and 0, shares 3/4 and 1/4. Row 1: logits 0 and ln 4, shares 1/5 and 4/5.
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(testing::near(y[i], 0.75 * moe[i] + 0.25 * mlp[i], 1e-12));
    CHECK(testing::near(y[2 + i], 0.2 * moe[2 + i] + 0.8 * mlp[2 + i], 1e-12));
  }
}

TEST_CASE("ResidualMoe stands behind AnyLayer with its routing") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  const AnyLayer<B> layer = make_residual(scope, 4, 4);
  scope.parameters->initialize(1);
  CHECK(layer.moe_layers() == 1);
  const testing::detail::OwnedMatrix<B> x(backend, 6, 4, normals(24, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 6, 4);
  auto tape = make_tape(layer, 6);
  layer.forward(x.read(), y.view(), tape, {});
  SeenExperts<B> seen;
  layer.visit_routing(tape, seen);
  CHECK(seen.experts == std::vector<Index>{3});
}

TEST_CASE("a Vit takes WithShared and ResidualMoe as the feeds of its blocks") {
  using B = CpuBackend<double>;
  B backend;
  const VitConfig config{.image_height = 4,
                         .image_width = 4,
                         .channels = 1,
                         .patch = 2,
                         .width = 4,
                         .blocks = 2,
                         .heads = 2,
                         .hidden = 5,
                         .classes = 3,
                         .moe_blocks = {0, 1}};
  const Vit<B> vit(backend, config, [](const Scope<B>& scope, Index block) -> AnyLayer<B> {
    if (block == 0) return make_residual(scope, 4, 4);
    return WithShared{Mlp<B>(scope / "Shared", 4, 5, 4), plain_moe(scope, 4, 4)};
  });
  CHECK(vit.moe_layers() == 2);
  check_layer(vit, 3, {.strided = false});
}

TEST_CASE("ResidualMoe says what does not fit") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  CHECK(message_of<config_error>([&] {
          ResidualMoe(scope, Mlp<B>(scope / "A", 4, 7, 3), plain_moe(scope / "B", 5, 3));
        }) ==
        "moxie::ResidualMoe: the dense layer maps rows of 4 to rows of 3, the MoE layer rows of 5 "
        "to rows of 3, expected the same of both");
  CHECK(message_of<config_error>([&] {
          ResidualMoe(root(backend), Mlp<B>(scope / "C", 5, 7, 3), plain_moe(scope / "D", 5, 3));
        }) ==
        "moxie::ResidualMoe: the scope is of another model than the layers, expected scopes of "
        "one");
  const auto layer = make_residual(scope, 5, 3);
  scope.parameters->initialize(1);
  auto tape = make_tape(layer, 4, Gradients::none);
  const testing::detail::OwnedMatrix<B> x(backend, 4, 5, normals(20, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 4, 3);
  CHECK(message_of<shape_error>([&] { layer.forward(y.read(), y.view(), tape, {}); }) ==
        "moxie::ResidualMoe::forward: x is [4 x 3], expected [rows x 5]");
  layer.forward(x.read(), y.view(), tape, {});
  CHECK(message_of<config_error>([&] { layer.backward(y.read(), x.view(), tape); }) ==
        "moxie::ResidualMoe::backward: there was no forward on this tape since its last backward, "
        "or one without gradients (Gradients::none in make_tape)");
}
