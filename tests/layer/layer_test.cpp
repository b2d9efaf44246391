#include "layer/layers.hpp"

#include "moxie/layer/any_layer.hpp"
#include "support/numbers.hpp"
#include "support/parameters.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;

TEST_CASE_TEMPLATE("MoeLayer gives the numbers of the golden vector", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const nlohmann::json v = read_vector("13_layer_forward_backward");
  const nlohmann::json& in = v["inputs"];
  const nlohmann::json& wanted = v["expected"];
  const auto tokens = static_cast<Index>(in["x"].size());
  const nlohmann::json& experts = in["experts"];
  const auto noise = flat<double>(in["noise"]);
  test::Buffer<T, B> given(backend, std::vector<T>(noise.begin(), noise.end()));
  Config<B> c{.width = static_cast<Index>(in["x"][0].size()),
              .experts = static_cast<Index>(experts.size()),
              .hidden = static_cast<Index>(experts[0]["b1"].size()),
              .router = {.k = in["k"]},
              .priority = "bpr",
              .capacity = FixedCapacity{in["capacity"]}};
  c.noise.given = {.noise = given.view(tokens, c.experts), .std = 1};
  const Moe<B> layer = make_moe(backend, c);
  Parameters<B>& p = layer.parameters();
  set_parameter(p, "Router/kernel", flat<double>(in["wr"]));
  const std::vector<std::pair<std::string, std::string>> names{{"Mlp/Dense_0/kernel", "w1"},
                                                               {"Mlp/Dense_0/bias", "b1"},
                                                               {"Mlp/Dense_1/kernel", "w2"},
                                                               {"Mlp/Dense_1/bias", "b2"}};
  const auto stacked = [](const nlohmann::json& all, const std::string& key) {
    std::vector<double> out;
    for (const nlohmann::json& e : all)
      for (const double x : flat<double>(e[key])) out.push_back(x);
    return out;
  };
  for (const auto& [name, key] : names) set_parameter(p, name, stacked(experts, key));

  Runner<Moe<B>> runner(layer, tokens);
  const Passed<T> got = runner.run(flat<double>(in["x"]), flat<double>(in["r"]));
  const SparseRouting<B>& r = runner.tape().routing;
  CHECK(got.choice == flat<std::int32_t>(wanted["expert"]));
  CHECK(testing::detail::to_host(backend, r.slot) == flat<std::int32_t>(wanted["slot"]));
  const auto kept = flat<bool>(wanted["kept"]);
  for (std::size_t a = 0; a < kept.size(); ++a) CHECK((got.row[a] >= 0) == kept[a]);
  check_near(testing::detail::to_host(backend, r.noisy_probs), flat<double>(wanted["gates"]));
  check_near(got.y, flat<double>(wanted["y"]));
  check_near(got.dx, flat<double>(wanted["dx"]));
  check_near(testing::detail::to_host(backend, runner.tape().d.logits),
             flat<double>(wanted["dlogits"]));
  check_near(part_of(got.gradients, entry_of(p, "Router/kernel")), flat<double>(wanted["dwr"]));
  for (const auto& [name, key] : names)
    check_near(part_of(got.gradients, entry_of(p, name)), stacked(wanted["dexperts"], key));
}

TEST_CASE_TEMPLATE("AnyLayer equals the layer bit for bit", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Config<B> c{.output = 3, .capacity = CapacityFactor{.factor = 1}, .importance = 0.3};
  const Moe<B> layer = make_moe(backend, c);
  const AnyLayer<B> any(make_moe(backend, c));
  CHECK(any.input_width() == 5);
  CHECK(any.output_width() == 3);
  CHECK(any.moe_layers() == 1);
  Runner<Moe<B>> runner(layer, 8);
  const std::vector<double> x = normals(40, 1);
  const std::vector<double> dy = normals(24, 2);
  const auto wanted = runner.run(x, dy);

  auto tape = make_tape(any, 8);
  CHECK(tape.bytes() == layer.make_tape(8).bytes());
  test::Buffer<T, B> in(backend, std::vector<T>(x.begin(), x.end()));
  test::Buffer<T, B> d_out(backend, std::vector<T>(dy.begin(), dy.end()));
  test::Buffer<T, B> out(backend, 24, T(0));
  test::Buffer<T, B> d_in(backend, 40, T(0));
  any.forward(ConstMatrix<B>(in.view(8, 5)), out.view(8, 3), tape, {});
  any.backward(ConstMatrix<B>(d_out.view(8, 3)), d_in.view(8, 5), tape);
  CHECK(out.to_vector() == wanted.y);
  CHECK(d_in.to_vector() == wanted.dx);
  CHECK(testing::detail::to_host(backend, any.parameters().gradients()) == wanted.gradients);

  struct Seen final : RoutingVisitor<B> {
    void sparse(const SparseRouting<B>& r) override { tokens = r.shape.tokens; }
    void losses(std::span<const std::string_view> n, ConstVector<B> v) override {
      names.assign(n.begin(), n.end());
      values = v.size;
    }
    Index tokens = 0, values = 0;
    std::vector<std::string_view> names;
  } seen;
  any.visit_routing(tape, seen);
  CHECK(seen.tokens == 8);
  CHECK(seen.values == 2);
  CHECK(seen.names == std::vector<std::string_view>{"importance", "load"});
}

TEST_CASE_TEMPLATE("NaN in the logits names the token, layer and step", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Moe<B> layer = make_moe(backend, Config<B>{});
  Runner<Moe<B>> runner(layer, 8);
  std::vector<double> x = normals(40, 1);
  x[3 * 5 + 2] = std::numeric_limits<double>::quiet_NaN();
  x[5 * 5] = std::numeric_limits<double>::infinity();
  CHECK(message_of<numeric_error>([&] {
          runner.forward(x, {.step = 9, .first_token = 100, .moe_layer = 2});
          layer.check(runner.tape());
        }) ==
        "moxie::MoeLayer::forward: the gate's logits of token 103 (expert 0, MoE layer 2, step 9) "
        "are NaN or infinite");
  x[3 * 5 + 2] = 0;
  CHECK(message_of<numeric_error>([&] {
          runner.forward(x);
          layer.check(runner.tape());
        }).find("of token 5 (") != std::string::npos);
  x[5 * 5] = 0;
  runner.forward(x);  // the tape is usable again
  layer.check(runner.tape());
}

TEST_CASE_TEMPLATE("losses come in training passes that ask for them", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  Config<B> c{.importance = 0.5, .load = 0.25};
  c.noise.drawn.std = 1;
  const Moe<B> layer = make_moe(backend, c);
  Runner<Moe<B>> runner(layer, 8);
  const std::vector<double> x = normals(40, 1);
  CHECK(layer.read_losses(runner.tape()) ==
        std::array<typename B::Scalar, 2>{0, 0});  // nothing ran
  CHECK(layer.loss_names() == std::array<std::string_view, 2>{"importance", "load"});
  runner.forward(x);
  const auto losses = layer.read_losses(runner.tape());
  CHECK(losses[0] > 0);
  CHECK(losses[1] > 0);
  runner.forward(x, Pass<B>{}.without_regularizers());
  CHECK(layer.read_losses(runner.tape()) == std::array<typename B::Scalar, 2>{0, 0});
  runner.forward(x, {.mode = Mode::eval});
  CHECK(layer.read_losses(runner.tape()) == std::array<typename B::Scalar, 2>{0, 0});
}

TEST_CASE_TEMPLATE("an empty batch is a batch", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const Index group : {0, 4})
    for (const char* priority : {"first", "bpr"}) {
      Config<B> c{.group = group, .priority = priority, .importance = 0.3, .load = 0.2};
      c.noise.drawn.std = 1;
      const Moe<B> layer = make_moe(backend, c);
      for (const Index room : {0, 8}) {
        Runner<Moe<B>> runner(layer, room);
        const auto nothing = runner.run({}, {});
        CHECK(nothing.y.empty());
        CHECK(all_zero(nothing.gradients));
        CHECK(layer.read_losses(runner.tape()) == std::array<typename B::Scalar, 2>{0, 0});
      }
    }
}

TEST_CASE("forward and backward allocate nothing") {
  using B = CpuBackend<float>;
  B backend;
  Config<B> c{.group = 8, .priority = "bpr", .capacity = CapacityFactor{.factor = 1}};
  c.importance = c.load = 0.1;
  c.noise.drawn.std = 1;
  const Moe<B> layer = make_moe(backend, c);
  auto tape = layer.make_tape(16);
  test::Buffer<float, B> x(backend, 80, 0.5F);
  test::Buffer<float, B> y(backend, 80, 0);
  test::Buffer<float, B> dx(backend, 80, 0);
  test::Buffer<std::int32_t, B> choice(backend, 32, 0);
  test::Buffer<float, B> weight(backend, 32, 0);
  const auto round = [&](const Pass<B>& pass) {
    layer.forward(ConstMatrix<B>(x.view(16, 5)), y.view(16, 5), tape, pass);
    layer.record(tape, choice.view(16, 2), weight.view(16, 2));
    layer.backward(ConstMatrix<B>(y.view(16, 5)), dx.view(16, 5), tape);
  };
  const int before = allocations();
  round({});
  round({.mode = Mode::eval});
  const Routes<B> second{.rank = 1};
  round(along<B>(second));
  CHECK(allocations() == before);
}
