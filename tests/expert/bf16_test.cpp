#include <doctest/doctest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/backend/cpu.hpp"
#include "moxie/backend/cpu/bf16.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/testing/expert_laws.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"
#include "support/skip.hpp"

namespace bf16_test {

using namespace moxie;
using B = CpuBackend<float>;

namespace {

/// One product of experts, from weights as they are or in bf16.
struct OneProduct {
  B backend;
  Index inner, cols;
  std::vector<std::int32_t> offset;
  Scope<B> scope;
  ExpertWeights<B> w, same;
  ExpertMemory<B> memory;
  Memory<B> bytes;
  std::vector<float> x, out;

  OneProduct(const B& b, Index k, Index n, std::vector<std::int32_t> offsets)
      : backend(b), inner(k), cols(n), offset(std::move(offsets)), scope(root(backend)) {
    const auto experts = static_cast<Index>(offset.size()) - 1;
    w = {scope.add_experts("w", {experts, inner, cols}, Initializer::normal(1.0), false)};
    same = {scope.add_experts("same", {experts, inner, cols}, Initializer::zeros(), false)};
    scope.parameters->initialize(5);
    Arena<B> measured(Gradients::none);
    expert_product.bind(backend, measured, *scope.parameters, w, same, offset.back(), memory);
    bytes = Memory<B>(backend, measured.peak());
    Arena<B> arena(Gradients::none, bytes.data(), bytes.bytes());
    expert_product.bind(backend, arena, *scope.parameters, w, same, offset.back(), memory);
    x.resize(static_cast<std::size_t>(offset.back() * inner));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i)));
    out.resize(static_cast<std::size_t>(offset.back() * cols));
  }
  OneProduct(const OneProduct&) = delete;
  const std::vector<float>& operator()() {
    const Rows<B> rows{{x.data(), offset.back(), inner},
                       {},
                       {},
                       {offset.data(), static_cast<Index>(offset.size())},
                       offset.back()};
    expert_product(backend, *scope.parameters, w, memory, rows, Op::none,
                   Matrix<B>{out.data(), offset.back(), cols}, NoEnd{});
    return out;
  }
  float weight(Index e, Index p, Index j) {
    return scope.parameters->value(w.id)(e * inner + p, j);
  }
};

constexpr CpuOptions narrow{.copies = bf16_copies};

}  // namespace

TEST_CASE("A product from bf16 weights lies within the bound of the rounding of its factors") {
  // Factors are off by at most u = 2^-8 of themselves, sums by that of their terms.
  constexpr double u = 1.0 / 256;
  for (const Level level : {Level::baseline, Level::avx2, Level::avx512}) {
    if (level > machine_level()) continue;
    CAPTURE(to_string(level));
    for (const auto& shape : {std::pair<Index, Index>{1, 1}, {33, 50}, {64, 96}, {517, 70}}) {
      const Index inner = shape.first;
      const Index cols = shape.second;
      CAPTURE(inner);
      const std::vector<std::int32_t> offset{0, 1, 1, 9, 140};
      OneProduct product(B(CpuOptions{.level = level, .copies = bf16_copies}), inner, cols, offset);
      const std::vector<float>& out = product();
      double worst = 0;
      double typical = 0;
      for (Index e = 0; e < 4; ++e) {
        for (Index r = offset[static_cast<std::size_t>(e)];
             r < offset[static_cast<std::size_t>(e + 1)]; ++r) {
          for (Index j = 0; j < cols; ++j) {
            double sum = 0;
            double size = 0;
            for (Index p = 0; p < inner; ++p) {
              const double term =
                  static_cast<double>(product.x[static_cast<std::size_t>(r * inner + p)]) *
                  static_cast<double>(product.weight(e, p, j));
              sum += term;
              size += std::fabs(term);
            }
            const double error =
                std::fabs(static_cast<double>(out[static_cast<std::size_t>(r * cols + j)]) - sum);
            worst = std::fmax(worst, error / (size + 1e-30));
            typical += error / (size + 1e-30) / static_cast<double>(out.size());
          }
        }
      }
      CHECK(worst <= 2 * u + u * u + 1e-5);
      CHECK(typical > 1e-6);  // it is rounded
    }
  }
}

TEST_CASE(
    "The instruction for pairs of bf16 gives what widening gives, but for the rounding of rows") {
  if (!detail::machine_has_dot()) MOXIE_SKIP("this machine has no AVX512-BF16");
  for (const auto& shape : {std::pair<Index, Index>{1, 1}, {33, 50}, {64, 96}, {517, 70}}) {
    const Index inner = shape.first;
    const Index cols = shape.second;
    const std::vector<std::int32_t> offset{0, 1, 1, 9, 140};
    OneProduct product(B(CpuOptions{.level = Level::avx512, .copies = bf16_copies}), inner, cols,
                       offset);
    // Rows that bf16 has: nothing is left to round.
    for (float& x : product.x) x = std::nearbyint(100 * x);
    product();
    const detail::CpuExpertProduct<float> twin(product.backend);
    const auto* const copy =
        static_cast<const std::uint32_t*>(twin.narrowed(*product.scope.parameters, product.w, 4));
    std::vector<std::uint32_t> scratch(static_cast<std::size_t>(detail::PairTask::size(inner)));
    std::vector<float> out(product.out.size());
    for (Index e = 0; e < 4; ++e) {
      product.backend.at_level(
          detail::PairTask{{product.x.data(), inner, Op::none, nullptr, nullptr},
                           copy,
                           true,
                           scratch.data(),
                           {out.data(), offset.back(), cols},
                           inner,
                           {},
                           Level::avx512,
                           e,
                           offset[static_cast<std::size_t>(e)],
                           offset[static_cast<std::size_t>(e + 1)],
                           0,
                           cols});
    }
    double worst = 0;
    for (std::size_t i = 0; i < out.size(); ++i)
      worst = std::fmax(worst, std::fabs(static_cast<double>(out[i] - product.out[i])));
    CHECK(worst <= 1e-6 * 400 * static_cast<double>(inner));
  }
}

TEST_CASE("Numbers that bf16 has are multiplied exactly, and what is not finite stays so") {
  OneProduct product(B(narrow), 3, 2, {0, 3});
  const VectorView<float> w = product.scope.parameters->edit();
  const float weights[6] = {1.0F, -2.0F, 0.5F, 3.0F, -0.25F, 96.0F};
  for (Index i = 0; i < 6; ++i) w[i] = weights[i];
  const float inf = HUGE_VALF;
  product.x = {1, 2, 4, inf, 0, 0, 0, NAN, 0};
  const std::vector<float>& out = product();
  CHECK(out[0] == 1.0F);  // 1 + 2 * 0.5 - 4 * 0.25
  CHECK(out[1] == 388.0F);
  CHECK(out[2] == inf);
  CHECK(out[3] == -inf);
  CHECK(std::isnan(out[4]));
  CHECK(std::isnan(out[5]));
}

TEST_CASE(
    "bf16 weights are made anew after edit, give the same bits on any number of threads, and "
    "allocate nothing") {
  const std::vector<std::int32_t> offset{0, 1, 30, 400};
  OneProduct alone{B(narrow), 96, 500, offset};
  const std::vector<float> before = alone();
  CHECK(alone.w.copies.all->plain.bytes() == 0);
  CHECK(alone.w.copies.all->narrow.bytes() == 3 * 48 * 512 * 4);
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    OneProduct together{B(pool, narrow), 96, 500, offset};
    CHECK(together() == before);
  }
  const VectorView<float> w = alone.scope.parameters->edit();
  const int count = test::allocations();
  for (Index i = 0; i < w.size; ++i) w[i] *= 2;
  alone();
  CHECK(test::allocations() == count);
  bool twice = true;
  for (std::size_t i = 0; i < before.size(); ++i) twice = twice && alone.out[i] == 2 * before[i];
  CHECK(twice);
  // A row has the same bits without its neighbours.
  OneProduct few{B(narrow), 96, 500, {0, 1, 2, 3}};
  few.scope.parameters->edit();
  for (Index p = 0; p < 96; ++p)
    few.x[static_cast<std::size_t>(p)] = alone.x[static_cast<std::size_t>(p)];
  const std::vector<float>& row = few();
  CHECK(std::vector<float>(row.begin(), row.begin() + 500) ==
        std::vector<float>(before.begin(), before.begin() + 500));
}

TEST_CASE("Weights of a layer that made no bf16 copy are refused") {
  OneProduct product{B(narrow), 33, 50, {0, 9}};
  product.w = ExpertWeights<B>{product.w.id};
  CHECK(test::message_of<config_error>([&] { product(); })
            .starts_with(
                "moxie::CpuBackend: the tape is for narrow weights of another layer or backend"));
}

TEST_CASE("Tapes with gradients do not read bf16 weights, and double has none") {
  B backend(narrow);
  const FeedForward<Gelu> expert{.hidden = 24};
  FeedForward<Gelu>::State<B> state;
  FeedForward<Gelu>::Tape<B> tape;
  const Scope<B> scope = root(backend);
  expert.declare(scope, {2, 8}, state);
  scope.parameters->initialize(1);
  for (const Gradients gradients : {Gradients::none, Gradients::input, Gradients::all}) {
    Arena<B> measured(gradients);
    expert.bind(backend, measured, *scope.parameters, state, 5, tape);
    CHECK(tape.products.narrow == (gradients == Gradients::none));
    CHECK(tape.products.keep == (gradients != Gradients::all));
  }
  CHECK(test::message_of<config_error>([] { CpuBackend<double> b(narrow); }) ==
        "moxie::CpuBackend: CpuOptions::copies is bf16, which only CpuBackend<float> has");
}

}  // namespace bf16_test
