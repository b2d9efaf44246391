#include "moxie/io/routes.hpp"

#include "io/folder.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/replay.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"

namespace routes_test {

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;
using testing::detail::OwnedMatrix;

namespace {

std::string error_of(const std::filesystem::path& path) {
  try {
    load_routes<double>(path);
  } catch (const io_error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE_TEMPLATE("routes of layers survive the file, and are replayed with the same result", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Folder folder;
  const Scope<B> scope = root(backend);
  const FeedForward<Gelu> expert{.hidden = 5};
  const MoeShape shape{.width = 4, .experts = 3};
  const MoeLayer first{scope / "a", shape, TopKRouter{.k = 2}, FixedCapacity{2}, expert};
  const MoeLayer second{scope / "b", shape, TopKRouter{.k = 1}, FixedCapacity{2}, expert};
  scope.parameters->initialize(3);
  Draw draw(1);
  const OwnedMatrix<B> x(backend, 6, 4, draw.normals(24));
  const OwnedMatrix<B> y(backend, 6, 4);
  const OwnedMatrix<B> z(backend, 6, 4);
  const test::Buffer<std::int32_t, B> mask(backend, {1, 1, 1, 0, 1, 1});
  auto tape = first.make_tape(6);
  auto tape2 = second.make_tape(6);
  first.forward(x.read(), y.view(), tape, {.mask = mask.view()});
  second.forward(x.read(), z.view(), tape2, {.mask = mask.view()});
  const std::vector<T> wanted = y.get();
  RouteRecorder<B> recorder(backend);
  first.visit_routing(tape, recorder);
  second.visit_routing(tape2, recorder);
  REQUIRE(recorder.routes.size() == 2);
  CHECK(recorder.routes[0].choices == 2);
  CHECK(recorder.routes[0].choice[6] == -1);  // token 3 is padding
  CHECK(recorder.routes[0].weight[6] == 0);
  Index dropped = 0;
  for (std::size_t a = 0; a < 12; ++a) {
    if (recorder.routes[0].choice[a] >= -1) continue;
    ++dropped;  // that it had a weight is known
    CHECK(recorder.routes[0].weight[a] > 0);
    CHECK(routed_expert(recorder.routes[0].choice[a]) < 3);
  }
  CHECK(dropped >= 4);  // 10 choices for 6 slots

  save_routes(folder / "routes.safetensors", recorder.routes, {{"model", "two layers"}});
  const auto loaded = load_routes<T>(folder / "routes.safetensors");
  CHECK(loaded == recorder.routes);
  CHECK(Safetensors::read_metadata(folder / "routes.safetensors").at("model") == "two layers");

  const DeviceRoutes<B> routes(backend, loaded);
  REQUIRE(routes.layers().size() == 2);
  const MoeLayer open{backend, shape, TopKRouter{.k = 2}, Dropless{}, expert};
  auto open_tape = open.make_tape(6);
  const auto copy_experts = [&](const Parameters<B>& to, bool gate) {
    const auto from = testing::detail::to_host(backend, scope.parameters->values());
    std::vector<T> values = testing::detail::to_host(backend, to.values());
    for (const ParameterEntry& e : to.entries())
      for (const ParameterEntry& source : scope.parameters->entries())
        if (source.name == "a/" + e.name && (gate || e.expert_axis))
          std::copy_n(from.begin() + source.offset, e.size(), values.begin() + e.offset);
    return values;
  };
  testing::detail::from_host(backend, open.parameters().edit(),
                             copy_experts(open.parameters(), false));
  open.forward(x.read(), y.view(), open_tape, Pass<B>{}.with(routes.layers()));
  CHECK(testing::detail::all_near(y.get(), wanted, testing::tolerance<T>));

  const Routes<B>& own = routes.layers()[0];
  const MoeLayer replay{backend, shape, ReplayRouter<B>{own.choice, own.weight}, Dropless{},
                        expert};
  testing::detail::from_host(backend, replay.parameters().edit(),
                             copy_experts(replay.parameters(), false));
  auto replay_tape = replay.make_tape(6);
  replay.forward(x.read(), y.view(), replay_tape);
  CHECK(testing::detail::all_near(y.get(), wanted, testing::tolerance<T>));
}

TEST_CASE("routes of floats are read as doubles") {
  const Folder folder;
  const std::vector<HostRoutes<float>> narrow{{2, 1, {0, -1}, {.25F, 0}}, {0, 3, {}, {}}};
  save_routes(folder / "f", narrow);
  const std::vector<HostRoutes<double>> wide{{2, 1, {0, -1}, {.25, 0}}, {0, 3, {}, {}}};
  CHECK(load_routes<double>(folder / "f") == wide);
}

TEST_CASE("files that hold no routes are refused, by name") {
  const Folder folder;
  const std::filesystem::path path = folder / "f";
  const std::string who = "moxie::load_routes: '" + path.string() + "': ";
  const std::vector<std::int32_t> ids(6, 0);
  const std::vector<double> weights(6, 0);
  const auto write = [&](const std::vector<TensorToWrite>& tensors) {
    write_safetensors(path, tensors);
    return error_of(path);
  };
  using W = TensorToWrite;
  CHECK(write({}) == who + "there are no routes, expected '0/choice' and '0/weight'");
  CHECK(write({W::of("0/choice", {3, 2}, ids.data()), W::of("0/x", {3, 2}, weights.data())}) ==
        who + "'0/weight' is missing");
  CHECK(write({W::of("0/choice", {6}, ids.data()), W::of("0/weight", {6}, weights.data())}) ==
        who + "'0/choice' is [6], expected [tokens, choices]");
  CHECK(write({W::of("0/choice", {3, 2}, ids.data()), W::of("0/weight", {2, 3}, weights.data())}) ==
        who + "'0/weight' is [2 x 3], expected [3 x 2], the shape of '0/choice'");
  CHECK(write({W::of("0/choice", {3, 2}, weights.data()),
               W::of("0/weight", {3, 2}, weights.data())}) ==
        "moxie::Safetensors: '" + path.string() + "': tensor '0/choice' holds F64, expected I32");
  CHECK(write({W::of("0/choice", {3, 2}, ids.data()), W::of("0/weight", {3, 2}, ids.data())}) ==
        "moxie::Safetensors: '" + path.string() + "': tensor '0/weight' holds I32, expected F64");
  CHECK(write({W::of("0/choice", {3, 2}, ids.data()), W::of("0/weight", {3, 2}, weights.data()),
               W::of("more", {2}, ids.data())}) == who + "'more' [2] is unexpected");
  CHECK(error_of(folder / "none").find("No such file") != std::string::npos);
  const std::vector<HostRoutes<double>> wrong{{2, 2, {0}, {0}}};
  CHECK_THROWS_WITH_AS(
      save_routes(path, wrong),
      "moxie::save_routes: layer 0 has 1 choices and 1 weights, expected [2 x 2] of both",
      config_error);
}

TEST_CASE_TEMPLATE("DeviceRoutes checks sizes, and gives unit weights where there are none", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const auto refused = [&](const HostRoutes<T>& own) {
    try {
      const DeviceRoutes<B> routes(backend, {{1, 1, {0}, {1}}, own});
    } catch (const config_error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(refused({2, 2, {0, 1, 1, 0}, {1, 1}}) ==
        "moxie::DeviceRoutes: layer 1 has 4 choices and 2 weights, expected [2 x 2] of both");
  CHECK(refused({2, 2, {0, 1}, {}}) ==
        "moxie::DeviceRoutes: layer 1 has 2 choices and 0 weights, expected [2 x 2] of both");
  CHECK(refused({-2, -1, {0, 1}, {1, 1}}) ==
        "moxie::DeviceRoutes: layer 1 has 2 choices and 2 weights, expected [-2 x -1] of both");
  const DeviceRoutes<B> routes(backend,
                               {{2, 1, {0, 1}, {}}, {2, 1, {0, 1}, {1, 0}}, {0, 2, {}, {}}});
  CHECK(routes.layers()[0].weights == Routes<B>::Weights::unit);
  CHECK(!routes.layers()[0].weight);
  CHECK(routes.layers()[1].weights == Routes<B>::Weights::given);
  CHECK(routes.layers()[2].weights == Routes<B>::Weights::given);
}

TEST_CASE("RouteRecorder refuses a layer without choices of tokens") {
  CpuBackend<double> backend;
  const MoeLayer soft{backend, MoeShape{.width = 2, .experts = 2}, SoftRouter{}, FixedCapacity{1},
                      FeedForward<Gelu>{.hidden = 2}};
  auto tape = soft.make_tape(2);
  const std::vector<double> x(4, 0.5);
  std::vector<double> y(4);
  soft.forward({x.data(), 2, 2}, {y.data(), 2, 2}, tape);
  RouteRecorder<CpuBackend<double>> recorder(backend);
  CHECK_THROWS_WITH_AS(soft.visit_routing(tape, recorder),
                       "moxie::RouteRecorder: MoE layer 0 is soft: its tokens have no list of K "
                       "choices that could be recorded",
                       config_error);
}

}  // namespace routes_test
