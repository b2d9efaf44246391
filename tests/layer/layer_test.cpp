#include "layer/layers.hpp"

#include "moxie/backend/thread_pool.hpp"
#include "moxie/layer/any_layer.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;
using Ints = std::vector<std::int32_t>;

namespace {

/// Sets an entry's values.
template <class B>
void set(Parameters<B>& p, std::string_view name, const std::vector<double>& values) {
  const ParameterEntry& e = entry_of(p, name);
  REQUIRE(e.size() == static_cast<Index>(values.size()));
  testing::detail::from_host(p.backend(), p.edit().middle(e.offset, e.size()), values);
}

template <class T>
void check_near(const std::vector<T>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(testing::near(static_cast<double>(got[i]), wanted[i], testing::tolerance<T>));
  }
}

/// What a pass decided, in memory of its own: what `record` gives.
template <class L>
struct Recorded {
  using B = typename L::BackendType;
  test::Buffer<std::int32_t, B> choice;
  test::Buffer<typename B::Scalar, B> weight;
  Index tokens, k;

  Recorded(const L& layer, Runner<L>& runner)
      : choice(layer.parameters().backend(), runner.tape().routing.choice.size(), -7),
        weight(layer.parameters().backend(), runner.tape().routing.choice.size(), -7),
        tokens(runner.tape().routing.choice.rows),
        k(runner.tape().routing.choice.cols) {
    layer.record(runner.tape(), choice.view(tokens, k), weight.view(tokens, k));
  }
  Routes<B> routes(typename Routes<B>::Weights weights) const {
    return {.choice = choice.view(tokens, k), .weight = weight.view(tokens, k), .weights = weights};
  }
};
template <class B>
Pass<B> along(const Routes<B>& routes, Mode mode = Mode::train) {
  return Pass<B>{.mode = mode}.with(std::span(&routes, 1));
}

}  // namespace

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
  set(p, "Router/kernel", flat<double>(in["wr"]));
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
  for (const auto& [name, key] : names) set(p, name, stacked(experts, key));

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

TEST_CASE_TEMPLATE("recorded routes replay a pass bit for bit, drops included", B,
                   MOXIE_TEST_BACKENDS) {
  using Weights = typename Routes<B>::Weights;
  B backend = make_backend<B>();
  const Config<B> c{.priority = "bpr", .capacity = CapacityFactor{.factor = 1}};
  const Moe<B> layer = make_moe(backend, c);
  Runner<Moe<B>> runner(layer, 16);
  const std::vector<double> x = normals(16 * 5, 1);
  const std::vector<double> dy = normals(16 * 5, 2);
  const auto first = runner.run(x, dy);
  const Recorded<Moe<B>> recorded(layer, runner);
  const Ints choice = recorded.choice.to_vector();
  REQUIRE(std::count(choice.begin(), choice.end(), -1) > 0);  // there are drops to replay
  for (std::size_t a = 0; a < choice.size(); ++a) {
    CHECK(choice[a] == (first.row[a] < 0 ? -1 : first.choice[a]));
    CHECK(recorded.weight.to_vector()[a] == (first.row[a] < 0 ? 0 : first.weight[a]));
  }

  const auto replayed = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(replayed.y == first.y);
  CHECK(replayed.dx == first.dx);
  CHECK(replayed.gradients == first.gradients);
  CHECK(replayed.choice == choice);
  CHECK(runner.run(x, dy, along<B>(recorded.routes(Weights::given))).y == first.y);

  // On another input the routes hold, though its own would differ.
  const std::vector<double> other = normals(16 * 5, 3);
  CHECK(runner.run(other, dy).choice != first.choice);
  const auto held = runner.run(other, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK(held.choice == choice);
  for (std::size_t a = 0; a < choice.size(); ++a) CHECK((held.row[a] < 0) == (choice[a] < 0));
}

TEST_CASE_TEMPLATE("a rank instead of choices takes that expert alone", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const Moe<B> layer = make_moe(backend, Config<B>{.router = {.k = 2}});
  Runner<Moe<B>> runner(layer, 9);
  const std::vector<double> x = normals(45, 1);
  const std::vector<double> dy = normals(45, 2);
  const auto both = runner.run(x, dy);
  for (const Index rank : {0, 1}) {
    const auto alone = runner.run(x, dy, along<B>({.rank = rank}));
    for (std::size_t t = 0; t < 9; ++t) {
      CHECK(alone.choice[2 * t] == both.choice[2 * t + static_cast<std::size_t>(rank)]);
      CHECK(alone.weight[2 * t] == both.weight[2 * t + static_cast<std::size_t>(rank)]);
      CHECK(alone.choice[2 * t + 1] == -1);
      CHECK(alone.row[2 * t] >= 0);
    }
  }
  const auto last = runner.run(x, dy, along<B>({.rank = 3}));
  for (std::size_t t = 0; t < 9; ++t) {
    CHECK(last.choice[2 * t] != both.choice[2 * t]);
    CHECK(last.choice[2 * t] != both.choice[2 * t + 1]);
  }
}

TEST_CASE_TEMPLATE("unit and given weights give the router no gradient", B, MOXIE_TEST_BACKENDS) {
  using Weights = typename Routes<B>::Weights;
  B backend = make_backend<B>();
  const Moe<B> layer = make_moe(backend, Config<B>{});
  const ParameterEntry& gate = entry_of(layer.parameters(), "Router/kernel");
  Runner<Moe<B>> runner(layer, 6);
  const std::vector<double> x = normals(30, 1);
  const std::vector<double> dy = normals(30, 2);
  runner.forward(x);
  const Recorded<Moe<B>> recorded(layer, runner);
  const auto gated = runner.run(x, dy, along<B>(recorded.routes(Weights::gate)));
  CHECK_FALSE(all_zero(part_of(gated.gradients, gate)));
  const auto given = runner.run(x, dy, along<B>(recorded.routes(Weights::given)));
  CHECK(all_zero(part_of(given.gradients, gate)));
  CHECK_FALSE(all_zero(given.gradients));
  CHECK(given.weight == gated.weight);
  const auto unit = runner.run(x, dy, along<B>(recorded.routes(Weights::unit)));
  CHECK(all_zero(part_of(unit.gradients, gate)));
  for (const auto w : unit.weight) CHECK(w == 1);
}

TEST_CASE_TEMPLATE("padding routes nowhere, takes no slot and changes nothing for others", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  Config<B> c{.capacity = CapacityFactor{.factor = 1}, .importance = 0.3, .load = 0.2};
  c.noise.drawn.std = 1;
  const Moe<B> layer = make_moe(backend, c);
  Runner<Moe<B>> runner(layer, 8);
  test::Buffer<std::int32_t, B> mask(backend, {1, 1, 0, 1, 0, 1, 1, 1});
  const Pass<B> pass{.mask = mask.view()};
  std::vector<double> x = normals(40, 1);
  const std::vector<double> dy = normals(40, 2);
  const auto first = runner.run(x, dy, pass);
  const auto losses = layer.read_losses(runner.tape());
  for (const Index t : {2, 4}) {
    CHECK(all_zero(rows_of(first.y, 5, t, 1)));
    CHECK(all_zero(rows_of(first.dx, 5, t, 1)));
    for (Index d = 0; d < 5; ++d) x[static_cast<std::size_t>(t * 5 + d)] += 3;
  }
  CHECK(runner.run(x, dy, pass) == first);
  CHECK(layer.read_losses(runner.tape()) == losses);
  CHECK(losses[0] > 0);
}

TEST_CASE_TEMPLATE("groups are independent: the second half cannot change the first", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const char* priority : {"first", "bpr"}) {
    const Moe<B> layer = make_moe(
        backend,
        Config<B>{.group = 8, .priority = priority, .capacity = CapacityFactor{.factor = 0.8}});
    Runner<Moe<B>> runner(layer, 16);
    std::vector<double> x = normals(80, 1);
    const std::vector<double> dy = normals(80, 2);
    const auto first = runner.run(x, dy);
    const std::vector<double> others = normals(40, 3);
    std::copy(others.begin(), others.end(), x.begin() + 40);
    const auto second = runner.run(x, dy);
    CHECK(rows_of(second.y, 5, 0, 8) == rows_of(first.y, 5, 0, 8));
    CHECK(rows_of(second.dx, 5, 0, 8) == rows_of(first.dx, 5, 0, 8));
    CHECK(rows_of(second.y, 5, 8, 8) != rows_of(first.y, 5, 8, 8));
    // Nor does it matter that they came together.
    Runner<Moe<B>> alone(layer, 8);
    x.resize(40);
    CHECK(alone.forward(x) == rows_of(first.y, 5, 0, 8));
  }
}

TEST_CASE_TEMPLATE("dropless token choice gives a token the same bits in any batch", B,
                   MOXIE_TEST_BACKENDS) {
  if constexpr (B::batch_invariant) {
    B backend = make_backend<B>();
    const Moe<B> layer = make_moe(backend, Config<B>{.width = 19, .hidden = 37});
    Runner<Moe<B>> runner(layer, 40);
    const std::vector<double> x = normals(40 * 19, 1);
    const auto whole = runner.forward(x, {.mode = Mode::eval});
    for (const Index n : {1, 3, 17}) {
      const auto part = runner.forward(rows_of(x, 19, 11, n), {.mode = Mode::eval});
      CHECK(part == rows_of(whole, 19, 11, n));
    }
    std::vector<double> turned;
    for (Index t = 39; t >= 0; --t)
      for (const double v : rows_of(x, 19, t, 1)) turned.push_back(v);
    const auto y = runner.forward(turned, {.mode = Mode::eval});
    for (Index t = 0; t < 40; ++t) CHECK(rows_of(y, 19, t, 1) == rows_of(whole, 19, 39 - t, 1));
  }
}

TEST_CASE_TEMPLATE("several passes may be pending, each with its tape", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  Config<B> c{.capacity = CapacityFactor{.factor = 1}, .importance = 0.3, .load = 0.2};
  c.noise.drawn.std = 1;
  const Moe<B> layer = make_moe(backend, c);
  const std::vector<double> dy = normals(40, 9);
  const auto x = [](std::uint64_t i) { return normals(40, i); };
  Runner<Moe<B>> alone(layer, 8);
  std::vector<Passed<typename B::Scalar>> wanted;
  for (std::uint64_t i = 0; i < 3; ++i) wanted.push_back(alone.run(x(i), dy, {.step = i}));
  Runner<Moe<B>> runners[] = {{layer, 8}, {layer, 20}, {layer, 8}};
  for (std::uint64_t i = 0; i < 3; ++i) runners[i].forward(x(i), {.step = i});
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}, std::size_t{0}})
    CHECK(runners[i].backward(dy) == wanted[i]);
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
        "are "
        "NaN or infinite");
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

TEST_CASE("the layer gives the same bits on 1, 2, 3 and 8 threads") {
  const auto check = [](auto scalar) {
    using T = decltype(scalar);
    using B = CpuBackend<T>;
    const std::vector<double> x = normals(300 * 20, 1);
    const std::vector<double> dy = normals(300 * 20, 2);
    const auto run = [&](B backend) {
      Config<B> c{.width = 20,
                  .experts = 5,
                  .group = 100,
                  .hidden = 70,
                  .priority = "bpr",
                  .capacity = CapacityFactor{.factor = 1},
                  .importance = 0.3,
                  .load = 0.2};
      c.noise.drawn.std = 1;
      const Moe<B> layer = make_moe(backend, c);
      Runner<Moe<B>> runner(layer, 300);
      const auto passed = runner.run(x, dy);
      return std::pair(passed, layer.read_losses(runner.tape()));
    };
    const auto alone = run(B());
    for (const int threads : {1, 2, 3, 8}) {
      CAPTURE(threads);
      ThreadPool pool(threads);
      CHECK(run(B(pool)) == alone);
    }
  };
  check(float{});
  check(double{});
}

TEST_CASE(
    "the dense oracle and the layer agree, in training and with another capacity in evaluation") {
  using B = CpuBackend<double>;
  B backend;
  for (const char* priority : {"first", "bpr"})
    for (const Index group : {0, 8}) {
      const Config<B> c{.group = group,
                        .output = 3,
                        .priority = priority,
                        .capacity = CapacityFactor{.factor = 1.25},
                        .importance = 0.3};
      const auto dense = make_dense(backend, c, Dropless{});
      Runner<DenseMoe<B>> by_tensors(dense, 16);
      const std::vector<double> x = normals(80, 1);
      const std::vector<double> dy = normals(48, 2);
      for (const Mode mode : {Mode::train, Mode::eval}) {
        Config<B> own = c;
        if (mode == Mode::eval) own.capacity = Dropless{};
        const Moe<B> layer = make_moe(backend, own);
        Runner<Moe<B>> by_lists(layer, 16);
        const auto a = by_tensors.run(x, dy, {.mode = mode});
        const auto b = by_lists.run(x, dy, {.mode = mode});
        check_near(a.y, b.y);
        check_near(a.dx, b.dx);
        check_near(a.gradients, b.gradients);
        CHECK(a.choice == b.choice);
      }
    }
}

TEST_CASE("Eigen's product gives the same numbers") {
  using B = CpuBackend<double>;
  B own;
  B eigen(CpuOptions{.product = Product::eigen});
  const Config<B> c{.capacity = CapacityFactor{.factor = 1}, .importance = 0.3};
  const Moe<B> a = make_moe(own, c);
  const Moe<B> b = make_moe(eigen, c);
  Runner<Moe<B>> on_own(a, 12);
  Runner<Moe<B>> on_eigen(b, 12);
  const auto wanted = on_own.run(normals(60, 1), normals(60, 2));
  const auto got = on_eigen.run(normals(60, 1), normals(60, 2));
  CHECK(got.choice == wanted.choice);
  check_near(got.y, wanted.y);
  check_near(got.dx, wanted.dx);
  check_near(got.gradients, wanted.gradients);
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

TEST_CASE("a layer that makes no sense says why") {
  using B = CpuBackend<double>;
  B backend;
  const auto text = [&](const Config<B>& c) {
    return message_of<config_error>([&] { (void)make_moe(backend, c); });
  };
  CHECK(text({.width = 0}) == "moxie::MoeLayer: shape.width is 0, expected >= 1");
  CHECK(text({.experts = 0}) == "moxie::MoeLayer: shape.experts is 0, expected >= 1");
  CHECK(text({.group = -2}) ==
        "moxie::MoeLayer: shape.group is -2, expected >= 0 (0 = all tokens of the pass)");
  CHECK(text({.router = {.k = 5}}) ==
        "moxie::TopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(text({.hidden = 0}) == "moxie::FeedForward: hidden is 0, expected >= 1");
  CHECK(text({.capacity = CapacityFactor{.factor = 0}}) ==
        "moxie::CapacityFactor: factor is 0, expected a number > 0");
  CHECK(text({.group = 4, .capacity = FixedCapacity{0}}) ==
        "moxie::MoeLayer: the capacity is 0 slots for a group of 4 tokens and 4 experts, expected "
        ">= 1");
  CHECK(text({.group = 4,
              .router = {.k = 1},
              .capacity = CapacityFactor{.factor = 0.4, .rounding = Rounding::half_even}}) ==
        "moxie::MoeLayer: the capacity is 0 slots for a group of 4 tokens and 4 experts, expected "
        ">= 1");
}

TEST_CASE("without a fixed group, a capacity is judged by the batch that comes") {
  using B = CpuBackend<double>;
  B backend;
  const Moe<B> layer = make_moe(
      backend,
      Config<B>{.router = {.k = 1},
                .capacity = CapacityFactor{.factor = 0.4, .rounding = Rounding::half_even}});
  Runner<Moe<B>> runner(layer, 20);
  CHECK(runner.forward(normals(100, 1)).size() == 100);  // 20 * 0.4 / 4 = 2 slots
  CHECK(message_of<config_error>([&] { runner.forward(normals(20, 1)); }) ==
        "moxie::MoeLayer: the capacity is 0 slots for a group of 4 tokens and 4 experts, expected "
        ">= 1");
}

TEST_CASE("a pass that does not fit says what was expected") {
  using B = CpuBackend<double>;
  using Weights = Routes<B>::Weights;
  B backend;
  const Moe<B> layer = make_moe(backend, Config<B>{.group = 4, .output = 3});
  auto tape = layer.make_tape(8);
  test::Buffer<double, B> memory(backend, 200, 0);
  test::Buffer<std::int32_t, B> ids(backend, 64, 0);
  const auto forward = [&](Index rows, Index cols, Index y_rows, Index y_cols,
                           const Pass<B>& pass = {}) {
    return message_of<error>([&] {
      layer.forward(ConstMatrix<B>(memory.view(rows, cols)), memory.view(y_rows, y_cols), tape,
                    pass);
    });
  };
  CHECK(forward(8, 6, 8, 3) == "moxie::MoeLayer::forward: x is [8 x 6], expected [rows x 5]");
  CHECK(forward(8, 5, 8, 5) == "moxie::MoeLayer::forward: y is [8 x 5], expected [8 x 3]");
  CHECK(forward(12, 5, 12, 3) ==
        "moxie::MoeLayer::forward: x has 12 rows, the tape was made for at most 8");
  CHECK(forward(6, 5, 6, 3) ==
        "moxie::MoeLayer: 6 tokens are not a multiple of the group of 4 (shape.group)");
  CHECK(forward(8, 5, 8, 3, {.mask = ids.view().middle(0, 7)}) ==
        "moxie::MoeLayer::forward: pass.mask has 7 entries, expected one for each of the 8 tokens");
  CHECK(forward(8, 5, 8, 3, {.pairs = ids.view(2, 3)}) ==
        "moxie::MoeLayer::forward: pass.pairs is [2 x 3], expected [pairs x 2]");

  const auto replay = [&](const Routes<B>& routes) {
    return forward(8, 5, 8, 3, along<B>(routes));
  };
  CHECK(replay({.rank = 4}) ==
        "moxie::MoeLayer::forward: pass.routes: rank is 4, expected 0 to 3 (the experts less one)");
  CHECK(replay({.choice = ids.view(7, 2)}) ==
        "moxie::MoeLayer::forward: pass.routes: choice is [7 x 2], expected [8 x at most 2]");
  CHECK(replay({.choice = ids.view(8, 3)}) ==
        "moxie::MoeLayer::forward: pass.routes: choice is [8 x 3], expected [8 x at most 2]");
  CHECK(
      replay({.choice = ids.view(8, 2), .weight = memory.view(8, 1), .weights = Weights::given}) ==
      "moxie::MoeLayer::forward: pass.routes: weight is [8 x 1], expected [8 x 2], one for each "
      "choice");
  CHECK(replay({.weights = Weights::given, .rank = 1}) ==
        "moxie::MoeLayer::forward: pass.routes: weight is [0 x 0], expected [8 x 1], one for each "
        "choice");

  const Moe<B> tight = make_moe(backend, Config<B>{.output = 3, .capacity = FixedCapacity{1}});
  auto small = tight.make_tape(8);
  CHECK(message_of<shape_error>([&] {
          const Routes<B> routes{.choice = ids.view(8, 2)};
          tight.forward(ConstMatrix<B>(memory.view(8, 5)), memory.view(8, 3), small,
                        along<B>(routes));
        }) ==
        "moxie::MoeLayer::forward: pass.routes may fill 16 rows, the tape has room for 4: use a "
        "capacity that holds them (Dropless in evaluation, say)");

  CHECK(replay({.choice = ids.view(8, 2)}) ==
        "moxie::MoeLayer::forward: pass.routes: token 0 has expert 0 twice, expected distinct experts");
  const test::Buffer<std::int32_t, B> far(backend, 8, 4);
  CHECK(replay({.choice = far.view(8, 1)}) ==
        "moxie::MoeLayer::forward: pass.routes: choice(0, 0) is 4, expected an expert from 0 to 3, or -1 for "
        "none");
  CHECK(forward(8, 5, 8, 3) == "no error");
  const auto backward = [&](Index rows, Index cols, Index dx_rows, Index dx_cols) {
    return message_of<error>([&] {
      layer.backward(ConstMatrix<B>(memory.view(rows, cols)), memory.view(dx_rows, dx_cols), tape);
    });
  };
  CHECK(backward(4, 3, 8, 5) ==
        "moxie::MoeLayer::backward: dy is [4 x 3], expected [8 x 3], the shape of this tape's last "
        "forward");
  CHECK(backward(8, 3, 8, 4) ==
        "moxie::MoeLayer::backward: dx is [8 x 4], expected [8 x 5] or empty");
  CHECK(forward(8, 5, 8, 3, {.gradients = Gradients::none}) == "no error");
  CHECK(backward(8, 3, 8, 5) ==
        "moxie::MoeLayer::backward: this tape or pass was made without gradients");
  CHECK(message_of<shape_error>([&] { layer.record(*tape, ids.view(8, 2), memory.view(8, 1)); }) ==
        "moxie::MoeLayer::record: choice is [8 x 2], weight [8 x 1], expected [8 x 2]");
}
