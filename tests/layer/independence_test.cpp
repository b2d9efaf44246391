// What the numbers of a token do not depend on: padding, other groups, the batch, other tapes,
// threads.
#include "layer/layers.hpp"
#include "moxie/backend/thread_pool.hpp"

using namespace moxie;
using namespace moxie::test;

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
