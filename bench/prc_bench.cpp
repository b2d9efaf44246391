#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "moxie/backend/cpu.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/testing/sparse_fixture.hpp"

// What Pairwise Router Consistency adds to a training step of one layer, by the number of experts: sums,
// loss and gradient over 2,048 pairs of 4,096 tokens (64 inputs of 64 tokens), one thread.

namespace {

using B = moxie::CpuBackend<float>;
using moxie::Index;

/// range(0): experts.
void consistency(benchmark::State& state, moxie::ConsistencyDiagonal form) {
  constexpr Index tokens = 4096, pairs = tokens / 2;
  const Index experts = state.range(0);
  B cpu;
  moxie::testing::SparseFixture<B> f(cpu, {.tokens = tokens, .experts = experts, .choices = 1});
  std::vector<double> probs(static_cast<std::size_t>(tokens * experts));
  for (std::size_t i = 0; i < probs.size(); ++i)
    probs[i] = (1 + std::sin(0.37 * static_cast<double>(i))) / static_cast<double>(experts);
  f.set_probs(probs);
  std::vector<std::int32_t> rows;
  for (Index i = 0; i < pairs; ++i) {
    rows.push_back(static_cast<std::int32_t>(i));
    rows.push_back(static_cast<std::int32_t>(pairs + i * 7 % pairs));
  }
  f.set_pairs(rows);
  f.zero_gradients();
  const moxie::PairwiseConsistency prc{.form = form, .tokens_per_image = 64};
  std::vector<float> sums(static_cast<std::size_t>(prc.sums(f.shape())));
  float loss = 0;
  const moxie::Vector<B> own(sums.data(), static_cast<Index>(sums.size()));
  for (auto _ : state) {
    prc.accumulate(cpu, f.context, f.routing, own);
    prc.loss(cpu, f.context, f.routing, moxie::ConstVector<B>(own), moxie::Vector<B>(&loss, 1));
    prc.loss_backward(cpu, f.context, f.routing, moxie::ConstVector<B>(own), f.gradients);
    benchmark::DoNotOptimize(loss);
  }
}
BENCHMARK_CAPTURE(consistency, matrix, moxie::ConsistencyDiagonal::matrix)
    ->RangeMultiplier(4)
    ->Range(8, 512)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(consistency, position, moxie::ConsistencyDiagonal::position)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond);

}  // namespace
