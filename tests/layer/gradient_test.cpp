// Gradients end to end, down to the input, and the laws of Layer.
#include "layer/layers.hpp"
#include "moxie/testing/gradcheck.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

template <class L>
void check_layer(const L& layer, Index rows, Index group,
                 const Pass<typename L::BackendType>& pass = {}) {
  using B = typename L::BackendType;
  testing::GradientOptions<B> options{
      .pass = pass, .most_inputs = 60, .most_per_entry = 20, .row_multiple = group > 0 ? group : 1};
  if constexpr (std::is_same_v<B, CpuBackend<double>>)
    options.allocations = [] { return static_cast<std::size_t>(allocations()); };
  const testing::GradientReport report = testing::check_gradients(layer, rows, options);
  CHECK_MESSAGE(report.passed, report.message);
}

}  // namespace

TEST_CASE_TEMPLATE("MoeLayer's gradients agree with central differences in every combination", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const AnyCapacity capacities[] = {Dropless{}, CapacityFactor{.factor = 0.7}, FixedCapacity{2},
                                    CapacityFactor{.factor = 1.25, .multiple_of = 4}};
  int number = 0;
  for (const AnyCapacity& capacity : capacities)
    for (const char* priority : {"first", "bpr"})
      for (const bool renormalize : {false, true})
        for (const double noise : {0.0, 1.0}) {
          ++number;
          const Index group = number % 3 == 0 ? 4 : 0;
          CAPTURE(number);
          Config<B> c{.group = group,
                      .router = {.k = 1 + number % 3, .renormalize = renormalize},
                      .priority = priority,
                      .capacity = capacity,
                      .importance = number % 2 == 0 ? 0.3 : 0,
                      .load = number % 4 < 2 ? 0.2 : 0};
          c.noise.drawn.std = noise;
          if (number % 5 == 0) c.router.combine_source = CombineSource::softmax_clean;
          if (number % 4 == 1) c.output = 3;
          check_layer(make_moe(backend, c), 8, group,
                      {.seed = 3, .step = static_cast<std::uint64_t>(number)});
        }
}

TEST_CASE_TEMPLATE(
    "MoeLayer's gradients agree in evaluation, with padding, one expert, all experts", B,
    MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  Config<B> c{.importance = 0.3, .load = 0.2};
  c.noise.drawn.std = 1;
  check_layer(make_moe(backend, c), 7, 0, {.mode = Mode::eval});
  check_layer(make_moe(backend, c), 7, 0, Pass<B>{.mode = Mode::train}.without_regularizers());
  c.router.k = 4;
  check_layer(make_moe(backend, c), 7, 0);
  c.experts = 1;
  c.router.k = 1;
  check_layer(make_moe(backend, c), 7, 0);
}

TEST_CASE("the dense layer's gradients agree, in training and evaluation") {
  CpuBackend<double> backend;
  const Config<CpuBackend<double>> c{
      .group = 4, .priority = "bpr", .capacity = FixedCapacity{2}, .importance = 0.3};
  const auto layer = make_dense(backend, c, Dropless{});
  check_layer(layer, 8, 4);
  check_layer(layer, 8, 4, {.mode = Mode::eval});
}

TEST_CASE_TEMPLATE("gradients agree under routes from outside", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const auto layer = make_moe(backend, Config<B>{.importance = 0.3});
  test::Buffer<std::int32_t, B> choice(backend, {0, 1, 3, -1, -1, 2, 1, 0, -1, -1, 2, 3});
  test::Buffer<double, B> weight(backend, {.5, 1, 2, 9, 9, .1, 1, 1, 9, 9, .2, .3});
  using Weights = typename Routes<B>::Weights;
  for (const Weights weights : {Weights::gate, Weights::given, Weights::unit})
    for (const Index rank : {-1, 1}) {
      Routes<B> routes{.weights = weights, .rank = rank};
      if (rank < 0) {
        routes.choice = choice.view(6, 2);
        routes.weight = weight.view(6, 2);
      } else {
        if (weights == Weights::given) routes.weight = weight.view(6, 1);
      }
      // Smaller passes would need routes of their own, so the gradients alone are looked at here.
      Runner<Moe<B>> runner(layer, 6);
      const std::vector<double> x = normals(30, 1);
      const std::vector<double> dy = normals(30, 2);
      const Pass<B> pass = Pass<B>{}.with(std::span(&routes, 1));
      const auto loss = [&](const std::vector<double>& at) {
        const double sum = testing::detail::dot(runner.forward(at, pass), dy);
        return sum + static_cast<double>(layer.read_losses(runner.tape())[0]);
      };
      const std::vector<double> dx = runner.run(x, dy, pass).dx;
      for (std::size_t i = 0; i < x.size(); ++i) {
        std::vector<double> up = x;
        std::vector<double> down = x;
        up[i] += 1e-5;
        down[i] -= 1e-5;
        CHECK(testing::near(dx[i], (loss(up) - loss(down)) / 2e-5, 1e-7));
      }
    }
}
