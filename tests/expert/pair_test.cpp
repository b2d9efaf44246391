// Both products of a perceptron at once, stretch by stretch of rows, give the bits of one after the other.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/ops/expert_product.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"

namespace moxie::test::pair_test {

namespace {

using Ints = std::vector<std::int32_t>;

/// x [R, D] to act(x W1 + b1) [R, H] to [R, O] and, with the transposed weights, from [R, O] back to [R, D].
template <class T>
struct Pair {
  using B = CpuBackend<T>;
  static constexpr Index d = 11, h = 70, o = 19;

  B backend;
  Ints offset;
  Scope<B> scope;
  ExpertWeights<B> w1, w2;
  typename Parameters<B>::Id b1 = 0;
  ExpertMemory<B> memory;
  Memory<B> bytes;
  Ints index;
  std::vector<T> scale, x, pre, act, out, back, dx;

  Pair(const B& b, Ints offsets, Gradients gradients)
      : backend(b), offset(std::move(offsets)), scope(root(backend)) {
    const Index experts = static_cast<Index>(offset.size()) - 1;
    w1 = {scope.add_experts("w1", {experts, d, h}, Initializer::normal(0.3), false)};
    w2 = {scope.add_experts("w2", {experts, h, o}, Initializer::normal(0.3), false)};
    b1 = scope.add_experts("b1", {experts, h}, Initializer::normal(1.0), false);
    scope.parameters->initialize(3);
    Arena<B> measured(gradients);
    expert_product.bind(backend, measured, *scope.parameters, w1, w2, rows(), memory);
    bytes = Memory<B>(backend, measured.peak());
    Arena<B> arena(gradients, bytes.data(), bytes.bytes());
    expert_product.bind(backend, arena, *scope.parameters, w1, w2, rows(), memory);
    x.resize(static_cast<std::size_t>(rows() * d));
    for (std::int32_t r = 0; r < rows(); ++r) {
      index.push_back(static_cast<std::int32_t>(rows()) - 1 - r);
      scale.push_back(static_cast<T>(1 + 0.5 * (r % 3)));
    }
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<T>(std::sin(0.37 * static_cast<double>(i)));
  }
  Pair(const Pair&) = delete;

  Index rows() const { return offset.back(); }

  /// Both ways, by `run(backend, parameters, memory, first step, second step)`.
  template <class Run>
  void all(const Run& run) {
    for (auto* v : {&pre, &act, &back}) v->assign(static_cast<std::size_t>(rows() * h), T(-7));
    out.assign(static_cast<std::size_t>(rows() * o), T(-7));
    dx.assign(static_cast<std::size_t>(rows() * d), T(-7));
    const Parameters<B>& p = *scope.parameters;
    const Matrix<B> to_pre = view(pre, h);
    const Matrix<B> to_act = view(act, h);
    const Matrix<B> to_back = view(back, h);
    using Activate = BiasActivationEnd<B, Gelu>;
    using Derive = ActivationBackwardEnd<B, Gelu>;
    run(backend, p, memory,
        ExpertStep<B, Activate>{
            w1, gathered(view(x, d)), Op::none, to_pre, {p.value(b1), to_pre, to_act, true}},
        ExpertStep<B, NoEnd>{w2, from(to_act), Op::none, view(out, o), {}});
    run(backend, p, memory,
        ExpertStep<B, Derive>{w2, from(view(out, o)), Op::transpose, to_back, {to_pre, to_back}},
        ExpertStep<B, NoEnd>{w1, from(to_back), Op::transpose, view(dx, d), {}});
  }

 private:
  Matrix<B> view(std::vector<T>& v, Index cols) { return {v.data(), rows(), cols}; }
  /// The rows of m from the last to the first, each times its factor.
  Rows<B> gathered(ConstMatrix<B> m) const {
    Rows<B> own = from(m);
    own.index = {index.data(), rows()};
    own.scale = {scale.data(), rows()};
    return own;
  }
  Rows<B> from(ConstMatrix<B> m) const {
    return {m, {}, {}, {offset.data(), static_cast<Index>(offset.size())}, rows()};
  }
};

constexpr auto at_once = [](auto&&... a) { expert_pair(a...); };
constexpr auto one_by_one = [](auto&&... a) { ExpertPair::generic(a...); };

template <class T>
void check(const Ints& offset, CpuOptions options = {}) {
  ThreadPool three(3);
  for (const Gradients gradients : {Gradients::none, Gradients::input, Gradients::all}) {
    CAPTURE(static_cast<int>(gradients));
    Pair<T> wanted(CpuBackend<T>{options}, offset, gradients);
    wanted.all(one_by_one);
    Pair<T> alone(CpuBackend<T>{options}, offset, gradients);
    alone.all(at_once);
    Pair<T> shared(CpuBackend<T>{three, options}, offset, gradients);
    shared.all(at_once);
    for (const Pair<T>* own : {&alone, &shared}) {
      CHECK(own->pre == wanted.pre);
      CHECK(own->act == wanted.act);
      CHECK(own->out == wanted.out);
      CHECK(own->back == wanted.back);
      CHECK(own->dx == wanted.dx);
    }
    // The rows are there, and the last of them is what its sums are.
    const std::size_t last = static_cast<std::size_t>(wanted.rows()) - 1;
    Index e = static_cast<Index>(offset.size()) - 2;
    while (offset[static_cast<std::size_t>(e)] == wanted.rows()) --e;
    double sum = static_cast<double>(wanted.scope.parameters->value(wanted.b1)(e, 5));
    for (Index i = 0; i < Pair<T>::d; ++i)
      sum +=
          static_cast<double>(wanted.scale[last]) *
          static_cast<double>(wanted.x[static_cast<std::size_t>(i)]) *
          static_cast<double>(wanted.scope.parameters->value(wanted.w1.id)(e * Pair<T>::d + i, 5));
    CHECK(static_cast<double>(alone.pre[last * Pair<T>::h + 5]) ==
          doctest::Approx(sum).epsilon(1e-4));
  }
}

}  // namespace

// Two products are done at once from 256 rows for each of six tasks a worker on: 4608 of three workers.
TEST_CASE("two products at once: experts of few, no and many rows") {
  check<float>({0, 0, 3, 300, 300, 5056});
  check<double>({0, 257, 513, 513, 520, 5056});
}
TEST_CASE("two products at once: one expert, empty ones at the end, rows that begin late") {
  check<float>({0, 4700});
  check<float>({5, 5, 262, 4999, 4999, 4999});
}
TEST_CASE("two products at once, from weights that each task packs") {
  check<float>({0, 0, 3, 300, 300, 5056}, {.copies = WeightCopies::none});
}
TEST_CASE("two products at once on each level") {
  for (const Level level : {Level::baseline, Level::avx2}) {
    if (level > machine_level()) continue;
    CAPTURE(to_string(level));
    check<float>({0, 0, 3, 300, 300, 5056}, {.level = level});
  }
}
TEST_CASE("two products at once: fewer rows than are worth it") { check<float>({0, 7, 7, 300}); }

TEST_CASE(
    "one product after the other: rows are cut where there are fewer panels than workers could "
    "share") {
  check<float>({0, 4600});
  check<double>({5, 5, 9, 4599, 4599});
}

TEST_CASE("weights are packed before a training pass from 512 rows an expert on") {
  const auto packed_bytes = [](Gradients gradients, std::int32_t rows, WeightCopies copies) {
    return Pair<float>(CpuBackend<float>(CpuOptions{.copies = copies}), {0, 0, rows}, gradients)
        .memory.packed.size;
  };
  // [11, 70] in panels is 11 x 80 numbers, transposed 70 x 16; [70, 19] is 70 x 32, transposed 19 x 80
  CHECK(packed_bytes(Gradients::all, 1024, WeightCopies::packed) == 2 * (70 * 16 + 70 * 32) * 4);
  CHECK(packed_bytes(Gradients::all, 1023, WeightCopies::packed) == 0);
  CHECK(packed_bytes(Gradients::input, 1024, WeightCopies::packed) == 0);
  CHECK(packed_bytes(Gradients::none, 1024, WeightCopies::packed) == 0);
  CHECK(packed_bytes(Gradients::all, 1024, WeightCopies::none) == 0);
}

TEST_CASE("a tape that is bound again for fewer rows has no room left of the binding before") {
  using B = CpuBackend<float>;
  Pair<float> p(B{}, {0, 512, 1024}, Gradients::all);
  CHECK(p.memory.packed.size > 0);
  Arena<B> again(Gradients::all, p.bytes.data(), p.bytes.bytes());
  expert_product.bind(p.backend, again, *p.scope.parameters, p.w1, p.w2, 600, p.memory);
  CHECK(p.memory.packed.size == 0);
  CHECK(p.memory.packed.data == nullptr);
}

TEST_CASE(
    "products of experts refuse scratch bound for narrower weights, and gradients of another "
    "shape") {
  using B = CpuBackend<float>;
  B backend(CpuOptions{.copies = WeightCopies::none});
  const Scope<B> scope = root(backend);
  const ExpertWeights<B> small{scope.add_experts("small", {1, 4, 4}, Initializer::zeros(), false)};
  const ExpertWeights<B> wide{scope.add_experts("wide", {1, 64, 4}, Initializer::zeros(), false)};
  scope.parameters->initialize(1);
  ExpertMemory<B> memory;
  Arena<B> measured(Gradients::input);
  expert_product.bind(backend, measured, *scope.parameters, small, small, 9, memory);
  const Memory<B> bytes(backend, measured.peak());
  Arena<B> arena(Gradients::input, bytes.data(), bytes.bytes());
  expert_product.bind(backend, arena, *scope.parameters, small, small, 9, memory);
  const Ints offset{0, 9};
  std::vector<float> x(9 * 64, 1.0F);
  std::vector<float> out(9 * 4, 7.0F);
  const Rows<B> rows{ConstMatrix<B>(x.data(), 9, 64), {}, {}, {offset.data(), 2}, 9};
  const Matrix<B> to(out.data(), 9, 4);
  CHECK(message_of<shape_error>([&] {
          expert_product(backend, *scope.parameters, wide, memory, rows, Op::none, to, NoEnd{});
        }).starts_with("moxie::CpuBackend: product of experts: its scratch has "));
  CHECK(out == std::vector<float>(out.size(), 7.0F));

  const Rows<B> dy{ConstMatrix<B>(out.data(), 9, 4), {}, {}, {offset.data(), 2}, 9};
  std::vector<float> dw(64 * 4, 0.0F);
  const auto weights = [&](Index r, Index c) {
    return message_of<shape_error>(
        [&] { expert_weights_product(backend, memory, rows, dy, Matrix<B>(dw.data(), r, c)); });
  };
  CHECK(weights(63, 4) ==
        "moxie::CpuBackend: product of experts' weights: dw has 63 rows, expected 1 * 64 for rows "
        "64 wide");
  CHECK(weights(64, 3) ==
        "moxie::CpuBackend: product of experts' weights: dw has 3 columns, expected 4 as dy");
  CHECK(dw == std::vector<float>(dw.size(), 0.0F));
}

}  // namespace moxie::test::pair_test
