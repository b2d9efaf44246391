// Losses whose sums over tokens a backend may take in parts (ops/group_sums.hpp), in groups of one token, of many and of
// the whole batch: against the loops in double, which the other tests of this family hold to numbers from elsewhere.
#include <doctest/doctest.h>

#include <random>
#include <string>

#include "regularizer/all_regularizers.hpp"
#include "regularizer/evaluated.hpp"

namespace long_groups_test {

using namespace moxie;
using moxie::test::Evaluated;
using moxie::testing::SparseFixture;

namespace {

struct LongGroups {
  Index groups, group, experts, choices;
  bool padded;
};
// Fewer tokens than a chunk of 256, as many, one more, and chunks with a rest; experts that fill no warp, one and two.
const std::vector<LongGroups> long_groups{
    {12, 1, 4, 2, false},  {12, 1, 4, 2, true},   {3, 5, 7, 1, true},     {2, 256, 33, 2, true},
    {1, 257, 5, 3, false}, {1, 700, 32, 2, true}, {1, 520, 65, 1, false}, {2, 530, 1, 1, true}};

/// Numbers that a float holds, so that every scalar sees the same.
std::vector<double> float_normals(Index n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> out;
  for (Index i = 0; i < n; ++i)
    out.push_back(static_cast<double>(static_cast<float>(normal(random))));
  return out;
}

/// The case's routing, the same on every backend.
template <class B>
struct Routed {
  SparseFixture<B> f;
  TopKRouter router;

  Routed(B& backend, const LongGroups& c)
      : f(backend,
          {.tokens = c.groups * c.group,
           .experts = c.experts,
           .choices = c.choices,
           .group = c.group},
          {.noisy = true}),
        router{.k = c.choices} {
    const Index tokens = c.groups * c.group;
    f.set_logits(float_normals(tokens * c.experts, 1));
    f.set_noisy_logits(float_normals(tokens * c.experts, 2));
    std::vector<std::int32_t> mask;
    for (Index t = 0; c.padded && t < tokens; ++t) mask.push_back(t % 7 == 3 ? 0 : 1);
    f.set_mask(mask);
    router.route(backend, f.context, f.routing);
    f.routing.noise_std = 0.5;
  }
};

/// f(regularizer) for one of each kind of sum over tokens.
template <class F>
void for_each_token_sum(const F& f) {
  f(Importance{.weight = 0.7});
  f(TutelImportance{.weight = 0.7});
  f(NoisyLoad{.weight = 0.7});
  f(TutelLoad{.weight = 0.7});
  f(SwitchBalance{.weight = 0.7});
  f(TopKBalance{.weight = 0.7});
  f(RouterZ{.weight = 0.7});
  f(LocalEntropy{.weight = 0.7});
  f(MutualInformation{.weight = 0.7});
}

}  // namespace

TEST_CASE_TEMPLATE("losses of short, long and many groups are those of the loops in double", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  CpuBackend<double> loops;
  const double by = sizeof(T) == sizeof(float) ? 2e-5 : 1e-11;
  for (const LongGroups& c : long_groups) {
    Routed<B> got(backend, c);
    Routed<CpuBackend<double>> wanted(loops, c);
    for_each_token_sum([&](const auto& regularizer) {
      const std::string where = std::string(regularizer.name) + ": " + std::to_string(c.groups) +
                                " groups of " + std::to_string(c.group) + " tokens, " +
                                std::to_string(c.experts) + " experts";
      CAPTURE(where);
      const Evaluated<B> a(backend, regularizer, got.f, got.router);
      const Evaluated<CpuBackend<double>> b(loops, regularizer, wanted.f, wanted.router);
      CHECK(testing::near(a.loss, b.loss, by));
      REQUIRE(a.d_logits.size() == b.d_logits.size());
      for (std::size_t i = 0; i < a.d_logits.size(); ++i)
        if (!testing::near(static_cast<double>(a.d_logits[i]), b.d_logits[i], by))
          CHECK(static_cast<double>(a.d_logits[i]) == b.d_logits[i]);
      // Nothing of what accumulate overwrites is left, and a second pass has the bits of the first.
      for (const T sum : a.sums) CHECK(sum != T(99));
      CHECK(Evaluated<B>(backend, regularizer, got.f, got.router).sums == a.sums);
    });
  }
}

}  // namespace long_groups_test
