// What a layer refuses, and what it says.
#include "layer/layers.hpp"
#include "moxie/dispatch/padded.hpp"
#include "moxie/router/soft.hpp"
#include "support/failing_executor.hpp"

using namespace moxie;
using namespace moxie::test;

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
  CHECK(forward(10, 5, 10, 3) ==  // also too many for the tape, but no tape would hold them
        "moxie::MoeLayer: 10 tokens are not a multiple of the group of 4 (shape.group)");
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
  const test::Buffer<std::int32_t, B> two(backend,
                                          {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1});
  CHECK(message_of<shape_error>([&] {
          const Routes<B> routes{.choice = two.view(8, 2)};
          tight.forward(ConstMatrix<B>(memory.view(8, 5)), memory.view(8, 3), small,
                        along<B>(routes));
        }) ==
        "moxie::MoeLayer::forward: pass.routes may fill 16 rows, the tape has room for 4: use a "
        "capacity that holds them (Dropless in evaluation, say)");

  CHECK(replay({.choice = ids.view(8, 2)}) ==
        "moxie::MoeLayer::forward: pass.routes: token 0 has expert 0 twice, expected distinct "
        "experts");
  const test::Buffer<std::int32_t, B> far(backend, 8, 4);
  CHECK(replay({.choice = far.view(8, 1)}) ==
        "moxie::MoeLayer::forward: pass.routes: choice(0, 0) is 4, expected an expert from 0 to 3, "
        "-1 for none, or -2 - expert for one that was dropped");
  const test::Buffer<std::int32_t, B> gone(backend, 8, -6);
  CHECK(replay({.choice = gone.view(8, 1)})
            .starts_with("moxie::MoeLayer::forward: pass.routes: choice(0, 0) is -6, expected"));
  const test::Buffer<std::int32_t, B> both(
      backend, {2, -4, 2, -4, 2, -4, 2, -4, 2, -4, 2, -4, 2, -4, 2, -4});
  CHECK(replay({.choice = both.view(8, 2)}) ==
        "moxie::MoeLayer::forward: pass.routes: token 0 has expert 2 twice, expected distinct "
        "experts");
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
        "moxie::MoeLayer::backward: there was no forward on this tape since its last backward, or "
        "one without gradients (Pass::gradients)");
  CHECK(message_of<shape_error>([&] { layer.record(*tape, ids.view(8, 2), memory.view(8, 1)); }) ==
        "moxie::MoeLayer::record: choice is [8 x 2], weight [8 x 1], expected [8 x 2]");
}

TEST_CASE("a MoE layer goes back once a forward, and not after one that was refused") {
  using B = CpuBackend<double>;
  B backend;
  const Moe<B> layer = make_moe(backend, Config<B>{});
  Runner<Moe<B>> runner(layer, 8);
  const std::vector<double> x = normals(40, 1);
  const auto backward = [&] { return message_of<error>([&] { runner.backward(x); }); };
  const std::string_view refused =
      "moxie::MoeLayer::backward: there was no forward on this tape since";
  CHECK(backward().starts_with(refused));
  runner.forward(x);
  CHECK(backward() == "no error");
  CHECK(backward().starts_with(refused));

  runner.forward(x);
  std::vector<double> bad = x;
  bad[7] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(runner.forward(bad), numeric_error);
  CHECK(backward().starts_with(refused));
  runner.forward(x);
  const test::Buffer<std::int32_t, B> mask(backend, 3, 1);
  CHECK_THROWS_AS(runner.forward(x, {.mask = mask.view()}), shape_error);
  CHECK(backward() == "no error");  // nothing was written: the pass before is still there
}

TEST_CASE("a backward that threw halfway is not repeated: it has added some gradients") {
  FailingExecutor executor;
  using B = CpuBackend<double>;
  B backend(executor);
  const Moe<B> layer = make_moe(backend, Config<B>{});
  Runner<Moe<B>> runner(layer, 8);
  const std::vector<double> x = normals(40, 1);
  const auto backward = [&] { return message_of<std::exception>([&] { runner.backward(x); }); };
  runner.forward(x);
  const int before = executor.calls_left;
  CHECK(backward() == "no error");
  const int calls = before - executor.calls_left;
  CHECK(calls > 3);
  for (int fails = 0; fails < calls; ++fails) {
    CAPTURE(fails);
    executor.calls_left = FailingExecutor::endless;
    runner.forward(x);
    executor.calls_left = fails;
    CHECK(backward() == "no more");
    executor.calls_left = FailingExecutor::endless;
    CHECK(backward().starts_with(
        "moxie::MoeLayer::backward: there was no forward on this tape since"));
  }
}

TEST_CASE("a pass of more assignments than 32 bits can number is refused") {
  using B = CpuBackend<double>;
  B backend;
  const Moe<B> layer = make_moe(backend, Config<B>{.group = 4});
  constexpr Index tokens = Index{1} << 30;
  CHECK(message_of<shape_error>([&] { (void)layer.routing_shape(tokens, Mode::train); }) ==
        "moxie::MoeLayer: 1073741824 tokens are up to 2147483648 assignments, expected at most "
        "2147483647: they are numbered in 32 bits");
  CHECK(layer.routing_shape(tokens - 4, Mode::train).assignments == 2147483640);

  // Rows of padding have numbers as well: 4 experts, 3 slots for each 4 tokens
  const MoeLayer padded{backend, MoeShape{.width = 5, .experts = 4, .group = 4},
                        WithDispatcher{PaddedDispatcher{}, TopKRouter{.k = 1}}, FixedCapacity{3},
                        FeedForward<Gelu>{.hidden = 6}};
  CHECK(message_of<shape_error>([&] { (void)padded.routing_shape(tokens, Mode::train); }) ==
        "moxie::MoeLayer: 1073741824 tokens are dispatched to 3221225472 rows, expected at most "
        "2147483647: they are numbered in 32 bits");
  // Soft slots have no assignments
  const MoeLayer soft{backend, MoeShape{.width = 5, .experts = 4, .group = 4}, SoftRouter{},
                      FixedCapacity{1}, FeedForward<Gelu>{.hidden = 6}};
  CHECK(soft.routing_shape(tokens, Mode::train).rows == tokens);
}

TEST_CASE("memory that is not there is refused before it is touched") {
  using B = CpuBackend<double>;
  B backend;
  const Moe<B> layer = make_moe(backend, Config<B>{.output = 3});
  auto tape = layer.make_tape(8);
  test::Buffer<double, B> memory(backend, 100, 0);
  const auto nothing = [](Index rows, Index cols) { return Matrix<B>{nullptr, rows, cols, cols}; };
  const auto forward = [&](Matrix<B> x, Matrix<B> y) {
    return message_of<shape_error>([&] { layer.forward(ConstMatrix<B>(x), y, tape); });
  };
  const auto backward = [&](Matrix<B> dy, Matrix<B> dx) {
    return message_of<shape_error>([&] { layer.backward(ConstMatrix<B>(dy), dx, tape); });
  };
  const Matrix<B> x = memory.view(8, 5);
  const Matrix<B> y = memory.view(8, 3);
  CHECK(forward(nothing(8, 5), y) ==
        "moxie::MoeLayer::forward: x has 8 rows but no memory (a null pointer)");
  CHECK(forward(x, nothing(8, 3)) ==
        "moxie::MoeLayer::forward: y has 8 rows but no memory (a null pointer)");
  CHECK(forward(x, y) == "no error");
  CHECK(backward(nothing(8, 3), x) ==
        "moxie::MoeLayer::backward: dy has 8 rows but no memory (a null pointer)");
  CHECK(backward(y, {}) == "no error");  // dx is not wanted
  CHECK(forward(nothing(0, 5), nothing(0, 3)) == "no error");
  CHECK(backward(nothing(0, 3), nothing(0, 5)) == "no error");
}

TEST_CASE("a tape shows its routing only after a forward that ended") {
  using B = CpuBackend<double>;
  B backend;
  const Moe<B> layer = make_moe(backend, Config<B>{});
  Runner<Moe<B>> runner(layer, 8);
  struct Seen final : RoutingVisitor<B> {
    void sparse(const SparseRouting<B>& r) override { tokens = r.shape.tokens; }
    Index tokens = 0;
  } seen;
  const auto refused = [&] {
    seen.tokens = 0;
    const std::string why =
        message_of<shape_error>([&] { layer.visit_routing(runner.tape(), seen); });
    CAPTURE(why);
    CHECK(seen.tokens == 0);
    return why.starts_with("moxie::MoeLayer::visit_routing: there was no forward on this tape");
  };
  CHECK(refused());
  runner.forward(normals(40, 1));
  layer.visit_routing(runner.tape(), seen);
  CHECK(seen.tokens == 8);

  std::vector<double> x = normals(40, 1);
  x[7] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(runner.forward(x), numeric_error);
  CHECK(refused());
  runner.forward(normals(20, 1));
  layer.visit_routing(runner.tape(), seen);
  CHECK(seen.tokens == 4);
}
