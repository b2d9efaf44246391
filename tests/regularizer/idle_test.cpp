// Losses of pairs that are off: no loop over tokens, pairs or experts runs.
#include <doctest/doctest.h>

#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/regularizer/pairwise_top_k_jsd.hpp"
#include "moxie/regularizer/with_decay.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/kernels.hpp"

using namespace moxie;

namespace {

/// Counts the loops that run on it.
struct Counting : CpuBackend<double> {
  int loops = 0;

  template <class... A>
  void for_each(const A&... a) {
    ++loops;
    CpuBackend<double>::for_each(a...);
  }
};

/// Loops of a regularizer's three parts, over two pairs or none.
template <class A>
int loops_of(const A& a, bool with_pairs, double progress = 0.5) {
  Counting backend;
  testing::SparseFixture<Counting> f(backend, {.tokens = 4, .experts = 3, .choices = 1});
  f.set_probs(std::vector<double>(12, 1.0 / 3));
  f.set_pairs(with_pairs ? std::vector<std::int32_t>{0, 2, 1, 3} : std::vector<std::int32_t>{});
  f.context.progress = progress;
  std::vector<double> sums(static_cast<std::size_t>(a.sums(f.shape())), 9);
  double loss = 9;
  const Vector<Counting> own(sums.data(), static_cast<Index>(sums.size()));
  f.zero_gradients();
  backend.loops = 0;
  a.accumulate(backend, f.context, f.routing, own);
  a.loss(backend, f.context, f.routing, ConstVector<Counting>(own), Vector<Counting>(&loss, 1));
  a.loss_backward(backend, f.context, f.routing, ConstVector<Counting>(own), f.gradients);
  CHECK((backend.loops > 0 || loss == 0));
  return backend.loops;
}

template <class A>
void check_idle(A on) {
  CAPTURE(A::name);
  CHECK(loops_of(on, true) >= 3);
  CHECK(loops_of(on, false) == 0);
  CHECK(loops_of(WithDecay{LossDecay::step, on}, true, 0.4) == loops_of(on, true));
  CHECK(loops_of(WithDecay{LossDecay::step, on}, true, 0.6) == 0);
  CHECK(loops_of(WithDecay{LossDecay::linear, on}, true, 1) == 0);
  on.weight = 0;
  CHECK(loops_of(on, true) == 0);
}

}  // namespace

TEST_CASE("losses of pairs run no loop without weight, without pairs, or when the weight is gone") {
  check_idle(PairwiseConsistency{});
  check_idle(PairwiseConsistency{.form = ConsistencyDiagonal::position, .tokens_per_image = 2});
  check_idle(PairwiseL2{});
  check_idle(PairwiseJsd{});
  check_idle(PairwiseTopKJsd{});
  CHECK(loops_of(PairwiseConsistency{.diagonal = 0, .off_diagonal = 0}, true) == 0);
}
