// Layers around the routers that look at all tokens of a group: gradients end to end and the laws
// of Layer, against the dense tensors of the definition, without allocations, on any thread count.
#include "moxie/router/expert_choice.hpp"
#include "layer/layers.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/testing/gradcheck.hpp"

namespace expert_choice_test {

using namespace moxie;
using namespace moxie::test;

namespace {

constexpr GaussianNoise noise{.std = 1};
using Choose = WithNoise<GaussianNoise, ExpertChoiceRouter>;

template <class B, class R, class... A>
auto layer_of(B& backend, const R& router, const AnyCapacity& capacity, A... regularizers) {
  return MoeLayer(backend, MoeShape{.width = 5, .experts = 3, .group = 4, .seed = 7}, router,
                  capacity, FeedForward<Gelu>{.hidden = 6}, regularizers...);
}

template <class R>
void check_layer(const R& router, const AnyCapacity& capacity) {
  using B = CpuBackend<double>;
  B backend;
  // One type: the checks take seconds to compile.
  const AnyLayer<B> layer = layer_of(backend, router, capacity, Importance{.weight = 0.3});
  for (const Pass<B>& pass : {Pass<B>{.seed = 3, .step = 2}, Pass<B>{.mode = Mode::eval}}) {
    const testing::GradientReport report = testing::check_gradients(
        layer, 8,
        testing::GradientOptions<B>{
            .pass = pass,
            .most_inputs = 40,
            .most_per_entry = 12,
            .row_multiple = 4,
            .allocations = [] { return static_cast<std::size_t>(allocations()); }});
    CHECK_MESSAGE(report.passed, report.message);
  }
}

}  // namespace

TEST_CASE("gradients of a layer whose experts choose agree with central differences") {
  check_layer(Choose(noise, {}), CapacityFactor{.factor = 1, .multiple_of = 1});
  check_layer(Choose(noise, {.combine_source = CombineSource::softmax_clean}), FixedCapacity{9});
}

TEST_CASE("gradients of a layer with a Sinkhorn router agree with central differences") {
  const WithNoise top{noise, SinkhornTopKRouter{.k = 2, .renormalize = true}};
  check_layer(top, CapacityFactor{.factor = .7, .multiple_of = 1});
  check_layer(SinkhornExpertChoiceRouter{}, FixedCapacity{2});
  // Through the plan itself, at convergence.
  check_layer(WithNoise{noise,
                        SinkhornTopKRouter{
                            .k = 2, .iterations = 2000, .combine_source = CombineSource::plan}},
              Dropless{});
  check_layer(SinkhornExpertChoiceRouter{.iterations = 2000, .combine_source = CombineSource::plan},
              FixedCapacity{2});
}

TEST_CASE("gradients of a layer with a sparse router agree with central differences") {
  check_layer(SparseTopKRouter{.k = 2}, CapacityFactor{.factor = .7, .multiple_of = 1});
  check_layer(SparseExpertChoiceRouter{}, FixedCapacity{2});
}

TEST_CASE_TEMPLATE("a layer whose experts choose equals the dense tensors of the definition", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const Index capacity : {1, 2, 3, 9}) {
    const auto layer = layer_of(backend, Choose(noise, {}), FixedCapacity{capacity});
    const auto dense = layer_of(backend, WithDispatcher{EinsumDispatcher{}, Choose(noise, {})},
                                FixedCapacity{capacity});
    test::Buffer<std::int32_t, B> mask(backend, {1, 1, 0, 1, 1, 0, 0, 1});
    for (const bool masked : {false, true}) {
      Pass<B> pass{.seed = 5, .step = 1};
      if (masked) pass.mask = mask.view();
      Runner got(layer, 8);
      Runner wanted(dense, 8);
      const std::vector<double> x = normals(40, 1);
      const std::vector<double> dy = normals(40, 2);
      const auto a = got.run(x, dy, pass);
      const auto b = wanted.run(x, dy, pass);
      constexpr double near_by = testing::tolerance<typename B::Scalar>;
      CHECK(testing::detail::all_near(a.y, b.y, near_by));
      CHECK(testing::detail::all_near(a.dx, b.dx, near_by));
      CHECK(testing::detail::all_near(a.gradients, b.gradients, near_by));
    }
  }
}

TEST_CASE_TEMPLATE("each expert of a layer takes its full capacity, and padding is not taken", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const auto layer = layer_of(backend, Choose(noise, {}), FixedCapacity{3});
  Runner runner(layer, 8);
  const auto loads = [&](const Pass<B>& pass) {
    const auto y = runner.forward(normals(40, 3), pass);
    std::vector<std::int32_t> offset =
        testing::detail::to_host(backend, runner.tape().routing.offset);
    return std::pair{offset, y};
  };
  CHECK(loads({}).first == std::vector<std::int32_t>{0, 6, 12, 18});
  test::Buffer<std::int32_t, B> mask(backend, {1, 0, 0, 1, 0, 0, 0, 0});
  const auto [offset, y] = loads({.mask = mask.view()});
  CHECK(offset == std::vector<std::int32_t>{0, 2, 4, 6});
  for (std::size_t t = 0; t < 8; ++t) {
    bool zero = true;
    for (std::size_t d = 0; d < 5; ++d) zero = zero && y[5 * t + d] == 0;
    CHECK(zero == (t != 0 && t != 3));
  }
  CHECK(runner.forward({}).empty());  // no tokens
}

TEST_CASE_TEMPLATE("layers with plans or lists give the same bits on any number of threads", T,
                   float, double) {
  using B = CpuBackend<T>;
  const auto check = [](const auto& router) {
    const auto run = [&](B backend) {
      const auto layer = layer_of(backend, router, CapacityFactor{.factor = 1.5});
      Runner runner(layer, 160);
      const auto out = runner.run(normals(800, 1), normals(800, 2), {.seed = 4});
      return std::tuple{out.y, out.dx, out.gradients};
    };
    const auto alone = run(B());
    for (const int threads : {2, 3, 8}) {
      ThreadPool pool(threads);
      CHECK(run(B(pool)) == alone);
    }
  };
  check(Choose(noise, {}));
  check(SinkhornExpertChoiceRouter{.combine_source = CombineSource::plan});
}

TEST_CASE("a layer whose experts choose refuses routes from outside") {
  using B = CpuBackend<double>;
  B backend;
  const auto layer = layer_of(backend, Choose(noise, {}), FixedCapacity{2});
  Runner runner(layer, 4);
  const Routes<B> routes{.rank = 0};
  CHECK(
      message_of<config_error>(
          [&] { runner.forward(normals(20, 1), Pass<B>{}.with(std::span(&routes, 1))); }) ==
      "moxie::MoeLayer::forward: pass.routes: with this router experts choose tokens, so it cannot "
      "take choices of tokens from outside");
}

TEST_CASE("experts that choose, and soft slots, need a number of slots") {
  using B = CpuBackend<double>;
  B backend;
  const auto make = [&](const auto& router) {
    return message_of<config_error>([&] {
      MoeLayer(backend, MoeShape{.width = 5, .experts = 3}, router, Dropless{},
               FeedForward<Gelu>{.hidden = 6});
    });
  };
  const std::string_view begin =
      "moxie::MoeLayer: the capacity is Dropless, but this router fills every slot";
  CHECK(make(Choose(noise, {})).starts_with(begin));
  CHECK(make(SparseExpertChoiceRouter{}).starts_with(begin));
  CHECK(make(SoftRouter{}).starts_with(begin));
}

}  // namespace expert_choice_test
