#include <doctest/doctest.h>

#include <vector>

#include "../../bench/routers/loops/plain_routing.hpp"
#include "moxie/core/random.hpp"

// The routing of the loops that bench_routers compares with: what it computes, and that none of it is left to one thread.

namespace {

using bench::at;
using moxie::Index;

/// Runs tasks last to first, or none, and counts them.
struct CountingExecutor final : moxie::Executor {
  bool runs = true;
  std::vector<Index> tasks;

  int workers() const noexcept override { return 2; }
  void run(Index n, moxie::TaskRef task) override {
    tasks.push_back(n);
    for (Index i = n; runs && i-- > 0;) task(i, 0);
  }
};

/// 96 tokens in 3 groups, 4 experts, 2 choices, 10 slots of an expert in a group.
const bench::LoopProblem problem{
    .tokens = 96, .group = 32, .experts = 4, .choices = 2, .capacity = 10};

void fill(bench::PlainRouting& r) {
  const moxie::Random random{1, 0, 0};
  for (std::size_t i = 0; i < r.probs.size(); ++i)
    r.probs[i] = static_cast<float>(random.normal(i));
}

}  // namespace

TEST_CASE("The loops' slots go to first choices, then to second ones, in the order of tokens") {
  bench::PlainRouting r(problem);
  fill(r);
  CountingExecutor executor;
  r.route(problem, executor);

  // expert by expert: assignments that found a slot, in the order in which they came
  std::vector<Index> expected;
  std::vector<Index> first;
  for (Index e = 0; e < problem.experts; ++e) {
    first.push_back(static_cast<Index>(expected.size()));
    for (Index begin = 0; begin < problem.tokens; begin += problem.group) {
      Index used = 0;
      for (Index k = 0; k < problem.choices; ++k)
        for (Index t = begin; t < begin + problem.group; ++t) {
          const Index a = t * problem.choices + k;
          if (r.expert[at(a)] != e) continue;
          if (used++ < problem.capacity) {
            CHECK(r.row[at(a)] == static_cast<Index>(expected.size()));
            expected.push_back(a);
          } else {
            CHECK(r.row[at(a)] == -1);
            CHECK(r.weight[at(a)] == 0);
          }
        }
    }
  }
  first.push_back(static_cast<Index>(expected.size()));
  REQUIRE(expected.size() < r.expert.size());  // some were dropped
  CHECK(r.first == first);
  CHECK(std::vector<Index>(r.taken.begin(), r.taken.begin() + first.back()) == expected);
}

TEST_CASE("The loops route tokens and groups on the executor, forward and backward") {
  bench::PlainRouting r(problem);
  fill(r);
  CountingExecutor executor;
  r.route(problem, executor);
  const Index tasks_of_tokens = bench::token_tasks(problem.tokens);
  REQUIRE(tasks_of_tokens > 1);
  CHECK(executor.tasks == std::vector<Index>{tasks_of_tokens, 3, 3});

  for (std::size_t a = 0; a < r.d_weight.size(); ++a) r.d_weight[a] = 1;
  executor.tasks.clear();
  executor.runs = false;
  r.backward(problem, executor);
  CHECK(executor.tasks == std::vector<Index>{tasks_of_tokens});
  for (const float d : r.d_logits) CHECK(d == 0);  // no token but on the executor
  executor.runs = true;
  r.backward(problem, executor);
  // d of a softmax: p (d - sum of p d over the experts that count)
  for (Index t = 0; t < problem.tokens; ++t) {
    const float* p = &r.probs[at(t * problem.experts)];
    std::vector<float> d(at(problem.experts));
    float mean = 0;
    for (Index a = t * problem.choices; a < (t + 1) * problem.choices; ++a)
      if (r.row[at(a)] >= 0) {
        d[at(r.expert[at(a)])] = 1;
        mean += p[r.expert[at(a)]];
      }
    for (Index e = 0; e < problem.experts; ++e)
      CHECK(r.d_logits[at(t * problem.experts + e)] ==
            doctest::Approx(p[e] * (d[at(e)] - mean)).epsilon(1e-6));
  }
}

TEST_CASE("Slices of columns cover each column once") {
  CountingExecutor executor;
  std::vector<int> seen(40);
  bench::for_each_column_slice(executor, 40, [&](Index begin, Index n) {
    for (Index i = begin; i < begin + n; ++i) ++seen[at(i)];
  });
  CHECK(seen == std::vector<int>(40, 1));
  CHECK(executor.tasks == std::vector<Index>{3});
}
