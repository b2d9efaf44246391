#include <doctest/doctest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/backend/cpu.hpp"
#include "moxie/backend/cpu/eigen_product.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/core/executor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/testing/expert_laws.hpp"
#include "support/backends.hpp"
#include "support/kernels.hpp"

using namespace moxie;

namespace {

/// Sizes at which products are cut: several panels and an edge of columns, several stretches of rows and chunks of gradients,
/// experts without rows, with few and with many.
constexpr Index width = 40, hidden = 1100;
const std::vector<std::int32_t> offsets{0, 3, 3, 40, 700};

template <class T>
struct Layer {
  using B = CpuBackend<T>;
  using X = FeedForward<Gelu>;

  B backend;
  X expert{.hidden = hidden};
  typename X::template State<B> state;
  Scope<B> scope;

  explicit Layer(const B& b) : backend(b), scope(root(backend)) {
    expert.declare(scope, ExpertShape{4, width}, state);
    p().initialize(3);
    const VectorView<T> values = p().edit();
    for (Index i = 0; i < values.size; ++i) values[i] *= T(2);
  }
  Layer(const Layer&) = delete;
  Parameters<B>& p() { return *scope.parameters; }
};

/// A pass with memory of its own.
template <class T>
struct Run {
  using B = CpuBackend<T>;

  Layer<T>& layer;
  Gradients gradients;
  typename Layer<T>::X::template Tape<B> tape;
  Memory<B> memory;
  std::vector<T> x, dy, out, dx;

  Run(Layer<T>& l, Gradients g) : layer(l), gradients(g) {
    Arena<B> measured(g);
    l.expert.bind(l.backend, measured, l.p(), l.state, rows(), tape);
    memory = Memory<B>(l.backend, measured.peak());
    Arena<B> arena(g, memory.data(), memory.bytes());
    l.expert.bind(l.backend, arena, l.p(), l.state, rows(), tape);
    for (auto* v : {&x, &dy, &out, &dx}) v->resize(static_cast<std::size_t>(rows() * width));
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<T>(std::sin(0.37 * static_cast<double>(i)));
      dy[i] = static_cast<T>(std::cos(0.11 * static_cast<double>(i)));
    }
  }
  static Index rows() { return offsets.back(); }
  Rows<B> rows_of(const std::vector<T>& v) const {
    return {{v.data(), rows(), width}, {}, {}, {offsets.data(), 5}, rows()};
  }
  void forward() {
    layer.expert.forward(layer.backend, layer.p(), layer.state, rows_of(x),
                         {out.data(), rows(), width}, tape, Pass<B>{});
  }
  void backward() {
    layer.expert.backward(layer.backend, layer.p(), layer.state, rows_of(x), rows_of(dy),
                          {dx.data(), rows(), width}, tape, gradients);
  }
  Run& both() {
    forward();
    if (gradients != Gradients::none) backward();
    return *this;
  }
};

template <class T>
std::vector<T> gradients_of(Layer<T>& layer) {
  const VectorView<T> g = layer.p().gradients();
  return {g.data, g.data + g.size};
}

/// Says what it is told; tasks run here.
class CountedExecutor final : public Executor {
 public:
  int count = 1;
  int workers() const noexcept override { return count; }
  void run(Index tasks, TaskRef task) override {
    for (Index i = 0; i < tasks; ++i) task(i, 0);
  }
};

bool has(Level level) { return level <= machine_level(); }

}  // namespace

TEST_CASE_TEMPLATE("Kept packed weights give the bits of weights that each product packs", T, float,
                   double) {
  for (const Level level : {Level::baseline, Level::avx2, Level::avx512}) {
    if (!has(level)) continue;
    CAPTURE(to_string(level));
    const CpuOptions options{.level = level};
    Layer<T> layer{CpuBackend<T>(options)};
    Run<T> packs(layer, Gradients::all);
    packs.both();
    const std::vector<T> gradients = gradients_of(layer);
    CHECK(layer.state.w1.copies.all->plain.bytes() == 0);

    Run<T> attack(layer, Gradients::input);
    attack.both();
    CHECK(layer.state.w1.copies.all->plain.bytes() ==
          static_cast<std::size_t>(4 * detail::packed_size<T>(width, hidden)) * sizeof(T));
    CHECK(layer.state.w1.copies.all->transposed.bytes() ==
          static_cast<std::size_t>(4 * detail::packed_size<T>(hidden, width)) * sizeof(T));
    CHECK(attack.out == packs.out);
    CHECK(attack.dx == packs.dx);
    Run<T> evaluation(layer, Gradients::none);
    CHECK(evaluation.both().out == packs.out);

    for (const int threads : {2, 3, 8}) {
      CAPTURE(threads);
      ThreadPool pool(threads);
      Layer<T> other{CpuBackend<T>(pool, options)};
      Run<T> all(other, Gradients::all);
      CHECK(all.both().out == packs.out);
      CHECK(all.dx == packs.dx);
      CHECK(gradients_of(other) == gradients);
      Run<T> kept(other, Gradients::input);
      CHECK(kept.both().out == packs.out);
      CHECK(kept.dx == packs.dx);
    }
  }
}

TEST_CASE_TEMPLATE("Products of experts agree with Eigen's", T, float, double) {
  Layer<T> layer{CpuBackend<T>()};
  Layer<T> eigen{CpuBackend<T>(CpuOptions{.product = &eigen_products})};
  Run<T> ours(layer, Gradients::all);
  Run<T> theirs(eigen, Gradients::all);
  ours.both();
  theirs.both();
  const auto difference = [](const std::vector<T>& a, const std::vector<T>& b) {
    double most = 0;
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      most = std::fmax(most, std::fabs(static_cast<double>(a[i] - b[i])));
      largest = std::fmax(largest, std::fabs(static_cast<double>(b[i])));
    }
    CHECK(largest > 0.1);
    return most / largest;
  };
  const double bound = 100 * static_cast<double>(std::numeric_limits<T>::epsilon());
  CHECK(difference(ours.out, theirs.out) < bound);
  CHECK(difference(ours.dx, theirs.dx) < bound);
  CHECK(difference(gradients_of(layer), gradients_of(eigen)) < bound);
}

TEST_CASE("A kept copy is made anew after edit, and a stale one is never read") {
  Layer<float> layer{CpuBackend<float>()};
  Run<float> evaluation(layer, Gradients::none);
  Run<float> training(layer, Gradients::all);
  evaluation.forward();
  const std::vector<float> before = evaluation.out;
  const VectorView<float> values = layer.p().edit();
  for (Index i = 0; i < values.size; ++i) values[i] *= 0.5F;
  training.forward();  // finds a stale copy and leaves it
  CHECK(training.out != before);
  evaluation.forward();
  CHECK(evaluation.out == training.out);
  training.forward();  // finds a copy of its version, and reads it
  CHECK(evaluation.out == training.out);
}

TEST_CASE("CpuOptions::copies none keeps nothing and changes no bit") {
  Layer<float> layer{CpuBackend<float>()};
  Layer<float> without{CpuBackend<float>(CpuOptions{.copies = WeightCopies::none})};
  Run<float> kept(layer, Gradients::input);
  Run<float> packs(without, Gradients::input);
  CHECK(kept.both().out == packs.both().out);
  CHECK(kept.dx == packs.dx);
  CHECK(without.state.w1.copies.all->plain.bytes() == 0);
}

TEST_CASE("Passes that find a stale copy at the same time all see the new weights") {
  constexpr int passes = 4;
  Layer<float> layer{CpuBackend<float>()};
  std::vector<Run<float>> runs;
  for (int i = 0; i < passes; ++i) runs.emplace_back(layer, Gradients::none);
  Run<float> alone(layer, Gradients::all);
  for (int round = 0; round < 5; ++round) {
    const VectorView<float> values = layer.p().edit();
    for (Index i = 0; i < values.size; ++i) values[i] *= 1.25F;
    std::vector<std::thread> threads;
    for (Run<float>& run : runs) threads.emplace_back([&run] { run.forward(); });
    for (std::thread& t : threads) t.join();
    alone.forward();
    for (const Run<float>& run : runs) CHECK(run.out == alone.out);
  }
}

TEST_CASE("A step allocates nothing, also when a copy is made anew") {
  ThreadPool pool(2);
  Layer<float> layer{CpuBackend<float>(pool)};
  Run<float> training(layer, Gradients::all);
  Run<float> attack(layer, Gradients::input);
  training.both();
  attack.both();
  const int before = test::allocations();
  (void)layer.p().edit();
  attack.both();
  training.both();
  CHECK(test::allocations() == before);
}

TEST_CASE("Products of experts work in the bytes that expert_scratch_bytes says") {
  ThreadPool pool(3);
  Layer<float> layer{CpuBackend<float>(pool)};
  const Run<float> evaluation(layer, Gradients::none);
  const Run<float> training(layer, Gradients::all);
  // Two panels of 1100 steps of 192 bytes.
  CHECK(detail::expert_scratch_bytes<float>(700, hidden, false) == 422400);
  CHECK(evaluation.tape.products.working.size == 3 * 422400);
  // A block of 256 rows of 512 + 16 elements, and 512 KiB of packed gradients.
  CHECK(detail::expert_scratch_bytes<float>(700, hidden, true) == 256 * 528 * 4 + 512 * 1024);
  CHECK(training.tape.products.working.size == 3 * (256 * 528 * 4 + 512 * 1024));
}

TEST_CASE("A tape that was made for other workers is refused, before anything is written") {
  CountedExecutor executor;
  Layer<float> layer{CpuBackend<float>(executor)};
  Run<float> run(layer, Gradients::all);
  executor.count = 2;
  CHECK_THROWS_WITH_AS(run.forward(),
                       "moxie::CpuBackend: the executor has 2 workers, the tape was made for 1",
                       config_error);
  CHECK(run.out == std::vector<float>(run.out.size(), 0.0F));
}
