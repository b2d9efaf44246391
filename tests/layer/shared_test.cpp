#include "moxie/layer/shared.hpp"

#include "layer/branches.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

template <class B>
auto make_shared(const Scope<B>& scope, Index width, Index output) {
  return WithShared{Mlp<B>(scope / "Shared", width, 7, output),
                    plain_moe(scope / "Moe", width, output)};
}

}  // namespace

TEST_CASE_TEMPLATE("WithShared obeys the Layer laws", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const Index output : {5, 3, 8}) {
    const auto scope = root(backend);
    const auto layer = make_shared(scope, 5, output);
    static_assert(Layer<std::remove_cvref_t<decltype(layer)>>);
    scope.parameters->initialize(1);
    check_layer(layer, 6);
  }
}

TEST_CASE_TEMPLATE("WithShared is the sum of its layers", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const auto scope = root(backend);
  const auto layer = make_shared(scope, 5, 4);
  scope.parameters->initialize(1);
  const std::vector<double> x = normals(7 * 5, 1);
  const std::vector<double> y = outputs(layer, x);
  const std::vector<double> shared = outputs(layer.shared(), x);
  const std::vector<double> moe = outputs(layer.moe(), x);
  REQUIRE(y.size() == 28);
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == shared[i] + moe[i]);
}

TEST_CASE("WithShared stands behind AnyLayer with its routings, shared ones first") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  const auto two = [](const Scope<B>& at) {
    return MoeLayer{at, MoeShape{.width = 4, .experts = 2}, TopKRouter{.k = 1}, Dropless{},
                    FeedForward<Gelu>{.hidden = 3}};
  };
  const AnyLayer<B> layer =
      WithShared{two(scope / "Shared"),
                 WithShared{Mlp<B>(scope / "Mlp", 4, 3, 4), plain_moe(scope / "Moe", 4, 4)}};
  scope.parameters->initialize(1);
  CHECK(layer.moe_layers() == 2);
  const testing::detail::OwnedMatrix<B> x(backend, 6, 4, normals(24, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 6, 4);
  auto tape = make_tape(layer, 6);
  layer.forward(x.read(), y.view(), tape, {});
  SeenExperts<B> seen;
  layer.visit_routing(tape, seen);
  CHECK(seen.experts == std::vector<Index>{2, 3});

  // Layer 1 of routes from outside is the mixture; rank 2 exists for its 3 experts only.
  const Routes<B> routes[] = {{.rank = 0}, {.rank = 2}};
  layer.forward(x.read(), y.view(), tape, Pass<B>{}.with(routes));
  const Routes<B> wrong[] = {{.rank = 2}, {.rank = 0}};
  CHECK_THROWS_AS(layer.forward(x.read(), y.view(), tape, Pass<B>{}.with(wrong)), config_error);
}

TEST_CASE("WithShared says what does not fit") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  CHECK(message_of<config_error>(
            [&] { WithShared(Mlp<B>(scope / "A", 5, 7, 4), plain_moe(scope / "B", 5, 3)); }) ==
        "moxie::WithShared: the dense layer maps rows of 5 to rows of 4, the MoE layer rows of 5 "
        "to rows of 3, expected the same of both");
  CHECK(message_of<config_error>(
            [&] { WithShared(Mlp<B>(root(backend), 5, 7, 3), plain_moe(scope / "C", 5, 3)); }) ==
        "moxie::WithShared: the two layers have parameters of their own, expected scopes of one "
        "model");
  const auto layer = make_shared(scope, 5, 3);
  scope.parameters->initialize(1);
  auto tape = make_tape(layer, 4);
  const testing::detail::OwnedMatrix<B> x(backend, 4, 5, normals(20, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 4, 3);
  CHECK(message_of<shape_error>([&] { layer.forward(x.read(), x.view(), tape, {}); }) ==
        "moxie::WithShared::forward: y is [4 x 5], expected [4 x 3]");
  CHECK(message_of<config_error>([&] { layer.backward(y.read(), x.view(), tape); }) ==
        "moxie::WithShared::backward: there was no forward on this tape since its last backward, "
        "or one without gradients (Pass::gradients)");
}

TEST_CASE("WithShared goes back once a forward, and writes nothing after one that was refused") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  const auto layer = make_shared(scope, 5, 3);
  scope.parameters->initialize(1);
  auto tape = make_tape(layer, 4);
  const std::vector<double> x = normals(20, 1);
  std::vector<double> bad = x;
  bad[3] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> dy = normals(12, 2);
  std::vector<double> y(12);
  std::vector<double> dx(20);
  const auto forward = [&](const std::vector<double>& in) {
    layer.forward({in.data(), 4, 5}, {y.data(), 4, 3}, tape, {});
  };
  const auto backward = [&] {
    return message_of<error>([&] { layer.backward({dy.data(), 4, 3}, {dx.data(), 4, 5}, tape); });
  };
  const auto gradients = [&] {
    return testing::detail::to_host(backend, layer.parameters().gradients());
  };
  const std::string_view refused =
      "moxie::WithShared::backward: there was no forward on this tape since";
  forward(x);
  CHECK_THROWS_AS(forward(bad), numeric_error);
  CHECK(backward().starts_with(refused));
  CHECK(all_zero(gradients()));
  forward(x);
  CHECK(backward() == "no error");
  const auto once = gradients();
  CHECK_FALSE(all_zero(once));
  CHECK(backward().starts_with(refused));
  CHECK(gradients() == once);
}
